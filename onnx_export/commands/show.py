"""``linf-export show``."""

import argparse

from ..files.load import load
from ..reading.show import summary


def run(args: argparse.Namespace) -> int:
    print(summary(load(args.onnx), args.onnx))
    return 0
