"""Arguments of ``linf-export bench`` and ``python -m onnx_export.bench``."""

import argparse
from pathlib import Path

SUMMARY = "time bodies, native operators and the export of a large net"
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
EPILOG = """\
examples:
  linf-export bench --quick
  linf-export bench --out results/onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", default=Path("results/onnx"), help="default: results/onnx"
    )
    parser.add_argument("--force", action="store_true", help="measure again and replace existing files")
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions")
