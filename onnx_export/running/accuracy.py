"""Runs test images through an ONNX file, and counts those that it classifies correctly and certifies."""

import os
from collections.abc import Iterator

import numpy as np
import onnxruntime
from torch import Tensor
from tqdm import tqdm

from linf_plugin.progress import hidden

from ..writing.metadata import Accuracy
from ..writing.settings import PIXELS
from .session import run, session

BATCH = 128


def as_input(session: onnxruntime.InferenceSession, images: Tensor) -> Iterator[np.ndarray]:
    """Images (N, C, H, W) or rows (N, F) in [0, 1], in batches and in the type of a session: float32 or bytes."""
    size = session.get_inputs()[0].shape[0]
    for x in images.split(size if isinstance(size, int) else BATCH):
        if session.get_inputs()[0].type == "tensor(uint8)":
            yield np.rint(x.numpy() * PIXELS["byte"][1]).astype(np.uint8)
        else:
            yield x.numpy()


def run_all(session: onnxruntime.InferenceSession, images: Tensor, progress: bool = True) -> dict[str, np.ndarray]:
    """Each output of a session for all images (N ≥ 1, C, H, W).  On a terminal there is a progress bar."""
    names, parts = [output.name for output in session.get_outputs()], []
    with tqdm(total=len(images), unit="image", disable=hidden(progress), leave=False) as bar:
        for x in as_input(session, images):
            parts.append(run(session, x))
            bar.update(len(x))
    return {name: np.concatenate(part) for name, part in zip(names, zip(*parts))}


def accuracy_of(outputs: dict[str, np.ndarray], labels: Tensor, epsilon: float | None, levels: int = 1) -> Accuracy:
    """The accuracies that the outputs for all images show.

    An image counts as certified by "interval" if one of the certificates proves it: ``certified``, or a radius above ε.

    Args:
        outputs: by name, as ``run_all`` returns them.
        labels: (N,).
        epsilon: in units of the pixel range; None: nothing is certified.
        levels: how many units of the radii the pixel range has.
    """
    right = outputs["logits"].argmax(1) == labels.numpy()
    if epsilon is None or ("certified_radius" not in outputs and "certified" not in outputs):
        return Accuracy(len(right), int(right.sum()))
    found = np.zeros(len(right), bool)
    if "certified_radius" in outputs:
        found |= outputs["certified_radius"].astype(np.float64) > epsilon * levels
    if "certified" in outputs:
        found |= outputs["certified"]
    by = "interval" if "certified" in outputs else "lipschitz"
    return Accuracy(len(right), int(right.sum()), int((right & found).sum()), by)


def levels_of(session: onnxruntime.InferenceSession) -> int:
    """How many units of the input, and of radii, the pixel range has."""
    return PIXELS["byte" if session.get_inputs()[0].type == "tensor(uint8)" else "float"][1]


def measure(path: str | os.PathLike, images: Tensor, labels: Tensor, epsilon: float | None) -> Accuracy:
    """The accuracies of an ONNX file on images (N, C, H, W) or rows (N, F) with labels (N,), computed on the CPU."""
    s = session(path, "cpu")
    return accuracy_of(run_all(s, images), labels, epsilon, levels_of(s))
