"""How tight is each certificate?  Certified radii beside exact radii, on nets that are small enough for both."""

import argparse
import copy
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import scipy
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from linf_plugin import Net, build, certified_radius, lipschitz_bound
from linf_plugin.certificates import margin_bound
from linf_plugin.certificates.exact.radius import exact_radius
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.progress import hidden
from linf_plugin.training import Schedule, adam, clipped_hinge, fit

from ..certificates import label_of
from ..methods.robust import RobustCrossEntropy
from ..report.words import markdown_rows
from .shell import Save, Study, main, positive

WIDTH = 16
EPS = 0.05  # for which nets are trained
PRECISION = 1e-4  # of a certified radius found by bisection, relative to the exact one
PRECISIONS = {"alpha-crown": 1e-3}  # of methods that take long
ROUNDING = 1e-9  # relative: certified radii are computed in float64, which may round them up

DESCRIPTION = """\
How tight is each certificate?  Trains nets of 16 inputs (digits pooled to 4×4 pixels), 16 hidden neurons and
10 classes.  Finds the exact ℓ∞ radius of correctly classified test images by branch and bound, and the largest
radius that each certificate proves.  Every radius is in units of the pixel range [0, 1].

Written to --out: results.json and table.md.  The exit status is 1 if a certified radius is larger than an exact one."""


# Training: (model, data, seed) → None, in place.


def _fit(model: Net, loss: Callable, optimizer, schedule: Schedule, data: Dataset, seed: int) -> None:
    fit(model, loss, optimizer, schedule, data.x_train, data.y_train, batch_size=64, seed=seed, progress=False)


def _hinge(model: Net, data: Dataset, seed: int) -> None:
    def loss(model, x, y, step):
        return clipped_hinge(model(x), y, model_scale * step.eps, weight=0.5 * 0.004**step.progress)

    model_scale = lipschitz_bound(model, math.inf)  # at p = ∞
    _fit(model, loss, adam(model, lr=0.03), Schedule(epochs=200, eps=EPS, p_end=176), data, seed)


def _cross_entropy(model: Net, data: Dataset, seed: int) -> None:
    def loss(model, x, y, step):
        return F.cross_entropy(model(x), y)

    _fit(model, loss, adam(model, lr=0.02), Schedule(epochs=100, eps=EPS, p_end=88), data, seed)


def _interval(model: Net, data: Dataset, seed: int) -> None:
    schedule = Schedule(epochs=100, eps=EPS, eps_start=5, eps_end=50)
    loss = RobustCrossEntropy(model.eval(), schedule, kappa=0.5)
    _fit(model, loss, torch.optim.Adam(model.parameters(), lr=5e-3), schedule, data, seed)


# Architectures: data → model.


def _two_layers(name: str) -> Callable[[Dataset], Net]:
    def make(data: Dataset) -> Net:
        return build(name, shape=data.shape, classes=data.classes, width=WIDTH, depth=2, mean=data.mean, std=data.std)

    return make


def _linear_head(data: Dataset) -> Net:
    """Returns a net of distance features with a linear head."""
    layers = [
        ["normalize", {"mean": list(data.mean), "std": data.std}],
        ["flatten", {}],
        ["dist", {"in_features": math.prod(data.shape), "out_features": WIDTH, "bias": False}],
        ["mean_shift", {"num_features": WIDTH}],
        ["linear", {"in_features": WIDTH, "out_features": data.classes}],
    ]
    return Net({"input_shape": list(data.shape), "layers": layers})


@dataclass(frozen=True)
class Case:
    """A net that is measured."""

    label: str
    make: Callable[[Dataset], Net]
    train: Callable[[Net, Dataset, int], None]


SMALL_NETS = {
    "linf-dist": Case("ℓ∞-dist net, clipped hinge", _two_layers("linf-mlp"), _hinge),
    "linf-dist-linear": Case("ℓ∞-dist features and Linear, cross-entropy", _linear_head, _cross_entropy),
    "relu": Case("ReLU net, cross-entropy", _two_layers("relu-mlp"), _cross_entropy),
    "relu-ibp": Case("ReLU net, IBP", _two_layers("relu-mlp"), _interval),
}


