"""``linf-export show``."""

import argparse
from pathlib import Path

from ..files.load import load
from ..reading.show import summary

SUMMARY = "say what an ONNX file holds"
DESCRIPTION = "Prints inputs and outputs, the layers from the one to the other, the file's functions and its metadata."
EPILOG = """\
examples:
  linf-export show net.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="FILE", help="any ONNX file")


def run(args: argparse.Namespace) -> int:
    print(summary(load(args.onnx), args.onnx))
    return 0
