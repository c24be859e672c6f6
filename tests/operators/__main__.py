"""``python -m operators``, from a folder where ``tests`` is on the path; ``make operators``."""

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

import linf_plugin
from linf_plugin.bounds import versions

from . import campaign, check
from .report import table

DESCRIPTION = """\
Searches auto_LiRPA for operators that it bounds wrongly.  Draws small graphs of every operator in catalog.py, with
layers of ours and stock ones around it or without, one to three inputs, operands that are constants, weights, computed
from weights, perturbed or not, and auto_LiRPA's options; bounds each by every method in patches and in matrix mode;
and compares with what the graph computes at points, corners, and where gradient steps lead.

With the guard on, a violation is a wrong bound that is returned: by linf_plugin.bounds.compute_bounds of any graph, by
BoundedModule.compute_bounds of a graph with our operators.  With --guard off, any wrong bound is one: that is what a
version of auto_LiRPA does by itself.  The file holds counts, and examples; --seed and --first (its "index") repeat one.

Exit status 1 where there is a violation, or where an operator of auto_LiRPA is in no graph and the guard does not
know that."""

STEP = 100  # graphs after which what was found is written, and the rest may be cut off

# What is never perturbed: constants, weights, and the shape of a tensor.
LEAVES = (
    "BoundConstant",
    "BoundPrimConstant",
    "BoundConstantOfShape",
    "BoundRange",
    "BoundParams",
    "BoundBuffers",
    "BoundShape",
)


def search(seed: int, first: int, graphs: int, points: int, guarded: bool, progress: bool) -> Iterator[dict]:
    """What the search has found, for JSON, after every ``STEP`` graphs and at the end."""
    check.share_tables()
    tally = campaign.Tally()
    with tqdm(total=graphs, desc="operators", unit="graph", disable=not progress, dynamic_ncols=True) as bar:
        for _ in campaign.run(tally, seed, first, graphs, points, guarded, bar):
            if tally.drawn % STEP == 0 and tally.graphs < graphs:
                yield _results(tally, seed, first, points, guarded)
    yield _results(tally, seed, first, points, guarded)


def _results(tally: campaign.Tally, seed: int, first: int, points: int, guarded: bool) -> dict:
    from linf_plugin.bounds import refused

    version = versions.import_auto_lirpa().__version__
    missing = sorted(name for name, group in tally.classes.items() if not group["graphs"] and name not in LEAVES)
    return {
        "seed": seed,
        "first": first,
        "points": points,
        "guarded": guarded,
        "graphs": tally.graphs,
        "drawn": tally.drawn,
        "versions": {"linf-plugin": linf_plugin.__version__, "torch": torch.__version__, "auto_LiRPA": version},
        "not_reached": missing,
        "unknown": sorted(set(missing) - set(refused.NOT_SEARCHED.get(version, ()))),
        "methods": tally.methods,
        "classes": tally.classes,
        "operators": tally.operators,
        "violations": tally.violations if guarded else tally.wrong,
        "wrong": tally.wrong if guarded else [],
    }


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where bounds are wrong or operators unknown, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m operators", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graphs", type=int, default=2000, metavar="N", help="that auto_LiRPA bounds; default: 2000")
    parser.add_argument("--points", type=int, default=2000, metavar="N", help="of each; default: 2000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first graph; default: 0")
    parser.add_argument("--guard", choices=("on", "off"), default="on", help="default: on")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.json",
        default=Path("results/operators.json"),
        help="default: results/operators.json; the table is written beside it",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for name, least in (("graphs", 1), ("points", 100), ("first", 0)):
        if getattr(args, name) < least:
            print(f"{parser.prog}: error: --{name} must be at least {least}", file=sys.stderr)
            return 2
    warnings.simplefilter("ignore")  # of auto_LiRPA, of tracing and of torch, thousands
    logging.disable(logging.ERROR)  # auto_LiRPA reports each operator that it does not know
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for found in search(args.seed, args.first, args.graphs, args.points, args.guard == "on", not args.quiet):
        args.out.write_text(json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        text = table(found)
        args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if found["violations"] or found["unknown"] else 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # small graphs
    sys.exit(main())
