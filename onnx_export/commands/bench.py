"""``linf-export bench``."""

import argparse
from pathlib import Path

from linf_plugin.files import add_force

from .. import bench

SUMMARY = "time bodies, native operators and the export of a large net, side by side"
DESCRIPTION = bench.DESCRIPTION
EPILOG = """\
examples:
  linf-export bench --quick
  linf-export bench --out results/onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/onnx"), help="default: results/onnx"
    )
    add_force(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions")


def run(args: argparse.Namespace) -> int:
    return bench.main(["--out", str(args.out), *(f"--{flag}" for flag in ("quick", "force") if getattr(args, flag))])
