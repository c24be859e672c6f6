"""Arguments of ``linf-export verify``."""

import argparse
from pathlib import Path

from .common import add_data, add_run

SUMMARY = "recompute what an ONNX file certifies, from the file only"
DESCRIPTION = """\
Reads the net in an ONNX file, writes the file anew from it, and compares everything that a certificate rests on.
Then it runs test images through the file, and compares radii and accuracies. What cannot be recomputed is a failure."""
EPILOG = """\
examples:
  linf-export verify net.onnx                   with the data set that the file names, if it needs no folder
  linf-export verify net.onnx --data ~/data     with that data set, read from ~/data
  linf-export verify net.onnx --data my.npz     with your own data, on which the net was trained

exit status: 0 if everything agrees; 1 if the file contradicts itself, or holds too little to be recomputed; 2 if it is
not an ONNX file, its images are not available, or onnxruntime cannot run it here in float32.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="FILE", help="ONNX file with an output logits")
    add_data(parser)
    add_run(parser)
