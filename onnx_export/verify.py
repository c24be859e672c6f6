"""What an ONNX file certifies, recomputed from the file alone and compared with what it says of itself."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, numpy_helper
from torch import Tensor
from tqdm import tqdm

from linf_plugin import rounding

from .certificate import PIXELS, RadiusConstants, radius_constants
from .load import load as load_model
from .properties import EPSILON, Accuracy, content_sha256, props_of
from .read import to_net
from .session import run, session

BATCH = 128


@dataclass(frozen=True)
class Verification:
    """``accuracy`` is recomputed; ``checks`` says what was compared and agrees, ``failures`` what does not."""

    accuracy: Accuracy
    epsilon: float | None
    checks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def as_input(session: onnxruntime.InferenceSession, images: Tensor) -> Iterator[np.ndarray]:
    """Images (N, C, H, W) in [0, 1] in batches of what the session takes: the same, or bytes."""
    size = session.get_inputs()[0].shape[0]
    for x in images.split(size if isinstance(size, int) else BATCH):
        if session.get_inputs()[0].type == "tensor(uint8)":
            yield np.rint(x.numpy() * PIXELS["byte"][1]).astype(np.uint8)
        else:
            yield x.numpy()


def run_all(session: onnxruntime.InferenceSession, images: Tensor, progress: bool = True) -> dict[str, np.ndarray]:
    """Each output for all images (N ≥ 1, C, H, W), with a progress bar on a terminal."""
    names, parts = [output.name for output in session.get_outputs()], []
    with tqdm(total=len(images), unit="image", disable=None if progress else True, leave=False) as bar:
        for x in as_input(session, images):
            parts.append(run(session, x))
            bar.update(len(x))
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts))}


def accuracy_of(outputs: dict[str, np.ndarray], labels: Tensor, epsilon: float | None, levels: int = 1) -> Accuracy:
    """Of the outputs of all images; ``levels``: how many units of the radii the pixel range has.

    By "interval" counts what either certificate proves: ``certified``, or a radius above ε.
    """
    right = outputs["logits"].argmax(1) == labels.numpy()
    if epsilon is None or "certified_radius" not in outputs:
        return Accuracy(len(right), int(right.sum()))
    found = outputs["certified_radius"].astype(np.float64) > epsilon * levels
    if "certified" in outputs:
        found |= outputs["certified"]
    by = "interval" if "certified" in outputs else "lipschitz"
    return Accuracy(len(right), int(right.sum()), int((right & found).sum()), by)


def levels_of(session: onnxruntime.InferenceSession) -> int:
    """Units of the input, and so of radii, in the pixel range."""
    return PIXELS["byte" if session.get_inputs()[0].type == "tensor(uint8)" else "float"][1]


def measure(path: str | os.PathLike, images: Tensor, labels: Tensor, epsilon: float | None) -> Accuracy:
    """The accuracies of an ONNX file on test images, on the CPU."""
    s = session(path, "cpu")
    return accuracy_of(run_all(s, images), labels, epsilon, levels_of(s))


def constants_of(model: ModelProto) -> dict[str, float]:
    """The constants of the radius that stand in the graph."""
    wanted = {"lipschitz", "slack", "most"}
    return {t.name: float(numpy_helper.to_array(t)) for t in model.graph.initializer if t.name in wanted}


def _check_constants(model: ModelProto, props: dict[str, str], found: Verification) -> None:
    """The graph's constants against the metadata, and against what its weights say."""
    graph = constants_of(model)
    for name, key in (("lipschitz", "lipschitz"), ("slack", "rounding_slack")):
        if key in props and float(props[key]) != graph.get(name):
            found.failures.append(f"{key} is {props[key]} in the metadata and {graph.get(name)} in the graph")
    pixels = next((k for k, (_, levels) in PIXELS.items() if levels == graph.get("most")), None)
    if pixels is None:
        found.failures.append(f"the graph caps radii at {graph.get('most')}, which is the range of no kind of pixels")
        return
    try:
        net = to_net(without_bytes(model) if pixels == "byte" else model)
    except ValueError as error:
        found.checks.append(f"Lipschitz bound and rounding slack of the weights: not recomputed ({error})")
        return
    least: RadiusConstants = radius_constants(net, pixels)
    for name in ("lipschitz", "slack"):
        # Folding a mean into a bias, and back, moves either by a rounding of float64.
        if not graph.get(name, 0.0) * rounding.OUTWARD >= getattr(least, name):
            found.failures.append(
                f"the {name} in the graph is {graph.get(name)}, its weights need {getattr(least, name)}"
            )
            return
    found.checks.append(
        f"Lipschitz bound {graph['lipschitz']:.6g} and rounding slack {graph['slack']:.3g} are the weights'"
    )


