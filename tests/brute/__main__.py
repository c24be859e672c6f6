"""``python -m brute``, from a folder where ``tests`` is on the path."""

import argparse
import json
import math
import statistics
import sys
import time
from fractions import Fraction
from pathlib import Path

import scipy
import torch
from tqdm import tqdm

from linf_plugin.certificates.exact.radius import GAP, ExactRadius, exact_radius

from . import nets, rational

STATUSES = ("optimal", "robust", "unsettled", "time limit")

DESCRIPTION = """\
Puts exact radii to a search through all pieces.  Draws random nets of two inputs, at most two hidden layers of at most
four neurons and at most three classes, and compares what exact_radius says of an input with the radius that cutting
the square into polygons gives, in rational arithmetic, without a tolerance.

Wrong is a lower end above that radius or an upper end below it; "robust" where there is a radius; an upper end where
there is none; and "optimal" with ends further apart than 1e-5 of the farthest input.  --seed and --first (the number
of the net) repeat it.

Written to --out: results.json and table.md.  Exit status 1 where something is wrong."""


def wrong(found: ExactRadius, radius: Fraction | None, farthest: float) -> bool:
    """Whether ``exact_radius`` contradicts the radius, None where no input changes the class."""
    if found.status == "robust":
        return radius is not None or not found.lower == found.upper == math.inf
    if radius is None:
        return found.upper < math.inf or found.status == "optimal"
    upper_holds = found.upper == math.inf or radius <= Fraction(found.upper)
    if found.lower == math.inf or Fraction(found.lower) > radius or not upper_holds:
        return True
    return found.status == "optimal" and not found.upper - found.lower <= GAP * farthest


def check(seed: int, index: int, time_limit: float) -> dict:
    """What was found of a net, in plain data."""
    case = nets.draw_case(seed, index)
    radius = rational.radius(case.net, case.x, case.label, case.low, case.high)
    began = time.process_time()
    found = exact_radius(case.net, case.x, case.label, low=case.low, high=case.high, time_limit=time_limit)
    seconds = time.process_time() - began
    x = case.x.double()
    farthest = float(torch.maximum(x - case.low, case.high - x).max())
    return {
        "index": index,
        "kind": case.kind,
        "status": found.status,
        "wrong": wrong(found, radius, farthest),
        "radius": None if radius is None else float(radius),
        "lower": _plain(found.lower),
        "upper": _plain(found.upper),
        "seconds": seconds,
    }


def _plain(value: float) -> float | None:
    return None if value == math.inf else value


def run(seed: int, first: int, count: int, time_limit: float, progress: bool) -> dict:
    """Nets number first to first + count − 1 of the seed."""
    indices = tqdm(range(first, first + count), desc="exact radii", unit="net", disable=not progress)
    checked = [check(seed, index, time_limit) for index in indices]
    kinds = {}
    for kind in nets.KINDS:
        of = [c for c in checked if c["kind"] == kind]
        kinds[kind] = {
            "nets": len(of),
            "with a radius": sum(c["radius"] is not None for c in of),
            **{status: sum(c["status"] == status for c in of) for status in STATUSES},
            "wrong": sum(c["wrong"] for c in of),
            "median seconds": statistics.median([c["seconds"] for c in of]) if of else None,
        }
    return {
        "seed": seed,
        "first": first,
        "count": count,
        "time_limit": time_limit,
        "versions": {"scipy": scipy.__version__, "torch": torch.__version__},
        "kinds": kinds,
        "wrong": [c for c in checked if c["wrong"]],
        "open": [c for c in checked if c["status"] in ("unsettled", "time limit")],
    }


def table(results: dict) -> str:
    """Markdown, from results.json alone."""
    header = ["layers, values", "nets", "with a radius", *STATUSES, "wrong", "s"]
    rows = [
        [kind, *(str(of[c]) for c in header[1:-1]), f"{of['median seconds']:.2f}" if of["nets"] else "–"]
        for kind, of in results["kinds"].items()
    ]
    total = ["all", *(str(sum(of[c] for of in results["kinds"].values())) for c in header[1:-1]), ""]
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows, total]
    count = len(results["wrong"])
    return (
        "\n\n".join(
            [
                f"## Exact radii of {results['count']} random nets against a search through all their pieces",
                "Two inputs, up to two hidden layers of up to four neurons, up to three classes. With a radius: an "
                "input in range changes or ties the class. Values: thin, hardly an input does, or just none; grid, few "
                "values and many ties; tiny and huge, all in units of 1e-38 and 1e30; mixed, every layer of a "
                "magnitude of its own. Unsettled: nothing is said beyond the two ends. Time limit: "
                f"{results['time_limit']:g} s. s: median, of one core.",
                "\n".join("| " + " | ".join(line) + " |" for line in lines),
                "Nothing is wrong." if count == 0 else f"**{count} radii are wrong.**",
            ]
        )
        + "\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a radius is wrong, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m brute", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument("--nets", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first net; default: 0")
    parser.add_argument("--time-limit", type=float, default=60.0, metavar="SECONDS", help="of a radius; default: 60")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for name in ("nets", "time_limit"):
        if not 0 < getattr(args, name) < math.inf:
            print(f"{parser.prog}: error: --{name.replace('_', '-')} must be positive", file=sys.stderr)
            return 2
    results = run(args.seed, args.first, args.nets, args.time_limit, progress=not args.quiet)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(
        json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    text = table(results)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if results["wrong"] else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
