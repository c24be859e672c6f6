"""Certificates of this package, put to another verifier: Marabou, on an exported file.

``python -m onnx_export.verifiers.marabou --out DIR`` trains small nets, asks, and writes results.json and table.md.
"""

import argparse
import importlib.metadata
import math
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from linf_plugin.certificates.lipschitz import sound_radius
from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.files import add_force, occupied, write_json, write_text
from linf_plugin.models.architectures import build
from linf_plugin.models.net import Net
from linf_plugin.training import Schedule, adam, clipped_hinge, fit

from ..writing.plain import verifier_model
from ..writing.settings import VERIFIER_FLAVOURS

INSIDE, BEYOND = 0.99, 1.01  # of the certified radius, of the exact one

DESCRIPTION = """\
Certificates, put to another verifier.  Trains small nets on the digits, and asks Marabou about correctly classified
test images: can an input within the certified radius change the class, and one a little beyond the exact radius?

Written to --out: results.json and table.md.  Exit status 1 where Marabou contradicts a certificate."""


def _marabou() -> tuple[ModuleType, ModuleType, ModuleType]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where TensorFlow is missing
            from maraboupy import Marabou, MarabouCore, MarabouUtils
    except ImportError as error:
        raise ImportError("cross_check needs Marabou: pip install linf-plugin[marabou] (Python up to 3.11)") from error
    return Marabou, MarabouCore, MarabouUtils


class _Verifier:
    """A net's file, read by Marabou once, and run by onnxruntime."""

    def __init__(self, net: Net, flavour: str, time_limit: float):
        self.marabou, self.core, self.utils = _marabou()
        self.net, self.time_limit = net, time_limit
        model = verifier_model(net, flavour)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx.save(model, path)
            self.network = self.marabou.read_onnx(str(path))
        self.inputs, self.outputs = (v[0].ravel().tolist() for v in (self.network.inputVars, self.network.outputVars))

    def ask(self, x: Tensor, label: int, eps: float) -> dict:
        """Whether some x′ with ‖x′ − x‖∞ ≤ eps and 0 ≤ x′ ≤ 1 has z_j ≥ z_label for a j ≠ label.

        One query, with a disjunction over j: Marabou is faster with it than with a query a class.
        """
        low, high = _box(x, eps)
        for variable, l, u in zip(self.inputs, low.ravel().tolist(), high.ravel().tolist()):
            self.network.setLowerBound(variable, l)
            self.network.setUpperBound(variable, u)
        self.network.disjunctionList.clear()
        self.network.addDisjunctionConstraint(
            [[self._at_most(label, j)] for j in range(len(self.outputs)) if j != label]
        )
        options = self.marabou.createOptions(verbosity=0, timeoutInSeconds=math.ceil(self.time_limit))
        began = time.perf_counter()
        verdict, values, _ = self.network.solve(verbose=False, options=options)
        answer = {"eps": eps, "verdict": verdict.lower(), "seconds": time.perf_counter() - began}
        if verdict == "sat":
            point = np.array([values[v] for v in self.inputs]).reshape(x.shape).clip(low, high)
            answer["margin"] = self._margin(point.astype(np.float32)[None], label)
        return answer

    def _at_most(self, label: int, j: int):
        """z_label − z_j ≤ 0."""
        equation = self.utils.Equation(self.core.Equation.LE)
        equation.addAddend(1, self.outputs[label])
        equation.addAddend(-1, self.outputs[j])
        equation.setScalar(0)
        return equation

    @torch.no_grad()
    def _margin(self, x: np.ndarray, label: int) -> float:
        """z_label − max z_j as PyTorch or as onnxruntime computes it in float32, the larger."""
        logits = self.net(torch.from_numpy(x))[0].double().numpy(), self.session.run(None, {"x": x})[0][0].astype(float)
        return max(float(z[label] - np.delete(z, label).max()) for z in logits)


def _box(x: Tensor, eps: float) -> tuple[np.ndarray, np.ndarray]:
    at = x.double().numpy()
    return (at - eps).clip(0, 1), (at + eps).clip(0, 1)


def _exact_radius(net: Net):
    """The function, where the net is one that it encodes."""
    from linf_plugin.certificates.exact.radius import exact_radius  # with auto_LiRPA, which certificates do not need
    from linf_plugin.certificates.exact.steps import LAYERS

    return exact_radius if all(type(layer) in LAYERS for layer in net) else None


