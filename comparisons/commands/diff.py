"""``linf-compare diff``."""

import argparse
import math
from pathlib import Path

SUMMARY = "which samples only one of two methods certifies"
DESCRIPTION = """\
Compares two methods sample by sample: how many samples both certify at an ε, how many only one of them, and how many
neither, with the numbers of the samples.  A sample's number is its row in the test set, from 0."""
EPILOG = """\
A and B are FOLDER:METHOD, where `run` or `certify` wrote to FOLDER and METHOD is a name in its results.json; a folder
that has only one method; or the path of a file METHOD.samples.csv.  Both must be measured on the same samples.

examples:
  linf-compare diff results/digits:linf-dist results/digits:ibp
      at the headline ε of the results, by the best of all theorems
  linf-compare diff results/digits:linf-dist results/mine --eps 8/255 --certificate ibp
      another ε, and what only the interval bound proves
  linf-compare diff a/ibp.samples.csv b/ibp.samples.csv --eps 0.1 --csv difference.csv
      all numbers as a table: sample, label, which of A and B certifies it, and both radii

An ε between two of those of the run counts as the next larger one, because a radius is the largest ε of the run that
was proved.  Only radius_lipschitz is computed exactly.

exit status: 0; 2 if the files are not of the same samples, or for a wrong request."""
SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="A", help="FOLDER:METHOD, a folder with one method, or a file of samples")
    parser.add_argument("second", metavar="B", help="the same")
    parser.add_argument("--eps", metavar="E", help="radius, such as 8/255; default: the headline of the results")
    parser.add_argument("--certificate", default="best", metavar="NAME", help="default: best, which counts any theorem")
    parser.add_argument("--all", action="store_true", help=f"list all numbers, not only the first {SHOWN}")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row a sample that only one certifies")
    parser.add_argument("--force", action="store_true", help="replace the file of --csv")


def run(args: argparse.Namespace) -> int:
    from linf_plugin.files import check_absent, write_text

    from ..certificates import label_of
    from ..results.difference import difference, side

    if args.csv is not None:
        check_absent(args.csv, args.force)
    first, second = side(args.first), side(args.second)
    found = difference(first, second, _eps(args.eps), args.certificate)
    rows = {
        "both": found.both,
        f"only {found.sides[0]}": found.only_first,
        f"only {found.sides[1]}": found.only_second,
        "neither": found.neither,
    }
    total = sum(map(len, rows.values()))
    print(f"ε = {found.eps:g}, {label_of(found.certificate)}: of {total} samples are certified by")
    for words, numbers in rows.items():
        named = f": {_listed(numbers.tolist(), args.all)}" if words.startswith("only ") and len(numbers) else ""
        print(f"  {words}: {len(numbers)}{named}")
    if args.csv is not None:
        write_text(args.csv, _table(first, second, found))
        print(f"Written to {args.csv}")
    return 0


def _eps(text: str | None) -> float | None:
    from linf_plugin.plain import fraction

    if text is None:
        return None
    try:
        eps = fraction(text)
    except ValueError as error:
        raise ValueError(f"--eps: {error}") from error
    if not 0 < eps < math.inf:
        raise ValueError(f"--eps must be positive, got {text}")
    return eps


def _listed(numbers: list[int], every: bool) -> str:
    few = numbers if every else numbers[:SHOWN]
    more = f", and {len(numbers) - len(few)} more (--all lists them)" if len(few) < len(numbers) else ""
    return ", ".join(map(str, few)) + more


def _table(first, second, found) -> str:
    """Returns the samples that only one side certifies as CSV."""
    import pandas as pd

    one, two = (each.rows.frame.set_index("sample") for each in (first, second))
    numbers = sorted([*found.only_first.tolist(), *found.only_second.tolist()])
    radius, certified = f"radius_{found.certificate}", set(found.only_first.tolist())
    columns = {
        "sample": numbers,
        "label": one["label"].loc[numbers].to_numpy(),
        "certified_by": ["A" if number in certified else "B" for number in numbers],
        "radius_a": one[radius].loc[numbers].to_numpy(),
        "radius_b": two[radius].loc[numbers].to_numpy(),
    }
    return pd.DataFrame(columns).to_csv(index=False, lineterminator="\n")