def without_bytes(model: ModelProto) -> ModelProto:
    """The model as of float32 pixels in [0, 1]: without the first Cast and Div."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    kept = [node for node in graph.node if node.output[0] not in ("x_float", "pixels")]
    graph.ClearField("node")
    graph.node.extend(kept)
    graph.input[0].name = "pixels"
    graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return result


def _check_outputs(outputs: dict[str, np.ndarray], model: ModelProto, found: Verification) -> None:
    """Radii against the file's own logits."""
    logits, graph = outputs["logits"].astype(np.float64), constants_of(model)
    if not np.isfinite(logits).all():
        found.failures.append("logits are not finite")
    if "prediction" in outputs and not np.array_equal(outputs["prediction"], logits.argmax(1)):
        found.failures.append("predictions are not the largest logits")
    if "certified_radius" in outputs and "lipschitz" in graph:
        top = np.sort(logits, axis=1)
        bound = (top[:, -1] - top[:, -2] - graph.get("slack", 0.0)) / (2 * graph["lipschitz"])
        above = int((outputs["certified_radius"] > np.maximum(bound, 0)).sum())
        if above:
            found.failures.append(f"{above} radii are above what the logits certify")
        else:
            found.checks.append("no radius is above what its logits certify")


def _check_accuracies(props: dict[str, str], found: Verification) -> None:
    accuracy = found.accuracy
    if "test_images" not in props:
        return
    if int(props["test_images"]) != accuracy.images:
        found.checks.append(f"accuracies recorded in the file: of {props['test_images']} images, so not compared")
        return
    for key, count in (("clean_accuracy", accuracy.correct), ("certified_accuracy", accuracy.certified)):
        if key not in props:
            continue
        recorded = round(float(props[key]) * accuracy.images)
        if count is None or recorded != count:
            found.failures.append(f"{key}: recorded are {recorded} of {accuracy.images} images, recomputed {count}")
        else:
            found.checks.append(f"{key.replace('_', ' ')} recorded in the file: the same")


def verify(
    path: str | os.PathLike, images: Tensor, labels: Tensor, device: str = "auto", progress: bool = True
) -> Verification:
    """Recomputes an ONNX file's accuracies on test images and compares it with its metadata.

    Compared are: the digest of its content; the Lipschitz bound and the rounding slack in its graph with those that
    its weights, read back as layers, need; its radii with those that its logits allow; its recorded accuracies with
    those recomputed, if they are of as many images.  Nothing but the file and the images is used.

    Args:
        images: (N ≥ 1, C, H, W) float32 in [0, 1].
        labels: (N,).
        device: as ``session`` takes it.

    Raises:
        FileNotFoundError, ValueError, DeviceError: as ``session`` and ``run``; the file has no output ``logits``.
    """
    s = session(path, device)
    if "logits" not in [output.name for output in s.get_outputs()]:
        names = ", ".join(output.name for output in s.get_outputs())
        raise ValueError(f"{path} must have an output logits; it has {names}")
    model = load_model(path)
    props = props_of(model)
    try:
        epsilon = float(props["epsilon"]) if "epsilon" in props else None
    except ValueError:
        raise ValueError(f"the metadata of {path} give no number as epsilon, but {props['epsilon']!r}") from None
    outputs = run_all(s, images, progress)
    found = Verification(accuracy_of(outputs, labels, epsilon, levels_of(s)), epsilon)
    of_interval = [o.doc_string for o in model.graph.output if o.name == "certified"]
    if of_interval and of_interval != [f"{EPSILON}{epsilon!r}"]:
        found.failures.append(
            f"epsilon is {epsilon} in the metadata, and the output certified is of {of_interval[0]!r}"
        )
    if props.get("norm", "linf") != "linf":
        found.failures.append(f"norm is {props['norm']} in the metadata, and the radii are of linf")
    if "content_sha256" in props:
        if props["content_sha256"] == content_sha256(model):
            found.checks.append("content as it was written")
        else:
            found.failures.append("the file was changed since it was written: the digest of its content is another")
    if "certified_radius" in outputs:
        _check_constants(model, props, found)
    elif "certified_accuracy" in props or "certificate" in props:
        found.failures.append("the metadata tell of a certificate, and there is no output certified_radius")
    _check_outputs(outputs, model, found)
    _check_accuracies(props, found)
    return found