@torch.no_grad()
def cross_check(
    net: Net,
    images: Tensor,
    labels: Tensor,
    flavour: str = "maxpool",
    *,
    radii: Tensor | None = None,
    time_limit: float = 30.0,
    count: int | None = None,
    progress: bool = True,
) -> list[dict]:
    """Puts certificates to Marabou 2.0: of each image that the net classifies correctly with a positive radius,

    - "inside": does an input within 0.99 × the certified radius change or tie the class?  Expected: "unsat";
    - "beyond": and one within 1.01 × the exact radius?  Expected: "sat".  Not asked where no input in range changes
      the class, and of nets that ``exact_radius`` cannot encode (tanh, sorted sums, crops, ordinary convolutions).

    What a verdict proves.  Marabou computes in float64 with tolerances of about 1e-6 and writes no proof, and it is
    asked about the exact function of the exported weights, which differ from the net's by roundings.  "unsat" is
    therefore a second opinion by other people's bounds and search, not a proof; a verdict within those tolerances of
    the boundary says nothing, hence 0.99 and 1.01.  "sat" comes with a point, of which the float32 margin is computed
    by PyTorch and by onnxruntime.  Whatever else Marabou answers ("timeout", "unknown", "quit_requested", "error")
    decides nothing.

    Args:
        net: in evaluation mode, of the layers that Marabou reads.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,).
        flavour: of ``verifier_model``; Marabou is by far faster with "maxpool".
        radii: (N,), to be checked in the place of ``sound_radius``, in units of the pixel range.
        time_limit: seconds for each query, and for each exact radius; Marabou rounds it up to whole ones.
        count: how many images, the first ones; all where not given.
        progress: a bar on a terminal.

    Returns:
        For each of these images a plain dict: row, label, radius, promised (the margin that the radius promises at
        0.99 of itself), exact (lower, upper, status; or None), inside and beyond (eps, verdict, seconds, and with
        "sat" margin; or None).

    Raises:
        ImportError: Marabou is missing.
        TypeError, ValueError: as ``verifier_model`` and ``sound_radius``; radii or time_limit are not as described.
    """
    if not 0 < time_limit < math.inf:
        raise ValueError(f"time_limit must be positive and finite, got {time_limit}")
    if radii is not None and radii.shape != labels.shape:
        raise ValueError(f"radii must have shape {tuple(labels.shape)}, got {tuple(radii.shape)}")
    verifier, exact_radius = _Verifier(net, flavour, time_limit), _exact_radius(net)
    radii = sound_radius(net, images, labels) if radii is None else radii
    right = net(images).argmax(1) == labels
    rows = (right & (radii > 0)).nonzero().squeeze(1)[:count].tolist()
    results = []
    for row in tqdm(rows, desc=f"Marabou, {flavour}", unit="image", disable=None if progress else True):
        x, label, radius = images[row], int(labels[row]), float(radii[row])
        eps = INSIDE * radius
        result = {
            "row": row,
            "label": label,
            "radius": radius,
            "promised": 2 * net.lipschitz * (radius - eps),
            "exact": None,
            "inside": verifier.ask(x, label, eps),
            "beyond": None,
        }
        if exact_radius is not None:
            found = exact_radius(net, x, label, time_limit=time_limit)
            if found.upper < math.inf:
                result["exact"] = {"lower": found.lower, "upper": found.upper, "status": found.status}
                result["beyond"] = verifier.ask(x, label, BEYOND * found.upper)
        results.append(result)
    return results


# What the results say, from plain data.


def contradicts(result: dict) -> bool:
    """Whether Marabou contradicts this package about one image: it found a point inside whose float32 margin is less
    than half of what the certificate promises there, or none where rational arithmetic has found one."""
    inside, beyond = result["inside"], result["beyond"]
    broken = inside["verdict"] == "sat" and inside["margin"] <= result["promised"] / 2
    return broken or beyond is not None and beyond["verdict"] == "unsat"


def contradictions(results: Iterable[dict]) -> int:
    return sum(map(contradicts, results))


def _verdicts(answers: list[dict], expected: str) -> list[str]:
    """ "20 of 24", and the median of their seconds."""
    seconds = [a["seconds"] for a in answers if a["verdict"] == expected]
    return [f"{len(seconds)} of {len(answers)}", f"{statistics.median(seconds):.2f}" if seconds else "–"]


