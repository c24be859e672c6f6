"""What do certificates cost?  Time and memory of bounds, the cascade on MNIST, and what it adds on the digits."""

import argparse
import functools
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import linf_plugin.models
from linf_plugin import Net, build, certified_radius, lipschitz_bound
from linf_plugin.bounds import compute_bounds
from linf_plugin.certificates import certify, certify_each
from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.files import WouldReplace
from linf_plugin.training import Schedule, adam, clipped_hinge, fit

from ..attacks.attacked import pgd_survives
from ..results.file import FILE, eps_key
from .cost_report import table
from .shell import Save, Study, main, read

DESCRIPTION = """\
What do certificates cost?  Four parts:

  a  time of interval bounds as a multiple of the forward pass
  b  memory of each method's bounds beyond that of the net itself, each in its own process
  c  the cascade of certificates on the MNIST test images, and the images that it leaves to CROWN and α-CROWN
  d  certified accuracy on the digits over ε, of each method and of all together

Written to --out: results.json and table.md.  Parts that are not asked for keep their results from an earlier run.
A part that already has results is measured again only with --force."""

EPS = 0.1  # for bounds whose values do not matter
SHAPE, CLASSES = (1, 28, 28), 10  # for nets that are not trained


def _random_net(architecture: str, **sizes) -> Net:
    torch.manual_seed(0)
    return build(architecture, shape=SHAPE, classes=CLASSES, **sizes).eval().requires_grad_(False)


def _ball(x: Tensor):
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    low, high = (x - EPS).clamp(0, 1), (x + EPS).clamp(0, 1)
    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=low, x_U=high))


def _seconds(call: Callable) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


# a: time of interval bounds.

TIMED = {  # net → architecture and its sizes
    "512 wide, 4 deep": ("linf-mlp", {"width": 512, "depth": 4}),
    "1024 wide, 4 deep": ("linf-mlp", {"width": 1024, "depth": 4}),
    "convolutional": ("linf-conv", {"channels": (32, 32, 64), "strides": (1, 2, 2), "width": 256}),
}
TIMED_BATCH, REPEATS = 256, 15


@torch.no_grad()
def time_interval_bounds() -> dict:
    """Measures the seconds of the forward pass and of interval bounds, in float32 and in turns."""
    from auto_LiRPA import BoundedModule

    torch.manual_seed(0)
    x, nets = torch.rand(TIMED_BATCH, *SHAPE), {}
    for name, (architecture, sizes) in TIMED.items():
        model = _random_net(architecture, **sizes)
        bounded, ball = BoundedModule(model, x[:1], verbose=False), _ball(x)
        intervals = functools.partial(bounded.compute_bounds, x=(ball,), method="IBP")
        calls = {"forward": functools.partial(model, x), "ibp": intervals}
        for call in calls.values():
            call()  # warms up
        turns = [{key: _seconds(call) for key, call in calls.items()} for _ in range(REPEATS)]
        nets[name] = {key: statistics.median(turn[key] for turn in turns) for key in calls}
    return {"batch": TIMED_BATCH, "repeats": REPEATS, "asked": 3.0, "nets": nets}


# b: memory.

