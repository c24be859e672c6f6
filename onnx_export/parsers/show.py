"""Arguments of ``linf-export show``."""

import argparse
from pathlib import Path

SUMMARY = "show what is in an ONNX file"
DESCRIPTION = "Prints the inputs, the outputs, the layers, the functions and the metadata of an ONNX file."
EPILOG = """\
examples:
  linf-export show net.onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="FILE", help="any ONNX file")