def table(measured: dict) -> str:
    """Markdown, a row for each net and flavour, of what ``measure`` returned."""
    header = ["net", "flavour", "clean %", "mean radius", "unsat inside", "s", "sat beyond", "s", "contradictions"]
    rows, largest = [], [0.0]
    for case in measured["cases"]:
        for flavour, results in case["results"].items():
            inside = [r["inside"] for r in results]
            beyond = [r["beyond"] for r in results if r["beyond"] is not None]
            largest += [a["margin"] for a in beyond if "margin" in a]
            rows.append(
                [
                    case["label"],
                    flavour,
                    f"{100 * case['clean']:.1f}",
                    f"{statistics.fmean(r['radius'] for r in results):.3f}" if results else "–",
                    *_verdicts(inside, "unsat"),
                    *_verdicts(beyond, "sat"),
                    str(contradictions(results)),
                ]
            )
    wrong = sum(int(row[-1]) for row in rows)
    lines = [header, ["---", "---"] + ["---:"] * (len(header) - 2), *rows]
    limit = f"{measured['time_limit']:g}"
    return (
        "\n\n".join(
            [
                f"## Certificates put to Marabou {measured['versions']['maraboupy']}",
                f"Correctly classified test images of the digits with a positive certified radius. Inside: within {INSIDE} × "
                "the certified radius, where no input may change the class. Beyond: within "
                f"{BEYOND} × the exact radius, where one does. Radii in the pixel range; s: median of the seconds of such "
                f"verdicts, reading the file apart. What is missing Marabou left open: at {limit} seconds, or it gave up before.",
                "\n".join("| " + " | ".join(line) + " |" for line in lines),
                f"The points found beyond have float32 margins of at most {max(largest):.1g}.",
                "No verdict contradicts a certificate or an exact radius."
                if wrong == 0
                else f"**{wrong} verdicts contradict a certificate or an exact radius.**",
            ]
        )
        + "\n"
    )


# The measurement.


def _pooled(data: Dataset) -> Dataset:
    """Averages of 2×2 pixels."""
    return replace(data, x_train=F.avg_pool2d(data.x_train, 2), x_test=F.avg_pool2d(data.x_test, 2))


@dataclass(frozen=True)
class Case:
    """A net of two layers of distances that is trained, with the hinge's weight at the start, and checked."""

    label: str
    pooled: bool
    eps: float
    weight: float
    epochs: int
    flavours: tuple[str, ...]


# Marabou decides next to nothing about 64-16-10 in ReLUs.
CASES = (
    Case("16-16-10", True, 0.05, 0.5, 200, tuple(VERIFIER_FLAVOURS)),
    Case("64-16-10", False, 0.15, 0.05, 60, ("maxpool",)),
)


def _trained(case: Case, data: Dataset) -> Net:
    torch.manual_seed(0)
    net = build("linf-mlp", shape=data.shape, classes=data.classes, width=16, depth=2, mean=data.mean, std=data.std)

    def loss(net, x, y, step):
        return clipped_hinge(net(x), y, radius=step.eps / data.std, weight=case.weight * 0.004**step.progress)

    schedule = Schedule(epochs=case.epochs, eps=case.eps, p_end=round(0.88 * case.epochs))
    fit(net, loss, adam(net, lr=0.03), schedule, data.x_train, data.y_train, batch_size=64, progress=False)
    return net.eval()


def measure(out: Path, count: int, time_limit: float, progress: bool) -> dict:
    """Trains and checks every case, writes ``out/results.json`` after each flavour, and returns what it holds."""
    _marabou()  # before any training
    packages = ("maraboupy", "onnx", "torch")
    measured = {
        "dataset": "digits",
        "inside": INSIDE,
        "beyond": BEYOND,
        "count": count,
        "time_limit": time_limit,
        "versions": {p: importlib.metadata.version(p) for p in packages},
        "cases": [],
    }
    for case in CASES:
        data = load_dataset("digits")
        data = _pooled(data) if case.pooled else data
        net = _trained(case, data)
        with torch.no_grad():
            clean = (net(data.x_test).argmax(1) == data.y_test).double().mean().item()
        results = {}
        measured["cases"].append({"label": case.label, "eps": case.eps, "clean": clean, "results": results})
        for flavour in case.flavours:
            results[flavour] = cross_check(
                net, data.x_test, data.y_test, flavour, time_limit=time_limit, count=count, progress=progress
            )
            write_json(out / "results.json", measured)
    return measured


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status: 0, 1 where a certificate is contradicted, 2 for a wrong request."""
    parser = argparse.ArgumentParser(
        prog="python -m onnx_export.verifiers.marabou",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, metavar="DIR", required=True)
    parser.add_argument("--count", type=int, default=24, metavar="N", help="images of each net; default: 24")
    parser.add_argument("--time-limit", type=float, default=30.0, metavar="SECONDS", help="for one query; default: 30")
    add_force(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    for name in ("count", "time_limit"):
        if not 0 < getattr(args, name) < math.inf:
            print(f"{parser.prog}: error: --{name.replace('_', '-')} must be positive", file=sys.stderr)
            return 2
    if occupied(parser.prog, args.out / "results.json", args.out / "table.md", force=args.force):
        return 2
    try:
        measured = measure(args.out, args.count, args.time_limit, progress=not args.quiet)
    except ImportError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    text = table(measured)
    write_text(args.out / "table.md", text)
    print(text)
    return 1 if contradictions(r for case in measured["cases"] for rs in case["results"].values() for r in rs) else 0


if __name__ == "__main__":
    sys.exit(main())