MEMORY_CASES = [  # (method, width, depth, batch)
    *((method, 512, 3, 8) for method in ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized")),
    *((method, 5120, 3, 1) for method in ("CROWN-IBP", "CROWN")),
]


def _memory(name: str) -> float:
    """Returns the bytes of this process in memory, as Linux counts them: now (VmRSS) or at the peak (VmHWM).

    The largest resident set of ``getrusage`` is no use: a new process begins with that of its parent.
    """
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@torch.no_grad()
def peak_memory(method: str, width: int, depth: int, batch: int) -> dict:
    """Returns the most bytes beyond those of the net, its BoundedModule and a forward pass.  Needs a fresh process."""
    from auto_LiRPA import BoundedModule

    model, x = _random_net("linf-mlp", width=width, depth=depth), torch.rand(batch, *SHAPE)
    bounded, ball = BoundedModule(model, x[:1], verbose=False), _ball(x)
    bounded.eval()  # in training mode it asks for gradients of parameters
    bounded(x)
    idle = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which includes the building of the net
    seconds = _seconds(lambda: compute_bounds(bounded, (ball,), method=method, output_only=True))
    return {"idle": idle, "peak": _memory("VmHWM") - idle, "seconds": seconds}


def measure_memory(repeats: int = 3) -> dict:
    """Measures each of ``MEMORY_CASES`` and takes medians.  Nets that need minutes are bounded once."""
    rows = []
    for method, width, depth, batch in MEMORY_CASES:
        found = []
        for _ in range(repeats if width <= 512 else 1):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
                found.append(fresh.submit(peak_memory, method, width, depth, batch).result())
        medians = {key: statistics.median(each[key] for each in found) for key in found[0]}
        rows.append({"method": method, "width": width, "depth": depth, "batch": batch, **medians})
    return {"asked": {"CROWN": 150e6}, "asked_total": 24e9, "rows": rows}


# c: the cascade.

CASCADE = {"width": 512, "depth": 4, "images": 10000, "batch_size": 256, "lr": 0.02, "ce": (0.3, 0.01), "seed": 0}
CASCADE_SCHEDULE = Schedule(epochs=14, eps=0.45, p_end=12)
CHEAP, COSTLY = ("lipschitz", "ibp", "crown-ibp"), {"crown": 8, "alpha-crown": 8}  # method → batch size
CASCADE_ATTACK = {"steps": 5, "restarts": 1, "seed": 0}
SHARE, TRIALS, TRIAL_IMAGES = 0.9, 8, 500  # asked of the Lipschitz bound; the search for its ε
UNDECIDED, FEW, PATIENCE = 64, 8, 5.0  # samples for a costly method; FEW if each takes more than PATIENCE seconds
TEST_IMAGES = 10000


def train_for_cascade(data: Dataset) -> tuple[Net, float]:
    """Trains a net on some of the images.  Returns it, and the seconds of training."""
    torch.manual_seed(CASCADE["seed"])
    sizes = {"width": CASCADE["width"], "depth": CASCADE["depth"], "mean": data.mean, "std": data.std}
    model = build("linf-mlp", shape=data.shape, classes=data.classes, **sizes)
    scale, (first, last) = lipschitz_bound(model.eval(), math.inf), CASCADE["ce"]

    def loss(model, x, y, step):
        return clipped_hinge(model(x), y, scale * step.eps, weight=first * (last / first) ** step.progress)

    x, y = data.x_train[: CASCADE["images"]], data.y_train[: CASCADE["images"]]
    settings = {"batch_size": CASCADE["batch_size"], "seed": CASCADE["seed"], "progress": False}
    seconds = _seconds(lambda: fit(model, loss, adam(model, CASCADE["lr"]), CASCADE_SCHEDULE, x, y, **settings))
    return model.requires_grad_(False), seconds


def choose_eps(radii: Tensor, survives: Callable[[float], Tensor]) -> float:
    """Returns the ε at which the share ``SHARE`` of the samples that survive an attack has a larger radius.

    It is found by bisection between the smallest and the largest radius.

    Args:
        radii: (N,) certified radii, 0 where misclassified.
        survives: ε → (N,) bool.
    """
    least, most = radii[radii > 0].min().item(), radii.max().item()
    for _ in range(TRIALS):
        eps = (least + most) / 2
        if (radii > eps).sum() < SHARE * survives(eps).sum():
            most = eps
        else:
            least = eps
    return (least + most) / 2


def _tally(certificate) -> dict:
    return {name: tally._asdict() for name, tally in zip(certificate.methods, certificate.tallies)}


def run_cascade(model: Net, data: Dataset) -> dict:
    """Times ``certify`` on the test images that survive an attack, and the costly methods on those still undecided."""
    x, y = data.x_test[:TEST_IMAGES], data.y_test[:TEST_IMAGES]
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(256)])
    correct = logits.argmax(1) == y
    radii = torch.where(correct, certified_radius(logits, y, lipschitz_bound(model, math.inf)), 0)
    some = slice(0, TRIAL_IMAGES)
    eps = round(choose_eps(radii[some], lambda eps: pgd_survives(model, x[some], y[some], eps, **CASCADE_ATTACK)), 4)
    survives = pgd_survives(model, x, y, eps, **CASCADE_ATTACK)

    began = time.perf_counter()
    certificate = certify(model, x, y, eps, CHEAP, skip=~survives)
    seconds = time.perf_counter() - began
    undecided = (survives & ~certificate.certified).nonzero().squeeze(1)
    costly = {}
    for method, batch in COSTLY.items() if len(undecided) else ():
        for most in (FEW, UNDECIDED):
            rows = undecided[:most]
            each = _tally(certify(model, x[rows], y[rows], eps, (method,), batch_size=batch))[method]
            costly[method] = {**each, "seconds_each": each["seconds"] / len(rows)}
            if costly[method]["seconds_each"] > PATIENCE:
                break
    return {
        **data.identity,
        "test_images": len(x),
        "eps": eps,
        "attack": CASCADE_ATTACK,
        "correct": int(correct.sum()),
        "survives": int(survives.sum()),
        "certified": int(certificate.certified.sum()),
        "tallies": _tally(certificate),
        "seconds": seconds,
        "undecided": len(undecided),
        "costly": costly,
        "asked": 120.0,
        "asked_share": SHARE,
    }


