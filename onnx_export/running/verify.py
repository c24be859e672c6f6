"""Recomputes what an ONNX file certifies, from the file and the images only, and compares it with its claims."""

import copy
import os
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor

from linf_plugin.float32.reach import reach
from linf_plugin.norms import NORMS, SYMBOLS

from ..files.load import content_of, parsed, stored_otherwise
from ..files.seal import props_of
from ..reading.recompute import contradictions, net_of, settings_of
from ..writing.metadata import MEASURED, Accuracy, accuracy_properties
from ..writing.settings import FLAVOURS
from ..writing.traced.compose import Traced
from .accuracy import BATCH, accuracy_of, levels_of, run_all
from .session import session_of


@dataclass(frozen=True)
class Verification:
    """What was found about a file.

    Attributes:
        accuracy: recomputed; None where the file was not run.
        epsilon: the ε of the file.
        checks: what was compared and agrees, in words.
        failures: what does not agree or could not be compared, in words.
    """

    accuracy: Accuracy | None
    epsilon: float | None
    checks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def constants_of(model: ModelProto) -> dict[str, float | np.ndarray]:
    """The constants of the radius in the graph: numbers, and in ℓ2 also the arrays ``pairs`` and ``centre``."""
    wanted = {"lipschitz", "pairs", "centre", "slack", "slope", "most"}
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in wanted}
    return {name: a if a.ndim else float(a) for name, a in found.items()}


def _say(model: ModelProto, found: Verification) -> None:
    """Adds to ``found.checks`` what ``contradictions`` has compared."""
    settings, constants, props = settings_of(model), constants_of(model), props_of(model)
    found.checks.append("the content is as it was written")
    if FLAVOURS[settings.flavour].for_verifiers or not (settings.certified or settings.interval):
        found.checks.append("it has no certificate and claims none")
        return
    found.checks.append("graph, bodies and metadata are those that are written for this net")
    if settings.certified:
        found.checks.append(
            f"the radius is in {SYMBOLS[NORMS[settings.norm]]}; Lipschitz bound {float(props['lipschitz']):.6g} and "
            f"rounding slack {constants['slack']:.3g} are those of the weights"
        )
    if settings.interval:
        found.checks.append(f"the interval bound is that of the weights, for ε = {settings.epsilon:g}")


def _allowed_radii(logits: np.ndarray, images: np.ndarray, graph: dict[str, float | np.ndarray]) -> np.ndarray:
    """The radii, in float64, that logits allow by the constants in the graph; without an upper limit.

    Args:
        logits: (N, classes) float64.
        images: (N, *) float64, as the file takes them after their division, where it takes bytes.
        graph: as ``constants_of`` returns it.
    """
    if "pairs" not in graph:
        top = np.sort(logits, axis=1)
        return np.maximum((top[:, -1] - top[:, -2] - graph["slack"]) / (2 * graph["lipschitz"]), 0)
    own = logits.argmax(1)[:, None]
    bounds = graph["pairs"][own[:, 0]] if len(graph["pairs"]) > 1 else graph["pairs"]
    distance = np.sqrt(np.square(images - graph["centre"]).reshape(len(logits), -1).sum(1, keepdims=True))
    ahead = np.take_along_axis(logits, own, 1) - logits - (graph["slack"] + graph["slope"] * distance)
    quotients = np.where(np.arange(logits.shape[1]) == own, np.inf, ahead) / bounds
    return np.maximum(quotients.min(1), 0)


def _check_outputs(outputs: dict[str, np.ndarray], model: ModelProto, images: Tensor, found: Verification) -> None:
    """Checks the radii and the ends of intervals by the logits of the file.

    Args:
        images: as the file takes them after their division, where it takes bytes.
    """
    logits, graph = outputs["logits"].astype(np.float64), constants_of(model)
    if not np.isfinite(logits).all():
        found.failures.append("logits are not finite")
    if "prediction" in outputs and not np.array_equal(outputs["prediction"], logits.argmax(1)):
        found.failures.append("predictions are not the classes of the largest logits")
    if "certified_radius" in outputs:
        allowed = _allowed_radii(logits, images.numpy().astype(np.float64), graph)
        above = int((outputs["certified_radius"] > allowed).sum())
        if above:
            found.failures.append(f"{above} radii are above what the logits certify")
        else:
            found.checks.append("no radius is above what its logits certify")
    if "lower" in outputs:
        inside = (outputs["lower"] <= logits) & (logits <= outputs["upper"])
        if not inside.all():
            found.failures.append(f"{int((~inside).sum())} logits are not between their bounds")
        else:
            found.checks.append("every logit is between its bounds")


