"""The metadata of an ONNX file: what the file says about itself."""

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

from ..files.seal import FORMAT
from .certificate import RadiusConstants
from .radius_l2 import PairConstants
from .settings import PIXELS, Settings

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime")
FROM_TRAINING = ("method", "dataset", "train_data_sha256", "test_data_sha256", "seed", "recipe")
FROM_RUN = "run_"  # the keys of what the training run reported begin with this
# No certificate rests on these keys.
TOLD = ("versions", *FROM_TRAINING, "checkpoint_sha256", "checkpoint")
MEASURED = ("test_images", "clean_accuracy", "certified_accuracy", "certified_accuracy_by")
CLAIMED_CERTIFICATES = {  # value of the key ``certificate`` → whether there are a radius and an interval bound
    None: (False, False),
    "lipschitz": (True, False),
    "interval": (False, True),
    "lipschitz, interval": (True, True),
}
CERTIFICATE_NAMES = {there: name for name, there in CLAIMED_CERTIFICATES.items()}


@dataclass(frozen=True)
class Accuracy:
    """What an ONNX file gets right on test images.

    Attributes:
        images: how many images there are.
        correct: how many of them it classifies correctly.
        certified: how many of the correct ones it certifies; None where it has no certificate for an ε.
        certificate: "lipschitz" or "interval", by which they are certified; None where ``certified`` is.
    """

    images: int
    correct: int
    certified: int | None = None
    certificate: str | None = None


def accuracy_properties(accuracy: Accuracy) -> dict[str, str]:
    """The accuracies of a file, as metadata."""
    props = {"test_images": accuracy.images, "clean_accuracy": accuracy.correct / accuracy.images}
    if accuracy.certified is not None:
        props["certified_accuracy"] = accuracy.certified / accuracy.images
        props["certified_accuracy_by"] = accuracy.certificate
    return {key: str(value) for key, value in props.items()}


def file_sha256(path: str | os.PathLike) -> str:
    """The SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def at_epsilon(accuracies: dict[str, float], epsilon: float) -> float | None:
    """The accuracy at epsilon; None where there is none.  The keys are numbers as text."""
    return next((v for k, v in accuracies.items() if math.isclose(float(k), epsilon, rel_tol=1e-6)), None)


def _from_run(metadata: dict) -> dict:
    """What the training run reported about the net: its accuracy, and that of each certificate at the ε of the run."""
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
    """The installed versions of the packages that write a file."""
    found = {"linf_plugin": linf_plugin.__version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def claimed(
    settings: Settings, about: dict[str, str] | None = None, constants: RadiusConstants | PairConstants | None = None
) -> dict[str, str]:
    """The metadata that a certificate rests on.  ``verify`` computes them anew.

    Args:
        settings: those of the file.
        about: the description of the net, under the key ``net`` or ``graph``; None where the file has none.
        constants: those of the certified radius; None where there is no radius.
    """
    props = {"file_format": FORMAT, "norm": settings.norm, "flavour": settings.flavour} | (about or {})
    certificate = CERTIFICATE_NAMES[constants is not None, settings.interval and about is not None]
    if certificate is not None:
        props["certificate"] = certificate
    if constants is not None:
        props |= {
            "lipschitz": constants.lipschitz,
            "rounding_slack": constants.slack,
            "radius_unit": PIXELS[settings.pixels][0],
        }
    if isinstance(constants, PairConstants):
        props["rounding_slope"] = constants.slope
    if settings.epsilon is not None:
        props["epsilon"] = float(settings.epsilon)
    return {key: str(value) for key, value in props.items()}


def told(metadata: dict, checkpoint: str | os.PathLike | None = None, folder: Path = Path()) -> dict[str, str]:
    """The metadata that no certificate rests on.  What is not known is left out.

    Accuracies whose keys begin with ``run_`` are those that the training run reported, by its own certificates.

    Args:
        metadata: what ``linf_plugin.load`` returned.
        checkpoint: the file that the net comes from.
        folder: where the ONNX file lies; the path of the checkpoint is relative to it.
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
    """Whether ``told`` may give this key."""
    return key in TOLD or re.fullmatch(FROM_RUN + r"[\w.-]+", key) is not None
