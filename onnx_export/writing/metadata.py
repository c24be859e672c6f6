"""What an ONNX file says of itself: its metadata."""

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

import linf_plugin
from linf_plugin.models.net import Net

from ..files.seal import FORMAT
from . import record
from .certificate import PIXELS, RadiusConstants
from .settings import Settings

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
FROM_TRAINING = ("method", "dataset", "train_data_sha256", "test_data_sha256", "seed", "recipe")
FROM_RUN = "run_"  # how keys begin under which stands what the training run reported
TOLD = ("versions", *FROM_TRAINING, "checkpoint_sha256", "checkpoint")
MEASURED = ("test_images", "clean_accuracy", "certified_accuracy", "certified_accuracy_by")
CLAIMED_CERTIFICATES = {  # what the key ``certificate`` says → whether there is a radius, and an interval bound
    None: (False, False),
    "lipschitz": (True, False),
    "lipschitz, interval": (True, True),
}


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


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def at_epsilon(accuracies: dict[str, float], epsilon: float) -> float | None:
    """The accuracy whose key, a number written out, is epsilon."""
    return next((v for k, v in accuracies.items() if math.isclose(float(k), epsilon, rel_tol=1e-6)), None)


def _from_run(metadata: dict) -> dict:
    """What the run that trained the net reported of it: each of its certificates at its ε."""
    results, found = metadata.get("results") or {}, {}
    if "clean" in results:
        found[FROM_RUN + "clean_accuracy"] = results["clean"]
    if "epsilon" in metadata:
        for method, accuracies in results.get("certified", {}).items():
            accuracy = at_epsilon(accuracies, metadata["epsilon"])
            if accuracy is not None:
                found[f"{FROM_RUN}certified_accuracy_{method}"] = accuracy
    return found


@functools.cache
def versions() -> dict[str, str]:
    """Of the packages that write a file, as they are installed."""
    found = {"linf_plugin": linf_plugin.__version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def claimed(settings: Settings, net: Net | None = None, constants: RadiusConstants | None = None) -> dict[str, str]:
    """The metadata that a certificate rests on, which ``verify`` computes anew.

    Args:
        settings: of the file.
        net: None where the file does not describe it.
        constants: of the certified radius; None where there is none.
    """
    props = {"file_format": FORMAT, "norm": "linf", "flavour": settings.flavour}
    if net is not None:
        props["net"] = record.written(net)
    if constants is not None:
        props |= {
            "certificate": "lipschitz, interval" if settings.interval else "lipschitz",
            "lipschitz": constants.lipschitz,
            "rounding_slack": constants.slack,
            "radius_unit": PIXELS[settings.pixels][0],
        }
    if settings.epsilon is not None:
        props["epsilon"] = float(settings.epsilon)
    return {key: str(value) for key, value in props.items()}


def told(metadata: dict, checkpoint: str | os.PathLike | None = None, folder: Path = Path()) -> dict[str, str]:
    """The metadata of a file in ``folder`` that no certificate rests on; what is not known is left out.

    Accuracies that begin with ``run_`` are what the training run reported of the net, by certificates of its own.
    """
    props = {"versions": json.dumps(versions())}
    props |= {key: metadata[key] for key in FROM_TRAINING if key in metadata}
    props |= _from_run(metadata)
    if checkpoint is not None:
        props["checkpoint_sha256"] = file_sha256(checkpoint)
        relative = os.path.relpath(os.path.realpath(checkpoint), os.path.realpath(folder))
        props["checkpoint"] = Path(relative).as_posix()
    return {key: str(value) for key, value in props.items()}


def is_told(key: str) -> bool:
    """Whether it is one of the keys of ``told``."""
    return key in TOLD or re.fullmatch(FROM_RUN + r"[\w.-]+", key) is not None
