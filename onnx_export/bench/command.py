"""The command behind ``linf-export bench`` and ``python -m onnx_export.bench``."""

import argparse
import sys
from pathlib import Path

from linf_plugin.files import add_force, occupied, write_json, write_text

from .cases import FULL, QUICK
from .measure import measure
from .table import table, wrong

DESCRIPTION = """\
Measures what the ways to run an exported distance cost, in three parts:

  dist    a batch of distances, and a convolution, on one thread and on two: in onnxruntime by broadcast, by the body in
          standard operators in exported files, and by the compiled operator; in PyTorch by linf_plugin and torch.cdist
  memory  the memory that the ways in onnxruntime need beyond inputs and weights, each in its own process (on Linux)
  export  seconds and peak memory of the export of a net of 330 MB, and whether the file gives the same bits

The ways of a case take turns, and the medians count.  Each way is first compared with the specification (at p = ∞ in
every bit).  A way that is wrong is named and not timed, and the exit status is 1.  If all pairs at once do not fit into
the free memory, broadcast runs on a part of the batch; its time, marked ~, is scaled to the whole batch.

Writes all measurements to results.json in --out, and the table to table.md.  It takes some minutes.  Set
OMP_WAIT_POLICY=passive: threads that spin at a barrier would slow down the others."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/onnx"), help="default: results/onnx"
    )
    add_force(parser)
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions")


def run(args: argparse.Namespace, prog: str) -> int:
    """Returns the exit status: 0, 1 where something was wrong, 2 where results are there already."""
    if occupied(prog, args.out / "results.json", args.out / "table.md", force=args.force):
        return 2
    results = measure(QUICK if args.quick else FULL)
    text = table(results)
    write_json(args.out / "results.json", results)
    write_text(args.out / "table.md", text)
    print(text)
    for line in wrong(results):
        print(f"{prog}: {line}", file=sys.stderr)
    return 1 if wrong(results) else 0
