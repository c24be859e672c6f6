"""``linf-compare fronts``."""

import argparse
from pathlib import Path

SUMMARY = "the fronts of several searches in one picture"
DESCRIPTION = """\
Shows what searches of several methods found, side by side: for each method the front of clean and certified accuracy
on held-out images.  The searches must be of one recipe, with one ε, one seed and one held-out part."""
EPILOG = """\
examples:
  linf-compare fronts results/digits-search-ibp results/digits-search-linf-dist
  linf-compare fronts results/digits-search-* --out results/fronts

search.json does not hold what --set, --epochs and --data-name changed in a search, so they are not compared: give
searches that had the same.

Written to --out: fronts.md, a row a search; fronts.png, whose small points are trials that another one beats.

exit status: 0; 2 if the searches cannot be compared, or for a wrong request."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "searches", nargs="+", type=Path, metavar="DIR", help="what `linf-compare search` wrote, or its search.json"
    )
    parser.add_argument("--out", type=Path, default=Path("results/fronts"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="replace fronts.md and fronts.png in --out")


def run(args: argparse.Namespace) -> int:
    from linf_plugin.files import check_absent, write_text

    from ..report.fronts import check_alike, draw, table_of
    from ..results import trials

    table, picture = args.out / "fronts.md", args.out / "fronts.png"
    for path in (table, picture):
        check_absent(path, args.force)
    found = [trials.read(path / trials.FILE if path.is_dir() else path) for path in args.searches]
    check_alike(found)
    text = table_of(found)
    write_text(table, text)
    draw(found, picture)
    print(text)
    print(f"Written to {args.out}: {table.name}, {picture.name}")
    return 0
