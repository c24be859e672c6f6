"""``linf-compare report``."""

import argparse
from pathlib import Path

SUMMARY = "tables, picture and page from results.json"
DESCRIPTION = """\
Prints the tables of earlier runs. For one folder it rewrites table.md, table.tex, table.csv and certified.png there.
For several it writes comparison.md, .tex, .csv and .png to --out or to the first folder. A folder without a
results.json stands for its subfolders with one. Runs that differ only in their seed are averaged, and share a panel of
the picture: a band reaches from the least to the largest accuracy. Runs that were measured on the same images are also
put into one table.

With --html it also writes a page: one file for a browser, which loads nothing from elsewhere. All runs of a page must
have the same data, norm and ε. Radii, tests between methods and images come from the files METHOD.samples.csv and
METHOD.points.npz beside results.json; where one is missing, the page says so."""
EPILOG = """\
examples:
  linf-compare report results/digits
  linf-compare report results/digits results/mine --out results/both
      a net that `certify` measured beside those of a recipe
  linf-compare report results/all --html report.html
      all seeds in results/all, as one page"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="folders that `run` or `certify` wrote, folders of such folders, or copies of results.json",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where table and picture go; default: the first folder")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with everything on it")
    parser.add_argument("--summary", action="store_true", help="print only the means over seeds, and write nothing")
    parser.add_argument("--force", action="store_true", help="replace tables, a picture and a page of other runs")


def run(args: argparse.Namespace) -> int:
    from linf_plugin.files import write_text

    from ..report.gathered import gather
    from ..report.seeds import over_seeds
    from ..report.web.document import check_replaceable, document
    from ..report.written import say_what_has_no_digest, write_tables
    from ..results import file

    if args.summary and args.html is not None:
        raise ValueError("--summary writes nothing, so it does not go with --html")
    runs = gather(args.folders)
    say_what_has_no_digest([m for run in runs for m in run.results.methods.values()])
    if args.summary:
        text = over_seeds([run.results for run in runs])
        if not text:
            raise ValueError("--summary: no two of these runs differ only in their seed")
        print(text, end="")
        return 0
    if args.html is not None:
        check_replaceable(args.html, args.force)
        page = document(runs)
    first = args.folders[0]
    there = first.parent if first.suffix == ".json" else first
    folder = args.out or there
    # The table of one run belongs to the folder of the run.
    own = len(runs) == 1 and folder == there == runs[0].folder and (first == there or first.name == file.FILE)
    print(write_tables(runs, folder, replace=own or args.force))
    if args.html is not None:
        write_text(args.html, page)
        print(f"Written to {args.html}: {len(page.encode()) / 2**20:.1f} MiB")
    return 0
