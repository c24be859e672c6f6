"""Writes the files that have one row, or one adversarial point, for each sample of a method."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..certificates import BEST, failure_of
from ..results import samples
from ..results.samples import CLEAN, RADIUS, Samples
from .measure import SHOWN
from .per_sample import PerSample


def rows_of(found: PerSample) -> Samples:
    """Returns the rows of the file of samples."""
    radii = {name: found.radius.get(name, proved).clamp_min(0.0) for name, proved in found.proved.items()}
    theorems = [radii[name] for name in radii if failure_of(name) == 0]
    best = torch.stack([torch.zeros_like(found.broken), *theorems]).amax(0)
    eps = torch.where(found.broken == math.inf, math.nan, found.broken)
    return samples.samples_of(
        {
            "sample": found.sample.numpy(),
            "label": found.labels.numpy(),
            "prediction": found.prediction.numpy(),
            "margin": found.margin.numpy(),
            **{RADIUS + name: some.numpy() for name, some in {**radii, BEST: best}.items()},
            "broken_eps": torch.where(found.correct, eps, 0.0).numpy(),
            "broken_by": [name if right else CLEAN for name, right in zip(found.by, found.correct.tolist())],
        }
    )


def points_of(found: PerSample, x: Tensor, eps: float) -> dict | None:
    """Returns the content of the file of points: the first samples that an attack broke at ε or a smaller one.

    Returns None if there is none.
    """
    rows = (found.correct & (found.broken <= eps)).nonzero().squeeze(1)[:SHOWN].tolist()
    if not rows:
        return None
    numbers = found.sample[rows]
    return {
        "sample": numbers.numpy(),
        "x": x[numbers.to(x.device)].cpu().numpy(),
        "adversarial": torch.stack([found.points[number] for number in numbers.tolist()]).numpy(),
        "eps": found.broken[rows].numpy(),
        "by": np.array([found.by[row] for row in rows]),
    }


def write_rows(out: Path, method: str, found: PerSample, x: Tensor, eps: float) -> dict[str, str | None]:
    """Writes both files of a method.

    Returns their names, by the names of the fields of ``MethodResult``; None for a file without content.

    Args:
        out: folder.
        found: what is known of the samples x.
        eps: the headline.
    """
    points = points_of(found, x, eps)
    remove_rows(out, method)
    samples.write(out / samples.file_of(method), rows_of(found))
    if points is not None:
        samples.write_points(out / samples.points_file_of(method), points)
    return {"samples": samples.file_of(method), "points": None if points is None else samples.points_file_of(method)}


def remove_rows(out: Path, method: str) -> None:
    """Removes both files of a method, if they are there."""
    for name in (samples.file_of(method), samples.points_file_of(method)):
        (out / name).unlink(missing_ok=True)