def small_digits() -> Dataset:
    """Returns the digits, averaged over 2×2 pixels: (N, 1, 4, 4)."""
    data = load_dataset("digits")
    return replace(data, name="digits, 4×4", x_train=F.avg_pool2d(data.x_train, 2), x_test=F.avg_pool2d(data.x_test, 2))


def largest_radii(
    certified: Callable[[float, Tensor], Tensor], top: Tensor, guess: Tensor, precision: float = PRECISION
) -> Tensor:
    """Finds the largest ε at which each sample is certified, by bisection of [0, top] to ``precision``·top.

    Args:
        certified: (ε, rows) → bool for each of these samples.  It is called for all samples whose search can use the
            answer.
        top: (N,) float64, the upper end of each search.
        guess: (N,) float64, the first ε of each search.  A good guess makes the search short.
        precision: relative to ``top``.

    Returns:
        (N,) float64, the largest ε found at which the sample is certified; 0 if none was found.
    """
    least, most = torch.zeros_like(top), top.clone()
    for i in range(len(top)):
        eps = guess[i].item()
        while most[i] - least[i] > precision * top[i]:
            if not least[i] < eps < most[i]:
                eps = (least[i] + most[i]).item() / 2
            rows = ((least < eps) & (eps < most)).nonzero().squeeze(1)
            proved = certified(eps, rows)
            least[rows[proved]] = eps
            most[rows[~proved]] = eps
    return least


def measure(model: Net, x: Tensor, labels: Tensor, time_limit: float, bar: tqdm) -> dict:
    """Measures exact and certified radii of correctly classified images, and processor seconds of each exact one."""
    exact, seconds = [], []
    for image, label in zip(x, labels):
        began = time.process_time()
        exact.append(exact_radius(model, image, label, time_limit=time_limit))
        seconds.append(time.process_time() - began)
        bar.update()
    # A little beyond the exact radius, to detect an unsound bound.
    top = 1.01 * torch.tensor([min(e.upper, 1.0) for e in exact], dtype=torch.float64)
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        certified = {
            "lipschitz": certified_radius(double(x.double()), labels, lipschitz_bound(double, math.inf)).tolist()
        }
    for method in LIRPA_METHODS:

        def holds(eps: float, rows: Tensor, method: str = method) -> Tensor:
            # for exact logits, like the others
            return margin_bound(model, x[rows], labels[rows], eps, method, sound=False) > 0

        best = torch.tensor(list(certified.values()), dtype=torch.float64).amax(0)
        certified[method] = largest_radii(holds, top, best, PRECISIONS.get(method, PRECISION)).tolist()
    return {
        "lower": [e.lower for e in exact],
        "upper": [e.upper for e in exact],
        "status": [e.status for e in exact],
        "seconds": seconds,
        "certified": certified,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, default=30, metavar="N", help="images for each net; default: 30")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="nets of each kind; default: 3")
    parser.add_argument(
        "--time-limit", type=float, default=60.0, metavar="SECONDS", help="for one exact radius; default: 60"
    )


def run(args: argparse.Namespace, save: Save) -> dict:
    """Trains and measures every case; saves after each net."""
    positive(args, "images", "seeds", "time_limit")
    images, seeds, time_limit, data = args.images, args.seeds, args.time_limit, small_digits()
    results = {
        **data.identity,
        "eps": EPS,
        "images": images,
        "seeds": seeds,
        "time_limit": time_limit,
        "precision": {method: PRECISIONS.get(method, PRECISION) for method in LIRPA_METHODS},
        "versions": {"scipy": scipy.__version__, "torch": torch.__version__},
        "cases": {},
    }
    total = len(SMALL_NETS) * seeds * images
    with tqdm(total=total, desc="exact radii", unit="image", disable=hidden(not args.quiet), dynamic_ncols=True) as bar:
        for key, case in SMALL_NETS.items():
            runs = results["cases"][key] = {"label": case.label, "runs": []}
            for seed in range(seeds):
                bar.set_postfix_str(f"{key}, seed {seed}")
                torch.manual_seed(seed)
                model = case.make(data)
                case.train(model, data, seed)
                with torch.no_grad():
                    right = model(data.x_test).argmax(1) == data.y_test
                rows = right.nonzero().squeeze(1)[:images]
                runs["runs"].append(
                    {
                        "seed": seed,
                        "clean": right.double().mean().item(),
                        "rows": rows.tolist(),
                        **measure(model, data.x_test[rows], data.y_test[rows], time_limit, bar),
                    }
                )
                save(results)
    return results