def cascade(data: Dataset) -> dict:
    model, seconds = train_for_cascade(data)
    return {"training": {**CASCADE, "epochs": CASCADE_SCHEDULE.epochs, "seconds": seconds}, **run_cascade(model, data)}


# d: the digits.

DIGITS_EPS = 0.1
MULTIPLES = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times DIGITS_EPS
DIGITS_EPOCHS, DIGITS_WIDTH, DIGITS_IMAGES = 40, 128, 360


def digits_nets(data: Dataset) -> dict[str, Net]:
    """Trains an ℓ∞-dist net, and a net of distance features with a linear head.

    Training is a third as long as in the recipe ``digits``.
    """
    schedule, nets = Schedule(epochs=DIGITS_EPOCHS, eps=1.5 * DIGITS_EPS, p_end=0.9 * DIGITS_EPOCHS), {}
    spec = linf_plugin.models.distance.linf_mlp(data.shape, data.classes, DIGITS_WIDTH, 3, data.mean, data.std)
    linear = [*spec["layers"][:-2], ["linear", {"in_features": DIGITS_WIDTH, "out_features": data.classes}]]

    def hinge(model, x, y, step):
        return clipped_hinge(model(x), y, scale * step.eps, weight=0.05 * 0.004**step.progress)

    def cross_entropy(model, x, y, step):  # the head's Lipschitz bound is far too loose for a hinge
        return F.cross_entropy(model(x), y)

    for name, layers, loss, lr in (
        ("ℓ∞-dist net", spec["layers"], hinge, 0.03),
        ("ℓ∞-dist features and Linear", linear, cross_entropy, 0.02),
    ):
        torch.manual_seed(0)
        model = nets[name] = Net({**spec, "layers": layers})
        scale = lipschitz_bound(model.eval(), math.inf)
        fit(model, loss, adam(model, lr), schedule, data.x_train, data.y_train, batch_size=64, progress=False)
        model.requires_grad_(False)
    return nets


def proofs(model: Net, x: Tensor, y: Tensor, eps: float) -> dict[str, Tensor]:
    """Returns the same as ``certify_each``, with α-CROWN added.

    α-CROWN starts from CROWN.  It runs only on images that CROWN does not certify and an attack does not break.
    """
    found = certify_each(model, x, y, eps, (*CHEAP, "crown"))
    skip = found["crown"] | ~pgd_survives(model, x, y, eps)
    alpha = found["crown"] | certify(model, x, y, eps, ("alpha-crown",), skip=skip).certified
    return {**found, "alpha-crown": alpha, "best": found["best"] | alpha}


def digits_accuracies() -> dict:
    """Counts, at each ε, the test images that each certificate proves by itself, and that any of them proves."""
    data = load_dataset("digits")
    x, y, nets = data.x_test[:DIGITS_IMAGES], data.y_test[:DIGITS_IMAGES], {}
    values = [round(DIGITS_EPS * multiple, 6) for multiple in MULTIPLES]
    for name, model in digits_nets(data).items():
        certified = {eps_key(eps): {m: int(c.sum()) for m, c in proofs(model, x, y, eps).items()} for eps in values}
        nets[name] = {"clean": int((model(x).argmax(1) == y).sum()), "certified": certified}
    return {
        **data.identity,
        "images": len(x),
        "eps": DIGITS_EPS,
        "epochs": DIGITS_EPOCHS,
        "width": DIGITS_WIDTH,
        "nets": nets,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--parts", default="a,b,c,d", metavar="LIST", help="of a, b, c, d; default: a,b,c,d")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with MNIST/raw; part c needs it")


def run(args: argparse.Namespace, save: Save) -> dict:
    """Measures the parts that are asked for; saves after each."""
    parts, path = args.parts.split(","), args.out / FILE
    if wrong := [part for part in parts if part not in ("a", "b", "c", "d")]:
        raise ValueError(f"--parts must be among a, b, c, d, got {wrong[0]!r}")
    results = read(args.out, STUDY.name) if path.exists() else {}
    if (there := sorted(results.keys() & set(parts))) and not args.force:
        raise WouldReplace(f"{path} has part {', '.join(there)}")
    mnist = load_dataset("mnist", args.data_dir) if "c" in parts else None
    measures = {"a": time_interval_bounds, "b": measure_memory, "c": lambda: cascade(mnist), "d": digits_accuracies}
    for part in parts:
        measured = measures[part]()
        versions = {"linf-plugin": linf_plugin.__version__, "torch": torch.__version__}
        results[part] = {"threads": torch.get_num_threads(), "versions": versions, **measured}
        results = dict(sorted(results.items()))
        save(results)
    return results


STUDY = Study("cost", DESCRIPTION, add_arguments, run, table, goes_on=True)

if __name__ == "__main__":
    sys.exit(main(STUDY))
