"""``linf-compare bench``."""

import argparse
import sys
from pathlib import Path

from ..studies import bench_arguments

SUMMARY = "time the operators beside their peers"
DESCRIPTION = bench_arguments.DESCRIPTION
EPILOG = """\
examples:
  linf-compare bench
      all cases at p = ∞, 8 and 100.5, in a few minutes; slow peers run on a slice of the batch, marked ~
  linf-compare bench --p 8,64 --cases small,conv --threads 1
  linf-compare bench --full --json bench.json
      nothing is scaled (up to an hour), and every reading is kept
  linf-compare bench --cases small --p inf --plot cost.png
      also the cost over width, 64 … 8192, and batch, 1 … 4096

cases (batch × in × out):
  overhead  16×16×16      medium  512×1024×1024    conv  32 images of 32², 64 → 64 channels, kernel 3
  small     128×64×256    large   512×5120×5120

A line of the table has our median time and rate (Gel/s: 10⁹ coordinate pairs per second) and the time of each peer:
  ×3.10   the peer takes 3.1 times as long as ours
  ÷1.30   ours takes 1.3 times as long as the matrix product (F.conv2d for conv)
  ~       measured on a slice of the batch and scaled
  !       some numbers of the peer's result are not finite: its powers overflowed
  n/a     could not run; the reason is below the table
  ceiling Gel/s of a loop that uses only registers, measured at the same time, and our share of it
"training" is a forward pass before a backward pass: it also stores where each maximum is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    bench_arguments.add_arguments(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also measure and draw cost over size (PNG)")
    parser.add_argument("--force", action="store_true", help="replace the files of --json and --plot")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    from linf_plugin.files import check_absent, write_json

    from ..studies import bench

    bench.check(args)
    for path in (args.json, args.plot):
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"{path}: the folder {path.parent} does not exist")
    for path in filter(None, (args.json, args.plot)):
        check_absent(path, args.force)
    results = bench.asked(args, sweeps=args.plot is not None)
    print(bench.table(results))
    if args.json:
        write_json(args.json, results)
    if args.plot and results["rows"]:
        bench.operator_times(results, args.plot)
    if results["wrong"]:
        print(f"linf-compare: {len(results['wrong'])} wrong operators were not timed", file=sys.stderr)
    return 1 if results["wrong"] else 0