# The table reads only results.json.


def ratios(case: dict) -> dict[str, list[float]]:
    """Returns certified/exact for every image whose exact radius was found, per certificate and for the best of all."""
    found = {}
    for measured in case["runs"]:
        solved = [i for i, status in enumerate(measured["status"]) if status == "optimal"]
        for method, radii in measured["certified"].items():
            found.setdefault(method, []).extend(radii[i] / measured["upper"][i] for i in solved)
    return {**found, "best": [max(each) for each in zip(*found.values())]}


def beyond(results: dict) -> int:
    """Counts certified radii that are larger than the distance of an input that provably has another class."""
    return sum(
        radius > upper * (1 + ROUNDING)
        for case in results["cases"].values()
        for measured in case["runs"]
        for radii in measured["certified"].values()
        for radius, upper in zip(radii, measured["upper"])
    )


def _mean_and_least(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f})" if values else "–"


def _precisions(results: dict) -> str:
    """Returns the precisions of the bisections, such as "0.01 % (interval, CROWN), 0.1 % (alpha-crown)"."""
    methods = {}
    for method, precision in results["precision"].items():
        methods.setdefault(precision, []).append(label_of(method))
    return ", ".join(f"{100 * precision:g} % ({', '.join(names)})" for precision, names in methods.items())


def table(results: dict) -> str:
    """Returns Markdown: mean and least ratio certified/exact, one row per net."""
    certificates = list(dict.fromkeys(c for case in results["cases"].values() for c in ratios(case)))
    certificates.sort(key="best".__eq__)  # it comes last
    rows = []
    for case in results["cases"].values():
        of = ratios(case)
        runs = case["runs"]
        exact = [u for m in runs for u, status in zip(m["upper"], m["status"]) if status == "optimal"]
        total = sum(len(m["rows"]) for m in runs)
        rows.append(
            [
                case["label"],
                f"{100 * statistics.fmean(m['clean'] for m in runs):.1f}",
                f"{len(exact)} of {total}",
                f"{statistics.fmean(exact):.3f}" if exact else "–",
                *(_mean_and_least(of.get(c, [])) for c in certificates),
                f"{statistics.fmean(s for m in runs for s in m['seconds']):.2f}",
            ]
        )
    labels = [label_of(c) for c in certificates]
    header = ["net", "clean %", "solved", "exact radius", *labels, "s/image, exact"]
    wrong = beyond(results)
    parts = [
        f"## Certified radius as a part of the exact one ({results['dataset']}, nets 16-16-10)",
        f"Mean (least) over {results['images']} correctly classified test images of each of {results['seeds']} "
        "nets. Solved: the exact radius is known. Exact radius: mean, in the pixel range. Radii found by bisection "
        f"may be too small by this part of the exact one: {_precisions(results)}. Seconds: of one core.",
        markdown_rows(header, rows),
        "No certificate reaches beyond the exact radius."
        if wrong == 0
        else f"**{wrong} certified radii are larger than exact ones: a bound is wrong.**",
    ]
    return "\n\n".join(parts) + "\n"


STUDY = Study("tightness", DESCRIPTION, add_arguments, run, table, wrong=beyond)

if __name__ == "__main__":
    sys.exit(main(STUDY))
