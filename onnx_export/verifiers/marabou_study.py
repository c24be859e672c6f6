"""Trains small nets, and asks Marabou whether their certificates hold.

``python -m onnx_export.verifiers.marabou_study --out DIR`` writes results.json and table.md.
"""

import argparse
import importlib.metadata
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F

from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.files import add_force, occupied, write_json, write_text
from linf_plugin.models.architectures import build
from linf_plugin.models.net import Net
from linf_plugin.training.loop import fit
from linf_plugin.training.losses import clipped_hinge
from linf_plugin.training.optim import adam
from linf_plugin.training.schedule import Schedule

from ..writing.settings import VERIFIER_FLAVOURS
from .marabou import BEYOND, INSIDE, contradictions, contradicts, cross_check, import_marabou

PROG = "python -m onnx_export.verifiers.marabou_study"
DESCRIPTION = """\
Trains small nets on the digits, and asks the verifier Marabou about correctly classified test images: can an input
within the certified radius change the class?  Can an input a little beyond the exact radius change it?

Writes results.json and table.md to --out.  The exit status is 1 if Marabou contradicts a certificate."""


@dataclass(frozen=True)
class TrainedNet:
    """A net of two layers of distances that is trained and checked.

    label: its sizes.  pooled: whether images are averaged over 2×2 pixels.  eps: of training.  weight: of the hinge, at
    the start.  epochs: of training.  flavours: in which Marabou gets it.
    """

    label: str
    pooled: bool
    eps: float
    weight: float
    epochs: int
    flavours: tuple[str, ...]


# Marabou decides almost nothing about 64-16-10 in ReLUs.
TRAINED_NETS = (
    TrainedNet("16-16-10", True, 0.05, 0.5, 200, VERIFIER_FLAVOURS),
    TrainedNet("64-16-10", False, 0.15, 0.05, 60, ("maxpool",)),
)


def _trained(case: TrainedNet, data: Dataset) -> Net:
    torch.manual_seed(0)
    net = build("linf-mlp", shape=data.shape, classes=data.classes, width=16, depth=2, mean=data.mean, std=data.std)

    def loss(net, x, y, step):
        return clipped_hinge(net(x), y, radius=step.eps / data.std, weight=case.weight * 0.004**step.progress)

    schedule = Schedule(epochs=case.epochs, eps=case.eps, p_end=round(0.88 * case.epochs))
    fit(net, loss, adam(net, lr=0.03), schedule, data.x_train, data.y_train, batch_size=64, progress=False)
    return net.eval()


def _pooled(data: Dataset) -> Dataset:
    """The data with images of averages over 2×2 pixels."""
    return replace(data, x_train=F.avg_pool2d(data.x_train, 2), x_test=F.avg_pool2d(data.x_test, 2))


def measure(
    count: int = 24,
    time_limit: float = 30.0,
    progress: bool = True,
    save: Callable[[dict], None] = lambda results: None,
) -> dict:
    """Trains and checks every net.

    Args:
        count: images of each net.
        time_limit: seconds for one query.
        progress: whether there is a bar on a terminal.
        save: is called with the results so far after each net and flavour.

    Returns:
        Plain data for ``table`` and ``wrong``.

    Raises:
        ImportError: Marabou is missing.
    """
    import_marabou()  # before any training
    results = {
        "dataset": "digits",
        "inside": INSIDE,
        "beyond": BEYOND,
        "count": count,
        "time_limit": time_limit,
        "versions": {p: importlib.metadata.version(p) for p in ("maraboupy", "onnx", "torch")},
        "cases": [],
    }
    for case in TRAINED_NETS:
        data = load_dataset("digits")
        data = _pooled(data) if case.pooled else data
        net = _trained(case, data)
        with torch.no_grad():
            clean = (net(data.x_test).argmax(1) == data.y_test).double().mean().item()
        verdicts = {}
        results["cases"].append({"label": case.label, "eps": case.eps, "clean": clean, "results": verdicts})
        for flavour in case.flavours:
            verdicts[flavour] = cross_check(
                net, data.x_test, data.y_test, flavour, time_limit=time_limit, count=count, progress=progress
            )
            save(results)
    return results


