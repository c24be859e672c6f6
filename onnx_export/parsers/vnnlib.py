"""Arguments of ``linf-export vnnlib``."""

import argparse
from pathlib import Path

from ..writing.settings import VERIFIER_FLAVOURS
from .common import add_data, epsilon, positive

SUMMARY = "write a checkpoint and test images as a benchmark in the layout of VNN-COMP"
DESCRIPTION = """\
Writes a folder with ONNX files for verifiers, properties in VNN-LIB 1.0 and 2.0, instances.csv, and
generate_properties.py, which writes the properties for another seed."""
EPILOG = """\
examples:
  linf-export vnnlib results/digits/linf-dist.pt --eps 0.05 --eps 0.1 --out benchmark
  linf-export vnnlib mnist.pt --eps 0.3 --data-dir ~/data --count 50 --flavour relu --out benchmark
  cd benchmark && python generate_properties.py 42
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="file that training wrote, with a net at p = ∞"
    )
    parser.add_argument(
        "--eps",
        type=epsilon,
        action="append",
        required=True,
        help="ε in (0, 1], as 0.1 or 8/255; may be given several times",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder that is written")
    parser.add_argument("--name", help="name of the nets and properties (default: the name of FOLDER)")
    parser.add_argument("--count", type=positive, default=20, metavar="N", help="number of images (default: 20)")
    parser.add_argument(
        "--pool",
        type=positive,
        default=1000,
        metavar="N",
        help="number of images from which they are chosen (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed that chooses the images (default: 0)")
    parser.add_argument(
        "--timeout", type=positive, default=300, metavar="SECONDS", help="time-out of an instance (default: 300)"
    )
    parser.add_argument(
        "--flavour",
        choices=VERIFIER_FLAVOURS,
        action="append",
        help="flavour of the nets; may be given several times (default: both)",
    )
    parser.add_argument(
        "--kind",
        choices=("any", "one"),
        action="append",
        help="kind of the properties: against any other class, or against one that the seed chooses (default: any)",
    )
    parser.add_argument("--plain", action="store_true", help="do not gzip the files")
    add_data(parser)
    parser.add_argument("--force", action="store_true", help="replace a benchmark in FOLDER")
