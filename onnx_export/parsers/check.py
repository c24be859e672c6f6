"""Arguments of ``linf-export check``."""

import argparse
from pathlib import Path

from .common import add_data, add_model, add_run

SUMMARY = "compare an ONNX file with its net in PyTorch on test images"
DESCRIPTION = "Runs test images through onnxruntime and through PyTorch, and compares the results."
EPILOG = """\
examples:
  linf-export check net.onnx                    with the data set that the file names, if it needs no folder
  linf-export check net.onnx --data ~/data      with that data set, read from ~/data
  linf-export check net.onnx --data mnist --data-dir ~/data --limit 1000
  linf-export check net.onnx --data my.npz      with your own data, on which the net was trained
  linf-export check net.onnx --model net.py:net --weights net.pt --data my.npz     with the net of your own

exit status: 0 if everything agrees; 1 if logits, predictions or radii do not agree; 2 if nothing was compared.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("onnx", type=Path, metavar="FILE", help="ONNX file that this program wrote")
    add_data(parser)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="CHECKPOINT", help="the checkpoint, if it is not where FILE says"
    )
    add_model(parser)
    add_run(parser)