@torch.no_grad()
def _check_logits(outputs: dict[str, np.ndarray], net: Traced, images: Tensor, found: Verification) -> None:
    """Checks that the logits of a traced net are those of its operations, up to their rounding.

    A runtime may make other nodes of the nodes in the file.  If these compute another function, no certificate holds.

    Args:
        images: as the file takes them after their division, where it takes bytes.
    """
    exact, wrong = copy.deepcopy(net.graph).double(), 0
    logits = torch.from_numpy(outputs["logits"]).double()
    for x, y in zip(images.double().split(BATCH), logits.split(BATCH)):
        wrong += int(((y - exact(x.clone())).abs() > reach(exact, x, x).error).sum())
    if wrong:
        found.failures.append(
            f"{wrong} logits are not those of the net in the file: this onnxruntime computes another net"
        )
    else:
        found.checks.append("every logit is that of the net in the file, up to rounding")


def check_accuracies(props: dict[str, str], found: Verification) -> None:
    """Checks the recorded accuracies: a file records all or none of them, and they are those that were found."""
    recorded = {key: props[key] for key in MEASURED if key in props}
    if not recorded:
        return
    images, expected = str(found.accuracy.images), accuracy_properties(found.accuracy)
    if recorded.get("test_images") != images:
        found.failures.append(
            f"the file records accuracies of {recorded.get('test_images', 'an unknown number of')} images, and these "
            f"are {images}: they are not recomputed"
        )
        return
    for key in MEASURED:
        if recorded.get(key) != expected.get(key):
            found.failures.append(
                f"{key}: recorded is {recorded.get(key, 'nothing')}, recomputed {expected.get(key, 'nothing')}"
            )
        elif key in ("clean_accuracy", "certified_accuracy") and key in recorded:
            found.checks.append(f"{key.replace('_', ' ')} recorded in the file: the same")


def verify(
    path: str | os.PathLike, images: Tensor, labels: Tensor, device: str = "auto", progress: bool = True
) -> Verification:
    """Recomputes what an ONNX file certifies, from the file and the images only, and compares it with its claims.

    The net is read back, and the file is written anew from it.  The two must be the same, except for parts that no
    certificate rests on (``recompute.contradictions``).  Then the file is run: no radius may be above what its logits
    allow, and the recorded accuracies must be those that are found.  What cannot be recomputed is a failure.  If there
    is a failure before the file is run, it is not run.

    Args:
        path: of the file.
        images: (N ≥ 1, C, H, W) float32 in [0, 1].
        labels: (N,).
        device: as for ``session``.
        progress: whether there is a progress bar on a terminal.

    Raises:
        FileNotFoundError, ValueError, DeviceError, LessThanFloat32: as ``load.load``, ``session`` and ``run``, or there
            is not one label for each image.
    """
    return verify_content(content_of(path), path, images, labels, device, progress)


def verify_content(
    content: bytes, path: str | os.PathLike, images: Tensor, labels: Tensor, device: str = "auto", progress: bool = True
) -> Verification:
    """Does what ``verify`` does, with the bytes that were read from the file."""
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(
            f"labels must have shape (N,) for N ≥ 1 images, got {tuple(labels.shape)} for {len(images)} images"
        )
    model = parsed(content, path)
    wrong = contradictions(model)
    if not wrong and stored_otherwise(content, path):
        wrong = ["its bytes are not those that this program writes for its content"]
    if wrong:
        return Verification(None, None, failures=[f"{os.fspath(path)}: {a}" for a in wrong])
    props, settings = props_of(model), settings_of(model)
    s = session_of(content, path, device)
    outputs = run_all(s, images, progress)
    found = Verification(accuracy_of(outputs, labels, settings.epsilon, levels_of(s)), settings.epsilon)
    _say(model, found)
    levels = levels_of(s)
    taken = images if levels == 1 else (images * levels).round() / levels
    _check_outputs(outputs, model, taken, found)
    if isinstance(net := net_of(model) if "graph" in props else None, Traced):
        _check_logits(outputs, net, taken, found)
    check_accuracies(props, found)
    return found
