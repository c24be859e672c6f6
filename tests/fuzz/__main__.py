"""``python -m fuzz``, from a folder where ``tests`` is on the path; ``make fuzz``."""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

import linf_plugin
from linf_plugin.bounds import versions
from linf_plugin.files import add_force, occupied, write_text
from linf_plugin.kernels import cpu

from . import campaign
from .report import table

DESCRIPTION = """\
Tries to break certificates.  Draws random nets of all layers, certifies inputs with every method (sound_radius and
margin_bound, which cover rounding), and evaluates the float32 net within the certified balls: at random points,
corners, kinks of distances, next float32 numbers, and points that attacks visit.  Every point lies in its ball in
exact arithmetic, and every comparison is exact, without a tolerance.

A violation is a float32 margin z_y − z_j below a bound of margin_bound, or a point strictly within sound_radius
where the label's logit is not the one largest.  The file holds the counts, and of each violation the net, its
weights, both inputs, the claim, the logits, and how the net was run; --seed and --first (its "index") repeat it.

Exit status 1 where there is a violation."""


def run(seed: int, first: int, count: int, points: int, attacks: int, progress: bool) -> dict:
    """Nets number first to first + count − 1 of the seed; at least so many points and attacks in all."""
    tally, violations = campaign.Tally(), []
    indices = tqdm(range(first, first + count), desc="fuzz", unit="net", disable=not progress, dynamic_ncols=True)
    for index in indices:
        violations += campaign.fuzz_net(seed, index, -(-points // count), -(-attacks // count), tally)
        indices.set_postfix_str(f"{len(violations)} violations")
    used = {
        "linf-plugin": linf_plugin.__version__,
        "torch": torch.__version__,
        "auto_LiRPA": versions.import_auto_lirpa().__version__,
        "kernels": cpu.available()[1],
    }
    return {"seed": seed, "first": first, "versions": used, "groups": tally.groups, "violations": violations}


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a certificate is broken, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", type=int, default=240, metavar="N", help="default: 240")
    parser.add_argument("--points", type=int, default=1_200_000, metavar="N", help="in all; default: 1200000")
    parser.add_argument("--attacks", type=int, default=12_000, metavar="N", help="starts in all; default: 12000")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first net; default: 0")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", default=Path("results/fuzz.json"), help="default: results/fuzz.json"
    )
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for name in ("nets", "points", "attacks"):
        if getattr(args, name) < 1:
            print(f"{parser.prog}: error: --{name} must be positive", file=sys.stderr)
            return 2
    if occupied(parser.prog, args.out, args.out.with_suffix(".md"), force=args.force):
        return 2
    # auto_LiRPA 0.7.1 says so of a tanh head, whose bounds are what is looked at.
    warnings.filterwarnings("ignore", "Pre-activation bounds are too loose", UserWarning)
    results = run(args.seed, args.first, args.nets, args.points, args.attacks, progress=not args.quiet)
    write_text(args.out, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    text = table(results)
    write_text(args.out.with_suffix(".md"), text)
    print(text)
    return 1 if results["violations"] else 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # small nets; some points are evaluated by two
    sys.exit(main())
