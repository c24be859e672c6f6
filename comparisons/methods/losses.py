"""The losses that a recipe can name."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import Net, lipschitz_bound
from linf_plugin.training import Schedule, Step, clipped_hinge, hinge, interval_cross_entropy, interval_hinge, ramp
from linf_plugin.training.boxes import worst_margins

from .bounded import BoundedCrossEntropy


# A loss is built while the model is at p = ∞.  Its ``scale`` is then the Lipschitz bound that will be certified.
class _FallingEntropy(nn.Module):
    """The base of losses that add a cross-entropy to a hinge.

    The weight of the cross-entropy falls from ``ce_first`` to ``ce_last`` as p rises.  Its temperature is learned.
    The hinges are heuristics at finite p.
    """

    def __init__(self, ce_first: float, ce_last: float):
        if not (ce_first > 0 and ce_last > 0):
            raise ValueError(f"ce_first and ce_last must be positive, got {ce_first} and {ce_last}")
        super().__init__()
        self.scalar = nn.Parameter(torch.ones(()))
        self.ce_first, self.ce_last = ce_first, ce_last

    def weight(self, step: Step) -> float:
        return self.ce_first * (self.ce_last / self.ce_first) ** step.progress


class ClippedHinge(_FallingEntropy):
    """The clipped hinge of the margins of a distance net."""

    def __init__(self, model: Net, schedule: Schedule, ce_first: float, ce_last: float):
        super().__init__(ce_first, ce_last)
        self.scale = lipschitz_bound(model, math.inf)

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return clipped_hinge(model(x), y, self.scale * step.eps, self.weight(step), self.scalar)


class IntervalRamp(_FallingEntropy):
    """A ramp, ``width`` logits wide, of the worst margins by intervals.

    It is for nets whose interval bounds are much tighter than their Lipschitz bound, such as nets that clip their
    input.
    """

    def __init__(self, model: Net, schedule: Schedule, width: float, ce_first: float, ce_last: float):
        if not width > 0:
            raise ValueError(f"width must be positive, got {width}")
        super().__init__(ce_first, ce_last)
        self.width = width

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        logits, worst = worst_margins(model, x, y, step.eps)
        return ramp(worst, y, self.width) + self.weight(step) * F.cross_entropy(self.scalar * logits, y)


class Hinge(nn.Module):
    """The hinge without clipping: ``mix`` times that of the worst class + (1 − ``mix``) times the mean over classes."""

    def __init__(self, model: Net, schedule: Schedule, mix: float = 1.0):
        super().__init__()
        self.scale, self.mix = lipschitz_bound(model, math.inf), mix

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return hinge(model(x), y, self.scale * step.eps, self.mix)


class IntervalCrossEntropy(nn.Module):
    """Interval cross-entropy of a Linear–tanh–Linear head over distance features."""

    def __init__(self, model: Net, schedule: Schedule, kappa: float = 0.5):
        super().__init__()
        self.kappa = kappa
        self.scale = lipschitz_bound(model.split_head()[0], math.inf)

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        features, head = model.split_head()
        return interval_cross_entropy(head, features(x), y, self.scale * step.eps, self.kappa)


class IntervalHinge(_FallingEntropy):
    """The interval hinge of a Linear–tanh–Linear head over distance features."""

    def __init__(self, model: Net, schedule: Schedule, ce_first: float, ce_last: float):
        super().__init__(ce_first, ce_last)
        self.scale = lipschitz_bound(model.split_head()[0], math.inf)

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        features, head = model.split_head()
        return interval_hinge(head, features(x), y, self.scale * step.eps, self.weight(step), self.scalar)


def _bounded(crown: bool) -> Callable:
    def build(model: Net, schedule: Schedule, kappa: float = 0.5) -> BoundedCrossEntropy:
        example = torch.zeros(1, *model.input_shape, device=next(model.parameters()).device)
        return BoundedCrossEntropy(model, example, schedule.eps, crown, kappa)

    return build


LOSSES = {
    "clipped-hinge": ClippedHinge,
    "hinge": Hinge,
    "interval-ramp": IntervalRamp,
    "interval-ce": IntervalCrossEntropy,
    "interval-hinge": IntervalHinge,
    "ibp": _bounded(crown=False),
    "crown-ibp": _bounded(crown=True),
}
