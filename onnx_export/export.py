"""A trained net as one ONNX file that stock onnxruntime runs: logits and certified radii."""

import contextlib
import copy
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, helper
from onnxscript import optimizer

import linf_plugin
from linf_plugin.models import Net

from .functions import LINF, attach
from .translate import linf_onnx_kwargs

EXTERNAL_BYTES = 1_500_000_000  # of weights; a protobuf message ends at 2 GiB


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about itself and about torchvision, which a user can do nothing about."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _check(model: Net) -> None:
    """Raises as ``export`` says."""
    if not isinstance(model, Net):
        raise TypeError(f"model must be a linf_plugin.Net, got {type(model).__name__}")
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() first")
    for name, a in model.state_dict().items():
        if a.dtype != torch.float32:
            raise ValueError(f"{name} of model must be float32, got {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{name} of model contains NaN or infinite values")
    if not 0 < model.lipschitz < math.inf:
        raise ValueError(f"model.lipschitz must be positive and finite, got {model.lipschitz}")


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def at_epsilon(accuracies: dict[str, float], epsilon: float) -> float | None:
    """The accuracy whose key, a number written out, is epsilon."""
    return next((v for k, v in accuracies.items() if math.isclose(float(k), epsilon, rel_tol=1e-6)), None)


def properties(model: Net, metadata: dict) -> dict[str, str]:
    """What the ONNX file says of itself; entries that the metadata of the checkpoint lack are left out."""
    packages = ("torch", "onnx", "onnxscript")
    versions = {"linf_plugin": linf_plugin.__version__} | {p: importlib.metadata.version(p) for p in packages}
    props = {
        "norm": "linf",
        "lipschitz": model.lipschitz,
        "radius_unit": "pixel value, images in [0, 1]",
        "versions": json.dumps(versions),
    }
    props |= {key: metadata[key] for key in ("method", "dataset", "epsilon", "seed") if key in metadata}
    results = metadata.get("results") or {}
    if "clean" in results:
        props["clean_accuracy"] = results["clean"]
    if "epsilon" in metadata:
        for method, accuracies in results.get("certified", {}).items():
            accuracy = at_epsilon(accuracies, metadata["epsilon"])
            if accuracy is not None:
                props[f"certified_accuracy_{method}"] = accuracy
    return {key: str(value) for key, value in props.items()}


def _strip(graph: onnx.GraphProto) -> None:
    """Removes the exporter's notes, which tell where on this machine the source code lies."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")


def _graph(model: Net) -> onnx.ModelProto:
    """The net alone, ``x`` → ``logits``, its distances still without bodies."""
    x = torch.zeros(2, *model.input_shape)
    with _quiet():
        program = torch.onnx.export(
            copy.deepcopy(model).cpu(), (x,), input_names=["x"], output_names=["logits"],
            dynamic_shapes=({0: "batch"},), verbose=False, **linf_onnx_kwargs(),
        )
        optimizer.fold_constants(program.model)
        optimizer.remove_unused_nodes(program.model)
    result = program.model_proto
    _strip(result.graph)
    return result


def _add_radius(graph: onnx.GraphProto, lipschitz: float) -> None:
    """Adds the output ``certified_radius`` to a graph ``x`` → ``logits``."""
    inputs, output = ("x", "logits", "lipschitz"), "certified_radius"
    graph.initializer.append(helper.make_tensor("lipschitz", TensorProto.DOUBLE, [], [lipschitz]))
    graph.node.append(helper.make_node("CertifiedRadius", inputs, [output], output, domain=LINF.domain))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"]))


def _write(model: onnx.ModelProto, path: Path) -> None:
    """Writes and checks the file beside its place, then moves it there; large weights become ``<name>.data``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = path.name + ".data"
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder)
        large = sum(len(t.raw_data) for t in model.graph.initializer) > EXTERNAL_BYTES
        onnx.save_model(model, part / path.name, save_as_external_data=large, location=data)
        onnx.checker.check_model(part / path.name, full_check=True)  # with strict shape inference
        if large:
            os.replace(part / data, path.with_name(data))
        os.replace(part / path.name, path)


def export(
    model: Net, path: str | os.PathLike, metadata: dict | None = None,
    checkpoint: str | os.PathLike | None = None,
) -> None:
    """Writes a net with its certificate as an ONNX file, in one move once it is complete and checked.

    Input ``x`` (batch, C, H, W) float32, raw pixels in [0, 1]; outputs ``logits`` (batch, classes) and
    ``certified_radius`` (batch,): no perturbation of x by less than that in any pixel changes the predicted
    class.  The radius is rounded down from the float32 logits; the rounding errors of the logits
    themselves are not subtracted.  The batch may have any size.

    The certificate is the net's Lipschitz bound, valid for every net.  It is strong for distance nets at
    p = ∞, and next to nothing for nets with linear layers.

    Args:
        model: in evaluation mode, with at least two classes.
        path: of the file; missing folders are made.  Weights above ``EXTERNAL_BYTES`` go to ``<path>.data``.
        metadata: what ``linf_plugin.load`` returned: dataset, epsilon, results and so on go into the file.
        checkpoint: the file the model came from; its relative path and SHA-256 go into the file.

    Raises:
        TypeError: model is not a ``Net``.
        ValueError: model is in training mode, not float32, not finite, has one class, or its Lipschitz bound
            is not positive and finite.
        FileNotFoundError: checkpoint does not exist.
    """
    _check(model)
    path = Path(path)
    props = properties(model, metadata or {})
    if checkpoint is not None:
        props["checkpoint_sha256"] = file_sha256(checkpoint)
        relative = os.path.relpath(os.path.realpath(checkpoint), os.path.realpath(path.parent))
        props["checkpoint"] = Path(relative).as_posix()
    onnx_model = _graph(model)
    if onnx_model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value < 2:
        raise ValueError("model must have at least two classes")
    _add_radius(onnx_model.graph, model.lipschitz)
    helper.set_model_props(onnx_model, props)
    _write(attach(onnx_model), path)
