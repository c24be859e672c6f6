"""What do the ways to run an exported distance cost in onnxruntime?  The measurement is of ``onnx_export``."""

import argparse
import sys

from .shell import Save, Study, main

DESCRIPTION = """\
Times a batch of distances in onnxruntime: by broadcast, by the functions in exported files, and by the compiled
operator, beside PyTorch.  Then measures the memory of each, and the export of a large net.  A way that gives wrong
numbers is named and not timed, and the exit status is 1.

Set OMP_WAIT_POLICY=passive in the environment: waiting threads then do not slow the others down."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions")


def run(args: argparse.Namespace, save: Save) -> dict:
    from onnx_export.bench.cases import FULL, QUICK
    from onnx_export.bench.measure import measure

    return measure(QUICK if args.quick else FULL, progress=not args.quiet)


def table(results: dict) -> str:
    from onnx_export.bench import table

    return table.table(results)


def wrong(results: dict) -> int:
    from onnx_export.bench import table

    return len(table.wrong(results))


STUDY = Study("onnx", DESCRIPTION, add_arguments, run, table, wrong)

if __name__ == "__main__":
    sys.exit(main(STUDY))
