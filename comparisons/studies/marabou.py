"""Does the verifier Marabou agree with certificates and exact radii?  The measurement is of ``onnx_export``."""

import argparse
import sys
from pathlib import Path

from .shell import Save, Study, main, positive

DESCRIPTION = """\
Trains small ℓ∞-distance nets, exports them for the verifier Marabou (pip install 'linf-plugin[marabou]'), and asks it
about test images: can an input inside the certified radius change the class?  Can one a little beyond the exact
radius?  The exit status is 1 if Marabou contradicts a certificate."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=24, metavar="N", help="images of each net; default: 24")
    parser.add_argument("--time-limit", type=float, default=30.0, metavar="SECONDS", help="for one query; default: 30")


def run(args: argparse.Namespace, save: Save) -> dict:
    from onnx_export.verifiers import marabou_study

    positive(args, "count", "time_limit")
    return marabou_study.measure(args.count, args.time_limit, not args.quiet, save)


def table(results: dict) -> str:
    from onnx_export.verifiers import marabou_study

    return marabou_study.table(results)


def wrong(results: dict) -> int:
    from onnx_export.verifiers import marabou_study

    return len(marabou_study.wrong(results))


STUDY = Study("marabou", DESCRIPTION, add_arguments, run, table, wrong, folder=lambda args: Path("results/cross-check"))

if __name__ == "__main__":
    sys.exit(main(STUDY))