def wrong(results: dict) -> list[str]:
    """Each verdict that contradicts a certificate or an exact radius, in words."""
    return [
        f"net {case['label']}, {flavour}: the verdict on image {verdict['row']} contradicts a certificate"
        for case in results["cases"]
        for flavour, verdicts in case["results"].items()
        for verdict in verdicts
        if contradicts(verdict)
    ]


def _verdicts(answers: list[dict], expected: str) -> list[str]:
    """How many are as expected, as "20 of 24", and the median of their seconds."""
    seconds = [a["seconds"] for a in answers if a["verdict"] == expected]
    return [f"{len(seconds)} of {len(answers)}", f"{statistics.median(seconds):.2f}" if seconds else "–"]


PAGE = """\
## Certificates put to Marabou {version}

Correctly classified test images of the digits with a positive certified radius. \
Inside: within {inside} × the certified radius, where no input may change the class. \
Beyond: within {beyond} × the exact radius, where one does. \
Radii in the pixel range; s: median of the seconds of such verdicts, reading the file apart. \
What is missing Marabou left open: at {limit:g} seconds, or it gave up before.

{rows}

The points found beyond have float32 margins of at most {largest:.1g}.

{verdict}
"""
COLUMNS = ["net", "flavour", "clean %", "mean radius", "unsat inside", "s", "sat beyond", "s", "contradictions"]


def _row(case: dict, flavour: str, verdicts: list[dict]) -> list[str]:
    beyond = [v["beyond"] for v in verdicts if v["beyond"] is not None]
    return [
        case["label"],
        flavour,
        f"{100 * case['clean']:.1f}",
        f"{statistics.fmean(v['radius'] for v in verdicts):.3f}" if verdicts else "–",
        *_verdicts([v["inside"] for v in verdicts], "unsat"),
        *_verdicts(beyond, "sat"),
        str(contradictions(verdicts)),
    ]


def table(results: dict) -> str:
    """The results of ``measure`` in Markdown, with a row for each net and flavour."""
    rows = [_row(case, *each) for case in results["cases"] for each in case["results"].items()]
    every = [v for case in results["cases"] for verdicts in case["results"].values() for v in verdicts]
    margins = [v["beyond"]["margin"] for v in every if v["beyond"] is not None and "margin" in v["beyond"]]
    found = len(wrong(results))
    lines = [COLUMNS, ["---", "---"] + ["---:"] * (len(COLUMNS) - 2), *rows]
    return PAGE.format(
        version=results["versions"]["maraboupy"],
        inside=INSIDE,
        beyond=BEYOND,
        limit=results["time_limit"],
        rows="\n".join("| " + " | ".join(line) + " |" for line in lines),
        largest=max([0.0, *margins]),
        verdict=f"**{found} verdicts contradict a certificate or an exact radius.**"
        if found
        else "No verdict contradicts a certificate or an exact radius.",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument("--count", type=int, default=24, metavar="N", help="images of each net; default: 24")
    parser.add_argument("--time-limit", type=float, default=30.0, metavar="SECONDS", help="for one query; default: 30")
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a certificate is contradicted, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        PROG, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args = parser.parse_args(argv)
    for name in ("count", "time_limit"):
        if not 0 < getattr(args, name) < math.inf:
            print(f"{PROG}: error: --{name.replace('_', '-')} must be positive", file=sys.stderr)
            return 2
    path = args.out / "results.json"
    if occupied(PROG, path, args.out / "table.md", force=args.force):
        return 2
    try:
        results = measure(args.count, args.time_limit, not args.quiet, lambda found: write_json(path, found))
    except ImportError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 2
    text = table(results)
    write_text(args.out / "table.md", text)
    print(text)
    for line in wrong(results):
        print(f"{PROG}: {line}", file=sys.stderr)
    return 1 if wrong(results) else 0


if __name__ == "__main__":
    sys.exit(main())
