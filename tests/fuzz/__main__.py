"""``python -m fuzz``, from a folder where ``tests`` is on the path; ``make fuzz``."""

import argparse
import json
import sys
from pathlib import Path

import onnxruntime
import torch
from tqdm import tqdm

import linf_plugin
from linf_plugin.bounds import versions
from linf_plugin.files import add_force, occupied, write_text
from linf_plugin.kernels import cpu

from .families import FAMILIES
from .report import table
from .tally import Tally
from .workers import each, prepare

DESCRIPTION = """\
Tries to break certificates.  Draws random nets: sequences of all layers of this package (layers), classes with a
forward of their own as people bring them (brought), random graphs of all operators that are read (drawn), and nets
whose certificates are in ℓ2 (l2): those that materialise makes of SLL, CPL, AOL and circulant layers, and plain ones.
It certifies inputs with every method (sound_radius, margin_bound and certify, which cover rounding), and evaluates the
float32 net within the certified balls: at random points, corners, points of spheres, kinks, next float32 numbers, along
gradients, and at points that attacks visit.  PyTorch runs the nets, and onnxruntime runs those that can be exported.
Every point lies in its ball in exact arithmetic, and every comparison of margins is exact, without a tolerance.

A violation is a float32 margin z_y − z_j below a bound of margin_bound, a point strictly within sound_radius where the
label's logit is not the one largest, or a float32 logit that is farther from the net in float64 than reach says; in ℓ2
also a point strictly within the radius that an exported file computes, a file with which verify does not agree, and
logits that are farther from float64 than error_in_l2 says.  The file holds the counts, and of each violation the net,
its weights, both inputs, the claim, the logits, and how the net was run; --family, --seed and --first (its "index")
repeat it.

Exit status 1 where there is a violation."""


def run(seed: int, first: int, families: dict[str, tuple[int, int, int]], progress: bool, workers: int = 1) -> dict:
    """Nets number first, first + 1, … of the seed.

    Args:
        seed, first: what is drawn.
        families: name → how many nets; at least so many points, and starts of attacks, in all.
        progress: whether to show a progress bar.
        workers: processes.
    """
    works = [
        (name, seed, index, -(-points // count), -(-attacks // count))
        for name, (count, points, attacks) in families.items()
        for index in range(first, first + count)
    ]
    tallies, violations = {name: Tally() for name in families}, []
    bar = tqdm(each(works, workers), "fuzz", len(works), unit="net", disable=not progress, dynamic_ncols=True)
    for name, groups, found in bar:
        tallies[name].join(groups)
        violations += found
        bar.set_postfix_str(f"{len(violations)} violations")
    used = {
        "linf-plugin": linf_plugin.__version__,
        "torch": torch.__version__,
        "auto_LiRPA": versions.import_auto_lirpa().__version__,
        "onnxruntime": onnxruntime.__version__,
        "kernels": cpu.available()[1],
    }
    groups = {name: tally.groups for name, tally in tallies.items()}
    return {"seed": seed, "first": first, "versions": used, "families": groups, "violations": violations}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a certificate is broken, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {
        key: ", ".join(str(getattr(f, key)) for f in FAMILIES.values()) for key in ("nets", "points", "attacks")
    }
    parser.add_argument(
        "--family",
        choices=FAMILIES,
        action="append",
        help=f"may be given several times; default: {', '.join(FAMILIES)}",
    )
    parser.add_argument("--nets", type=int, metavar="N", help=f"of each family; default: {defaults['nets']}")
    parser.add_argument("--points", type=int, metavar="N", help=f"in all of a family; default: {defaults['points']}")
    parser.add_argument("--attacks", type=int, metavar="N", help=f"starts in all; default: {defaults['attacks']}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first net; default: 0")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; default: 1")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", default=Path("results/fuzz.json"), help="default: results/fuzz.json"
    )
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for name in ("nets", "points", "attacks", "workers"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            print(f"{parser.prog}: error: --{name} must be positive", file=sys.stderr)
            return 2
    if occupied(parser.prog, args.out, args.out.with_suffix(".md"), force=args.force):
        return 2
    prepare()
    families = {
        name: tuple(getattr(args, key) or getattr(FAMILIES[name], key) for key in ("nets", "points", "attacks"))
        for name in (args.family or FAMILIES)
    }
    results = run(args.seed, args.first, families, not args.quiet, args.workers)
    write_text(args.out, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    text = table(results)
    write_text(args.out.with_suffix(".md"), text)
    print(text)
    return 1 if results["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
