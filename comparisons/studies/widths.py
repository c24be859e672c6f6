"""How wide are the bounds of each method?  Output widths, divided by those of interval bounds, on random nets."""

import argparse
import itertools
import math
import statistics
import sys

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linf_plugin import LinfDistLinear
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.progress import hidden

from ..report.words import markdown_rows
from .shell import Save, Study, main, positive

NET_SIZES = (48, 32, 24, 10)  # features of the input, of each distance layer, and of the linear head
EPS = 0.1
EXPONENTS = (math.inf, 8.0, 2.0)
INPUTS = {"uniform": (torch.rand, "U[0, 1]"), "normal": (torch.randn, "N(0, 1)")}  # key → (draw, label)
BOUND_METHODS = {  # auto_LiRPA's method → label; interval bounds first
    "IBP": "IBP",
    "CROWN-IBP": "CROWN-IBP",
    "CROWN": "CROWN",
    "Forward": "Forward",
    "Forward+Backward": "Forward+Backward",
    "CROWN-Optimized": "α-CROWN",
}
ASKED_RATIOS = {"CROWN": 0.85, "CROWN-Optimized": 0.70}  # largest mean ratio, at p = ∞ on uniform inputs

DESCRIPTION = f"""\
How wide are the bounds of each method?  linf_plugin.bounds.compute_bounds bounds random nets on ℓ∞ balls of radius
{EPS} around random inputs.  The nets are {"→".join(map(str, NET_SIZES))}: distance layers with weights N(0, 1), no bias
and no mean shift, and a linear head with the first weights of torch.nn.Linear.  A ratio of 0.8 means: on average the
method's bounds of an output are four fifths as wide as interval bounds (IBP).

Written to --out: results.json and table.md.  The exit status is 1 if a bound of an output is looser than its interval
bound: compute_bounds promises that this never happens."""


def random_net(p: float, seed: int) -> nn.Sequential:
    """Returns distance layers and a linear head in float64, with the same weights for every p."""
    torch.manual_seed(seed)
    *distances, last = itertools.pairwise(NET_SIZES)
    layers = [LinfDistLinear(*sizes, bias=False, p=p) for sizes in distances]
    return nn.Sequential(*layers, nn.Linear(*last)).double().eval().requires_grad_(False)


@torch.no_grad()
def bounds(net: nn.Sequential, x: Tensor) -> tuple[dict[str, tuple[Tensor, Tensor]], int]:
    """Bounds the net within ``EPS`` of x.

    Returns method → (lower, upper), each (N, outputs); and the number of iterations of α-CROWN.
    """
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    found = {}
    with versions.float64_by_default():
        ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=EPS))
        for method in BOUND_METHODS:
            bounded = BoundedModule(net, x[:1], verbose=False)
            bounded.eval()  # in training mode it asks for gradients of parameters
            found[method] = compute_bounds(bounded, (ball,), method=method)
    return found, bounded.bound_opts["optimize_bound_args"]["iteration"]


def measure(net: nn.Sequential, x: Tensor) -> dict:
    """Returns each method's mean output width, divided by IBP's, and how many of its bounds are looser than IBP's."""
    found, iterations = bounds(net, x)
    least, most = found["IBP"]
    width = (most - least).mean().item()
    return {
        "width": width,
        "bounds": 2 * least.numel(),
        "iterations": iterations,
        "ratios": {method: (upper - lower).mean().item() / width for method, (lower, upper) in found.items()},
        "looser": {
            method: int((~(lower >= least)).sum() + (~(upper <= most)).sum())
            for method, (lower, upper) in found.items()
        },
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=16, metavar="N", help="inputs of each net; default: 16")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="nets of each kind; default: 10")


def run(args: argparse.Namespace, save: Save) -> dict:
    """Measures every net."""
    import auto_LiRPA

    positive(args, "images", "seeds")
    images, seeds = args.images, args.seeds

    results = {
        "sizes": NET_SIZES,
        "eps": EPS,
        "images": images,
        "seeds": seeds,
        "asked": ASKED_RATIOS,
        "versions": {"auto_LiRPA": auto_LiRPA.__version__, "torch": torch.__version__},
        "cases": [],
    }
    total = len(EXPONENTS) * len(INPUTS) * seeds
    with tqdm(total=total, desc="bounds", unit="net", disable=hidden(not args.quiet), dynamic_ncols=True) as bar:
        for inputs, (draw, _) in INPUTS.items():
            for p in EXPONENTS:
                runs = []
                for seed in range(seeds):
                    net = random_net(p, seed)
                    runs.append({"seed": seed, **measure(net, draw(images, NET_SIZES[0], dtype=torch.float64))})
                    bar.update()
                results["cases"].append({"inputs": inputs, "p": f"{p:g}", "runs": runs})
                save(results)
    return results


# The table reads only results.json.


def looser(results: dict) -> int:
    """Counts the output bounds, of any method, that are looser than the interval bound."""
    return sum(sum(measured["looser"].values()) for case in results["cases"] for measured in case["runs"])


def _ratios(case: dict, method: str) -> list[float]:
    return [measured["ratios"][method] for measured in case["runs"]]


def reached(results: dict) -> dict[str, float]:
    """Returns method → mean ratio, for the methods for which one was asked."""
    case = next(c for c in results["cases"] if (c["inputs"], c["p"]) == ("uniform", "inf"))
    return {method: statistics.fmean(_ratios(case, method)) for method in results["asked"]}


def _spread(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}–{max(values):.3f})"


def table(results: dict) -> str:
    """Returns Markdown: mean, least and largest ratio over the seeds, one row for each p and kind of input."""
    rows = [
        [
            INPUTS[case["inputs"]][1],
            "∞" if case["p"] == "inf" else case["p"],
            f"{statistics.fmean(m['width'] for m in case['runs']):.3f}",
            *(_spread(_ratios(case, method)) for method in BOUND_METHODS),
        ]
        for case in results["cases"]
    ]
    asked = "; ".join(
        f"{BOUND_METHODS[method]} asked ≤ {results['asked'][method]:.2f}, reached {ratio:.3f}"
        for method, ratio in reached(results).items()
    )
    runs = [measured for case in results["cases"] for measured in case["runs"]]
    bounded, wrong = len(BOUND_METHODS) * sum(measured["bounds"] for measured in runs), looser(results)
    parts = [
        f"## Width of output bounds as a part of IBP's (nets {'-'.join(map(str, results['sizes']))}, "
        f"ε = {results['eps']:g})",
        f"Mean (least–largest) over nets of {results['seeds']} seeds, each of the mean over {results['images']} inputs "
        "and all outputs. Distance layers with weights N(0, 1), then Linear; ℓ∞ balls, not cut to a pixel range; "
        f"float64; α-CROWN with {runs[0]['iterations']} iterations. Of U[0, 1] at p = ∞: {asked}.",
        markdown_rows(["inputs", "p", "width by IBP", *BOUND_METHODS.values()], rows),
        f"None of {bounded} output bounds is looser than the interval bound."
        if wrong == 0
        else f"**{wrong} of {bounded} output bounds are looser than interval bounds.**",
    ]
    return "\n\n".join(parts) + "\n"


STUDY = Study("widths", DESCRIPTION, add_arguments, run, table, wrong=looser)

if __name__ == "__main__":
    sys.exit(main(STUDY))
