"""What an ONNX file says of itself: its metadata, and a digest of the rest of it."""

import hashlib
import importlib.metadata
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import onnx

import linf_plugin

from .certificate import PIXELS, RadiusConstants

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
EPSILON = "epsilon = "  # then ε: how the description of the output ``certified`` begins
FROM_TRAINING = ("method", "dataset", "train_data_sha256", "test_data_sha256", "seed", "recipe")


@dataclass(frozen=True)
class Accuracy:
    """Of an ONNX file on test images, of which it classifies ``correct`` correctly and certifies ``certified``, by
    the certificate of that name ("lipschitz" or "interval"); both None where it has none for an ε."""

    images: int
    correct: int
    certified: int | None = None
    certificate: str | None = None


def accuracy_properties(accuracy: Accuracy) -> dict[str, str]:
    """What a file says of its own accuracies."""
    props = {"test_images": accuracy.images, "clean_accuracy": accuracy.correct / accuracy.images}
    if accuracy.certified is not None:
        props["certified_accuracy"] = accuracy.certified / accuracy.images
        props["certified_accuracy_by"] = accuracy.certificate
    return {key: str(value) for key, value in props.items()}


def props_of(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {p.key: p.value for p in model.metadata_props}


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def content_sha256(model: onnx.ModelProto) -> str:
    """A SHA-256 of everything in a model but its metadata: wherever its weights are stored, they are loaded."""
    total = hashlib.sha256()

    def feed(kind: str, content: bytes) -> None:
        total.update(f"{kind} {len(content)}:".encode())
        total.update(content)

    graph = model.graph
    for kind, parts in (
        ("opset", model.opset_import), ("function", model.functions), ("node", graph.node), ("input", graph.input),
        ("output", graph.output), ("value", graph.value_info),
    ):
        for part in parts:
            feed(kind, part.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        feed("weight", f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        if tensor.HasField("raw_data"):
            feed("raw", tensor.raw_data)
        else:
            feed("typed", tensor.SerializeToString(deterministic=True))
    return total.hexdigest()


def at_epsilon(accuracies: dict[str, float], epsilon: float) -> float | None:
    """The accuracy whose key, a number written out, is epsilon."""
    return next((v for k, v in accuracies.items() if math.isclose(float(k), epsilon, rel_tol=1e-6)), None)


def _from_run(metadata: dict) -> dict:
    """What the run that trained the net reported of it: each of its certificates at its ε."""
    results, found = metadata.get("results") or {}, {}
    if "clean" in results:
        found["run_clean_accuracy"] = results["clean"]
    if "epsilon" in metadata:
        for method, accuracies in results.get("certified", {}).items():
            accuracy = at_epsilon(accuracies, metadata["epsilon"])
            if accuracy is not None:
                found[f"run_certified_accuracy_{method}"] = accuracy
    return found


def properties(
    model: onnx.ModelProto, metadata: dict, *, flavour: str = "function", pixels: str = "float",
    constants: RadiusConstants | None = None, interval: bool = False, epsilon: float | None = None,
    checkpoint: str | os.PathLike | None = None, folder: Path = Path(),
) -> dict[str, str]:
    """The metadata of a file in ``folder``; what is not known is left out.

    Accuracies that begin with ``run_`` are what the training run reported of the net, by certificates of its own.
    """
    versions = {"linf_plugin": linf_plugin.__version__}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    props = {"norm": "linf", "flavour": flavour, "versions": json.dumps(versions)}
    if constants is not None:
        props |= {
            "certificate": "lipschitz, interval" if interval else "lipschitz",
            "lipschitz": constants.lipschitz, "rounding_slack": constants.slack, "radius_unit": PIXELS[pixels][0],
        }
    props |= {key: metadata[key] for key in FROM_TRAINING if key in metadata}
    if epsilon is not None:
        props["epsilon"] = epsilon
    props |= _from_run(metadata)
    if checkpoint is not None:
        props["checkpoint_sha256"] = file_sha256(checkpoint)
        relative = os.path.relpath(os.path.realpath(checkpoint), os.path.realpath(folder))
        props["checkpoint"] = Path(relative).as_posix()
    props["content_sha256"] = content_sha256(model)
    return {key: str(value) for key, value in props.items()}
