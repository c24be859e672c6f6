"""Asks another verifier, Marabou, whether certificates of this package hold.  Marabou reads an exported file."""

import math
import time
import warnings
from collections.abc import Iterable
from types import ModuleType

import numpy as np
import onnxruntime
import torch
from torch import Tensor
from tqdm import tqdm

from linf_plugin import extras
from linf_plugin.arguments import check_count
from linf_plugin.certificates.lipschitz import sound_radius
from linf_plugin.certificates.pairs import of_labels, pair_bounds
from linf_plugin.models.net import Net
from linf_plugin.progress import hidden

from ..writing.plain import verifier_model
from . import query_marabou
from .child import Child, Ended

INSIDE, BEYOND = 0.99, 1.01  # times the certified radius, times the exact radius
READING = 120.0  # seconds for reading a net, at most
MEMORY = 4 * 2**30  # bytes
VERDICTS = {"time": "timeout", "memory": "memory", "crash": "error"}  # why a process ended → verdict


def import_marabou() -> tuple[ModuleType, ModuleType, ModuleType]:
    """The modules of Marabou.  Raises ImportError, which says how to install it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where TensorFlow is missing
            from maraboupy import Marabou, MarabouCore, MarabouUtils
    except ImportError as error:
        raise extras.missing("maraboupy") from error
    return Marabou, MarabouCore, MarabouUtils


class _Verifier:
    """The file of a net.  A process of its own reads it with Marabou for each question, and onnxruntime can run it.

    Marabou ignores its time limit in some nets, and may take all memory: the process is ended at both limits.
    """

    def __init__(self, net: Net, flavour: str, time_limit: float, memory: int):
        import_marabou()
        self.net, self.time_limit = net, time_limit
        self.model = verifier_model(net, flavour).SerializeToString()
        self.session = onnxruntime.InferenceSession(self.model, providers=["CPUExecutionProvider"])
        self.child = Child(query_marabou.__file__, memory)
        began = time.perf_counter()
        try:
            self.child.ask({"model": self.model, "points": []}, READING)
        except Ended as ended:
            self.child.close()
            limits = {"time": f"in {READING:g} seconds", "memory": f"with {memory / 2**30:g} GiB"}
            raise ValueError(
                f"Marabou cannot read this net {limits.get(ended.reason, '')}".rstrip()
                + (f": {ended.detail}" if ended.detail else "")
                + "; it is made for small nets, of about 64-16-10"
            ) from ended
        self.reading = time.perf_counter() - began

    def ask(self, x: Tensor, label: int, eps: float) -> dict:
        """Asks whether an x′ with ‖x′ − x‖∞ ≤ eps and 0 ≤ x′ ≤ 1 has z_j ≥ z_label for a j ≠ label.

        This is one query with a disjunction over j: Marabou is faster with it than with one query for each class.
        """
        low, high = _box(x, eps)
        question = {"model": self.model, "points": [], "low": low, "high": high, "label": label}
        began = time.perf_counter()
        try:
            verdict, point = self.child.ask(question | {"seconds": self.time_limit}, self.time_limit + 2 * self.reading)
        except Ended as ended:
            verdict, point = VERDICTS[ended.reason], None
        answer = {"eps": eps, "verdict": verdict, "seconds": time.perf_counter() - began}
        if verdict == "sat":
            point = point.reshape(x.shape).clip(low, high)
            answer["margin"] = self._margin(point.astype(np.float32)[None], label)
        return answer

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
    memory: int = MEMORY,
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
    computed by PyTorch and by onnxruntime.  All other answers ("timeout", "memory", "unknown", "quit_requested",
    "error") decide nothing.

    Args:
        net: in evaluation mode, with layers that Marabou reads.
        images: (N, C, H, W) float32 in [0, 1].
        labels: (N,).
        flavour: as for ``verifier_model``; Marabou is much faster with "maxpool".
        radii: (N,) in units of the pixel range, which are checked; by default those of ``sound_radius``.
        time_limit: seconds for each query, and for each exact radius.  Marabou rounds it up to whole seconds.  Its
            process is ended soon after.
        memory: bytes that Marabou's process may have; Linux refuses more to it.
        count: how many images, from the first on; by default all.
        progress: whether there is a bar on a terminal.

    Returns:
        For each of these images a plain dict: row; label; radius; promised, the margin that the radius promises at 0.99
        of itself; exact (lower, upper, status; or None); inside and beyond (eps, verdict, seconds, and with "sat" also
        margin; or None).

    Raises:
        ImportError: Marabou is missing.
        TypeError, ValueError: as ``verifier_model`` and ``sound_radius``, radii, time_limit or memory are not as
            described, or Marabou cannot read the net within its limits.
    """
    if not 0 < time_limit < math.inf:
        raise ValueError(f"time_limit must be positive and finite, got {time_limit}")
    check_count("memory", memory)
    if radii is not None and radii.shape != labels.shape:
        raise ValueError(f"radii must have shape {tuple(labels.shape)}, got {tuple(radii.shape)}")
    results, verifier = [], _Verifier(net, flavour, time_limit, memory)
    with verifier.child:
        exact_radius = _exact_radius(net)
        radii = sound_radius(net, images, labels) if radii is None else radii
        right = net(images).argmax(1) == labels
        slowest = _slowest(net, labels)
        rows = (right & (radii > 0)).nonzero().squeeze(1)[:count].tolist()
        for row in tqdm(rows, desc=f"Marabou, {flavour}", unit="image", disable=hidden(progress)):
            x, label, radius = images[row], int(labels[row]), float(radii[row])
            eps = INSIDE * radius
            result = {
                "row": row,
                "label": label,
                "radius": radius,
                "promised": float(slowest[row]) * (radius - eps),
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


def _slowest(net: Net, labels: Tensor) -> Tensor:
    """Returns (N,): bounds of how fast the difference of the label's logit and another one changes, the least of all.

    At a distance r − ε from the end of a radius r, the difference to j is at least K_yj·(r − ε).
    """
    bounds = of_labels(pair_bounds(net), labels)
    own = labels.long().unsqueeze(1)
    return bounds.amin(1) if bounds.shape[1] == 1 else bounds.scatter(1, own, math.inf).amin(1)


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
