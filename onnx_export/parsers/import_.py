"""Arguments of ``linf-export import``."""

import argparse
from pathlib import Path

from .common import DATA_SETS

SUMMARY = "write an ONNX file as a checkpoint; the net can then be bounded"
DESCRIPTION = "Turns the graph of an ONNX file back into layers, or names the node for which it cannot."
EPILOG = """\
examples:
  linf-export import net.onnx -o net.pt
  linf-export import broadcast.onnx -o net.pt --data mnist

It reads distances and sorted sums (nodes of the domain linf, their inlined bodies, and distances as Unsqueeze, Sub,
Abs, ReduceMax), Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, slices that give the middle of an image, sums with one
constant for each channel, and products with one positive constant. A file that takes bytes becomes a net that takes
pixels in [0, 1].

Nothing in FILE is trusted: functions of the domain linf must be those that this program writes.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "onnx", type=Path, metavar="FILE", help="ONNX file with one input, and with one output or an output logits"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="CHECKPOINT", help="file to write; missing folders are made"
    )
    parser.add_argument(
        "--data",
        choices=DATA_SETS,
        metavar="NAME",
        help=f"data set that the checkpoint names, if FILE names none: {', '.join(DATA_SETS)}",
    )
    parser.add_argument("--force", action="store_true", help="replace CHECKPOINT if it exists")
