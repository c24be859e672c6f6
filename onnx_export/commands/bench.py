"""``linf-export bench``."""

import argparse

from ..bench import command
from ..bench.command import DESCRIPTION, add_arguments

__all__ = ["DESCRIPTION", "EPILOG", "SUMMARY", "add_arguments", "run"]

SUMMARY = "time bodies, native operators and the export of a large net"
EPILOG = """\
examples:
  linf-export bench --quick
  linf-export bench --out results/onnx
"""


def run(args: argparse.Namespace) -> int:
    return command.run(args, "linf-export bench")
