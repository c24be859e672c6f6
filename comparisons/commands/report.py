"""``linf-compare report``."""

import argparse
from pathlib import Path

SUMMARY = "table and picture from results.json"
DESCRIPTION = """\
Prints the tables of earlier runs. For one folder it rewrites table.md and certified.png there. For several it writes
comparison.md and comparison.png to --out or to the first folder. Runs that differ only in their seed are averaged, and
share a panel of the picture: a band reaches from the least to the largest accuracy. Runs that were measured on the
same images are also put into one table."""
EPILOG = """\
examples:
  linf-compare report results/digits
  linf-compare report results/digits results/mine --out results/both
      a net that `certify` measured beside those of a recipe"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders that `run` or `certify` wrote, or copies of results.json",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where table and picture go; default: the first folder")
    parser.add_argument("--summary", action="store_true", help="print only the means over seeds, and write nothing")
    parser.add_argument("--force", action="store_true", help="replace a table and a picture of other runs")


def run(args: argparse.Namespace) -> int:
    from ..report.seeds import over_seeds
    from ..report.written import say_what_has_no_digest, write_report
    from ..results import file

    results = [file.read(folder) for folder in args.folders]
    say_what_has_no_digest([m for run in results for m in run.methods.values()])
    if args.summary:
        text = over_seeds(results)
        if not text:
            raise ValueError("--summary: no two of these runs differ only in their seed")
        print(text, end="")
    else:
        first = args.folders[0]
        there = first.parent if first.suffix == ".json" else first
        folder = args.out or there
        # The table of one run belongs to the folder of the run.
        own = len(results) == 1 and folder == there and (first == there or first.name == file.FILE)
        print(write_report(results, folder, replace=own or args.force))
    return 0
