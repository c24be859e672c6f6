"""Arguments of ``linf-export abcrown``."""

import argparse
from pathlib import Path

from .common import DATA_SETS, epsilon, positive

SUMMARY = "write a checkpoint as a problem for the verifier α,β-CROWN"
DESCRIPTION = "Writes problem.py and config.yaml, which ask: does the class of a test image change within ε?"
EPILOG = """\
examples:
  linf-export abcrown results/digits/linf-dist.pt --eps 0.1 --out problem
  linf-export abcrown mnist.pt --eps 0.3 --data-dir ~/data --samples 1000 --out problem

Then, in an environment with linf-plugin and α,β-CROWN:
  python abcrown.py --config problem/config.yaml [--device cpu|cuda] [--epsilon E] [--end N]
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="file that training wrote")
    parser.add_argument("--eps", type=epsilon, required=True, help="ε in (0, 1], as 0.1 or 8/255")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder for the two files")
    parser.add_argument(
        "--data",
        choices=DATA_SETS,
        metavar="NAME",
        help=f"data set, if it is not the one that CHECKPOINT names: {', '.join(DATA_SETS)}",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")
    parser.add_argument(
        "--samples", type=positive, default=100, metavar="N", help="number of images, from the first on (default: 100)"
    )
    parser.add_argument("--force", action="store_true", help="replace the two files if they exist")
