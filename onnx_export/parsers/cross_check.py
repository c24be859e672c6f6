"""Arguments of ``linf-export cross-check``."""

import argparse
from pathlib import Path

from ..writing.settings import VERIFIER_FLAVOURS
from .common import add_data, positive

SUMMARY = "ask Marabou whether the certificates of a small net hold"
DESCRIPTION = """\
Exports a small net for the verifier Marabou (pip install 'linf-plugin[marabou]'), and asks Marabou about test images:
can an input within 0.99 of the certified radius change the class? Can an input a little beyond the exact radius?
Marabou runs in a process of its own, which is ended at the limits of time and memory."""
EPILOG = """\
examples:
  linf-export cross-check small.pt
  linf-export cross-check small.pt --count 50 --flavour relu --time-limit 60 --json verdicts.json

exit status: 0 if no verdict contradicts a certificate; 1 if one does; 2 if nothing was asked.
python -m onnx_export.verifiers.marabou_study trains small nets and asks about these.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="file with a net at p = ∞, of about 64-16-10"
    )
    parser.add_argument(
        "--flavour", choices=VERIFIER_FLAVOURS, default="maxpool", help="default: maxpool, the faster one"
    )
    parser.add_argument("--count", type=positive, default=20, metavar="N", help="number of images (default: 20)")
    parser.add_argument(
        "--time-limit", type=positive, default=30, metavar="SECONDS", help="time limit of a question (default: 30)"
    )
    parser.add_argument(
        "--memory", type=positive, default=4, metavar="GIB", help="memory that Marabou may have (default: 4)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all verdicts to FILE")
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_data(parser)
