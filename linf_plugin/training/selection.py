"""Chooses which model of a run is kept.  Candidates are measured on data that training does not use."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..layers.base import set_p
from ..layers.shifts import MeanShift
from .iteration import seeded
from .parallel import Ranks

BATCH = 1024  # large, because deeper layers see batch means of the layers before them
MEANS_FROM = 10_000  # as many training images are enough for the means of a candidate


@dataclass
class Best:
    """The best candidate so far.

    epoch: the epoch after which it was measured.  weights: "last" or "average".  figures: the result of ``validate``.
    state: its parameters and buffers, on the CPU.
    """

    epoch: int
    weights: str
    figures: dict
    state: dict[str, Tensor]


def finish(model: nn.Module, images: Iterable[Tensor], ranks: Ranks = Ranks()) -> nn.Module:
    """Sets p = ∞, re-estimates the means from batches of ``images`` and switches to evaluation mode, in place."""
    set_p(model, math.inf)
    if any(isinstance(m, MeanShift) for m in model.modules()):
        ranks.reestimate_means(model, images)
    return model.eval()


def batches(x: Tensor, seed: int = 0, at_most: int | None = None) -> Iterable[Tensor]:
    """Returns x in batches, or a random sample of ``at_most`` of its images in batches."""
    if at_most is None or len(x) <= at_most:
        return x.split(BATCH)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:at_most].to(x.device)
    return (x[part] for part in rows.split(BATCH))


def measure(
    weights: dict[str, nn.Module], validate: Callable, epoch: int, best: Best | None, x: Tensor, seed: int
) -> tuple[dict, Best]:
    """Measures a finished copy of each model and keeps the best.  The models and the random generators do not change.

    Args:
        weights: {"last": model, "average": …}.
        validate: ``validate(model) → {"certified": …, …}``.  The highest "certified" wins; among equal ones the latest
            wins.
        epoch: the epoch that has just ended.
        best: the best candidate of the epochs before.
        x: training images, for the means.

    Returns:
        the figures of ``validate`` for each model, and the best candidate.

    Raises:
        ValueError: the figures of ``validate`` have no "certified".
    """
    found = {}
    for name, model in weights.items():
        with seeded(seed):
            candidate = finish(copy.deepcopy(model), batches(x, seed, MEANS_FROM))
            figures = {key: float(value) for key, value in validate(candidate).items()}
        if "certified" not in figures:
            keys = ", ".join(figures) or "nothing"
            raise ValueError(f'validate must return a dict with "certified", got {keys}')
        found[name] = figures
        if best is None or _score(figures) >= _score(best.figures):
            state = {key: value.detach().cpu().clone() for key, value in candidate.state_dict().items()}
            best = Best(epoch, name, figures, state)
    return found, best


def _score(figures: dict) -> float:
    return -math.inf if math.isnan(figures["certified"]) else figures["certified"]
