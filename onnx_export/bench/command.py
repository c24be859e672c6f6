"""The command that measures: ``linf-export bench`` and ``python -m onnx_export.bench``."""

import argparse
import sys
from pathlib import Path

from linf_plugin.files import add_force, occupied, write_json, write_text

from .cases import FULL, QUICK
from .measure import measure
from .table import table, wrong

DESCRIPTION = """\
What do the ways to run an exported distance cost?  In three parts, on one thread and on two:

  dist    a batch of distances, in onnxruntime by broadcast, by the body in standard operators that exported files
          carry and by the compiled operator; in PyTorch by linf_plugin and by torch.cdist; and a convolution
  memory  what the ways in onnxruntime need beyond inputs and weights, each in a process of its own (on Linux)
  export  seconds and peak memory of exporting a net of 330 MB, and whether the file gives the same bits

All ways of a case run in turns, and the medians count.  A way that does not give what the specification gives (at
p = ∞ every bit) is named and not timed, and the exit status is 1.  Where all pairs at once would not fit into the
free memory, broadcast runs on a part of the batch, and its time, marked ~, is that of the whole in proportion.

Written to --out: results.json, all that was measured, and table.md.  Some minutes; threads that spin at a barrier
would slow the others down, hence OMP_WAIT_POLICY=passive."""


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
