"""Asks another verifier, Marabou, whether certificates of this package hold.  Marabou reads an exported file."""

import math
import tempfile
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

from linf_plugin.certificates.lipschitz import sound_radius
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import Net

from ..writing.plain import verifier_model

INSIDE, BEYOND = 0.99, 1.01  # times the certified radius, times the exact radius


def import_marabou() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules of Marabou.  Raises ImportError, which says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where TensorFlow is missing
            from maraboupy import Marabou, MarabouCore, MarabouUtils
    except ImportError as error:
        raise ImportError("cross_check needs Marabou: pip install linf-plugin[marabou] (Python up to 3.11)") from error
    return Marabou, MarabouCore, MarabouUtils


class _Verifier:
    """The file of a net.  Marabou has read it once, and onnxruntime can run it."""

    def __init__(self, net: Net, flavour: str, time_limit: float):
        self.marabou, self.core, self.utils = import_marabou()
        self.net, self.time_limit = net, time_limit
        model = verifier_model(net, flavour)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "net.onnx"
            onnx.save(model, path)
            self.network = self.marabou.read_onnx(str(path))
        self.inputs, self.outputs = (v[0].ravel().tolist() for v in (self.network.inputVars, self.network.outputVars))

    def ask(self, x: Tensor, label: int, eps: float) -> dict:
        """Asks whether an x′ with ‖x′ − x‖∞ ≤ eps and 0 ≤ x′ ≤ 1 has z_j ≥ z_label for a j ≠ label.

        This is one query with a disjunction over j: Marabou is faster with it than with one query for each class.
        """
        low, high = _box(x, eps)
        for variable, least, most in zip(self.inputs, low.ravel().tolist(), high.ravel().tolist()):
            self.network.setLowerBound(variable, least)
            self.network.setUpperBound(variable, most)
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
        """z_label − max z_j in float32, the larger one of PyTorch's and onnxruntime's."""
        logits = self.net(torch.from_numpy(x))[0].double().numpy(), self.session.run(None, {"x": x})[0][0].astype(float)
        return max(float(z[label] - np.delete(z, label).max()) for z in logits)


def _box(x: Tensor, eps: float) -> tuple[np.ndarray, np.ndarray]:
    at = x.double().numpy()
    return (at - eps).clip(0, 1), (at + eps).clip(0, 1)


def _exact_radius(net: Net):
    """``exact_radius``, or None where it cannot encode a layer of the net."""
    from linf_plugin.certificates.exact.radius import exact_radius  # with auto_LiRPA, which certificates do not need
    from linf_plugin.certificates.exact.steps import steps_of

    try:
        steps_of(net, net.input_shape)
    except TypeError:
        return None
    return exact_radius


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
    """Asks Marabou 2.0 about each image that the net classifies correctly and that has a positive radius.

    - "inside": does an input within 0.99 × the certified radius change or tie the class?  The expected answer is
      "unsat".
    - "beyond": does an input within 1.01 × the exact radius do so?  The expected answer is "sat".  This is not asked
      where no input in range changes the class, and for nets that ``exact_radius`` cannot encode (with tanh, sorted
      sums, crops or ordinary convolutions).

    What a verdict proves: Marabou computes in float64 with tolerances of about 1e-6, and it writes no proof.  It is
    asked about the exact function of the exported weights, which differ from those of the net by roundings.  So "unsat"
    is a second opinion, by other people's bounds and search, and not a proof.  A verdict within these tolerances of the
    boundary says nothing; this is the reason for 0.99 and 1.01.  "sat" comes with a point, whose float32 margin is
    computed by PyTorch and by onnxruntime.  All other answers ("timeout", "unknown", "quit_requested", "error") decide
    nothing.

    Args:
        net: in evaluation mode, with layers that Marabou reads.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,).
        flavour: as for ``verifier_model``; Marabou is much faster with "maxpool".
        radii: (N,) in units of the pixel range, which are checked; by default those of ``sound_radius``.
        time_limit: seconds for each query, and for each exact radius.  Marabou rounds it up to whole seconds.
        count: how many images, from the first on; by default all.
        progress: whether there is a bar on a terminal.

    Returns:
        For each of these images a plain dict: row; label; radius; promised, the margin that the radius promises at 0.99
        of itself; exact (lower, upper, status; or None); inside and beyond (eps, verdict, seconds, and with "sat" also
        margin; or None).

    Raises:
        ImportError: Marabou is missing.
        TypeError, ValueError: as ``verifier_model`` and ``sound_radius``, or radii or time_limit are not as described.
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
            "promised": 2 * lipschitz_bound(net, math.inf) * (radius - eps),
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


def contradicts(result: dict) -> bool:
    """Whether Marabou contradicts this package about one image.

    It does if it found a point inside whose float32 margin is less than half of what the certificate promises, or if it
    found no point where rational arithmetic found one.
    """
    inside, beyond = result["inside"], result["beyond"]
    broken = inside["verdict"] == "sat" and inside["margin"] <= result["promised"] / 2
    return broken or (beyond is not None and beyond["verdict"] == "unsat")


def contradictions(results: Iterable[dict]) -> int:
    """How many results contradict this package."""
    return sum(map(contradicts, results))
