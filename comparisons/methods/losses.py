"""The losses that a recipe can name."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import Net, lipschitz_bound
from linf_plugin.training import Schedule, Step, clipped_hinge, hinge, interval_cross_entropy, interval_hinge, ramp
from linf_plugin.training.boxes import worst_margins

from .attacked import AttackedCrossEntropy
from .robust import RobustCrossEntropy


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


class LipschitzHinge(_FallingEntropy):
    """The clipped hinge of a net whose Lipschitz bound changes as it trains, such as one that is projected.

    The bound is at most ``lipschitz``, which the optimiser must ensure.  The cross-entropy's weight falls with ε.
    """

    def __init__(self, model: Net, schedule: Schedule, ce_first: float, ce_last: float, lipschitz: float = 1.0):
        super().__init__(ce_first, ce_last)
        self.scale = lipschitz

    def forward(self, model: Net, x: Tensor, y: Tensor, step: Step) -> Tensor:
        radius = self.scale * step.eps
        weight = self.weight(step)
        if radius == 0:
            return weight * F.cross_entropy(self.scalar * model(x), y)
        return clipped_hinge(model(x), y, radius, weight, self.scalar)


class OffsetCrossEntropy(nn.Module):
    """Cross-entropy of logits over ``temperature``, after ``offset`` was subtracted from that of the label.

    It asks for margins of ``offset`` and more, from a net whose Lipschitz bound is fixed.  The default is a margin that
    certifies a radius of 1.5 in ℓ2.  Prach and Lampert (arXiv 2208.03160), Araujo et al. (arXiv 2303.03169).
    """

    def __init__(
        self, model: nn.Module, schedule: Schedule, temperature: float = 0.25, offset: float = 1.5 * math.sqrt(2)
    ):
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        super().__init__()
        self.temperature, self.offset = temperature, offset

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        z = model(x)
        z = z - self.offset * F.one_hot(y.long(), z.shape[1])
        return self.temperature * F.cross_entropy(z / self.temperature, y)


class MultiMargin(nn.Module):
    """The sum over j ≠ y of max(0, ``margin`` − z_y + z_j), divided by the number of classes.

    Meunier et al. (arXiv 2110.12690).
    """

    def __init__(self, model: nn.Module, schedule: Schedule, margin: float = 0.7):
        if not margin > 0:
            raise ValueError(f"margin must be positive, got {margin}")
        super().__init__()
        self.margin = margin

    def forward(self, model: nn.Module, x: Tensor, y: Tensor, step: Step) -> Tensor:
        return F.multi_margin_loss(model(x), y, margin=self.margin)


# The baselines.  Each is ``RobustCrossEntropy`` with some of its arguments fixed, and others left to the recipe.


def _plain(model: Net, schedule: Schedule, l1: float = 0.0) -> RobustCrossEntropy:
    return RobustCrossEntropy(model, schedule, alpha=0.0, steps=1, kappa=1.0, l1=l1)


def _pgd(
    model: Net,
    schedule: Schedule,
    steps: int = 10,
    size: float = 0.25,
    kappa: float = 0.0,
    l1: float = 0.0,
    spectral: float = 0.0,
) -> RobustCrossEntropy:
    how = {"alpha": 0.0, "steps": steps, "size": size, "kappa_first": kappa, "kappa": kappa}
    return RobustCrossEntropy(model, schedule, **how, l1=l1, spectral=spectral)


def _ibp(
    model: Net,
    schedule: Schedule,
    kappa: float = 0.5,
    kappa_first: float = 1.0,
    warmup: float = 0.0,
    tolerance: float = 0.5,
    l1: float = 0.0,
    leak: float = 0.0,
) -> RobustCrossEntropy:
    how = {"kappa_first": kappa_first, "kappa": kappa, "warmup": warmup, "tolerance": tolerance}
    return RobustCrossEntropy(model, schedule, **how, l1=l1, leak=leak)


def _crown_ibp(
    model: Net,
    schedule: Schedule,
    kappa: float = 0.5,
    kappa_first: float = 1.0,
    fused: bool = False,
    warmup: float = 0.0,
    tolerance: float = 0.5,
    l1: float = 0.0,
) -> RobustCrossEntropy:
    how = {"kappa_first": kappa_first, "kappa": kappa, "warmup": warmup, "tolerance": tolerance, "l1": l1}
    return RobustCrossEntropy(model, schedule, linear=1.0, fused=fused, **how)


def _mtl_ibp(
    model: Net,
    schedule: Schedule,
    alpha: float,
    steps: int = 1,
    size: float = 2.0,
    warmup: float = 0.5,
    tolerance: float = 0.5,
    l1: float = 0.0,
) -> RobustCrossEntropy:
    how = {"alpha": alpha, "steps": steps, "size": size, "kappa_first": 0.0, "kappa": 0.0}
    return RobustCrossEntropy(model, schedule, **how, warmup=warmup, tolerance=tolerance, l1=l1)


def _sabr(
    model: Net,
    schedule: Schedule,
    part: float,
    steps: int = 8,
    size: float = 0.5,
    warmup: float = 0.5,
    tolerance: float = 0.5,
    l1: float = 0.0,
) -> RobustCrossEntropy:
    how = {"part": part, "steps": steps, "size": size, "kappa_first": 0.0, "kappa": 0.0}
    return RobustCrossEntropy(model, schedule, **how, warmup=warmup, tolerance=tolerance, l1=l1)


# Adversarial training in ℓ2, in two norms, or with noise.


def _pgd_l2(
    model: Net, schedule: Schedule, steps: int = 10, size: float = 0.25, eps_l2: float | None = None
) -> AttackedCrossEntropy:
    return AttackedCrossEntropy(model, schedule, norms=("l2",), eps_l2=eps_l2, steps=steps, size=size)


def _rat(
    model: Net,
    schedule: Schedule,
    sigma: float,
    noise: str = "gaussian",
    norm: str = "linf",
    steps: int = 10,
    size: float = 0.25,
    eps_l2: float | None = None,
) -> AttackedCrossEntropy:
    how = {"noise": noise, "sigma": sigma, "steps": steps, "size": size}
    return AttackedCrossEntropy(model, schedule, norms=(norm,), eps_l2=eps_l2, **how)


def _mat_max(
    model: Net, schedule: Schedule, steps: int = 10, size: float = 0.25, eps_l2: float | None = None
) -> AttackedCrossEntropy:
    return AttackedCrossEntropy(model, schedule, norms=("linf", "l2"), eps_l2=eps_l2, steps=steps, size=size)


def _mat_rand(
    model: Net, schedule: Schedule, steps: int = 10, size: float = 0.25, eps_l2: float | None = None
) -> AttackedCrossEntropy:
    how = {"random": True, "steps": steps, "size": size}
    return AttackedCrossEntropy(model, schedule, norms=("linf", "l2"), eps_l2=eps_l2, **how)


LOSSES = {
    "clipped-hinge": ClippedHinge,
    "hinge": Hinge,
    "interval-ramp": IntervalRamp,
    "interval-ce": IntervalCrossEntropy,
    "interval-hinge": IntervalHinge,
    "lipschitz-hinge": LipschitzHinge,
    "offset-ce": OffsetCrossEntropy,
    "multi-margin": MultiMargin,
    "plain": _plain,  # cross-entropy of clean images
    "pgd": _pgd,  # of adversarial ones: Madry et al., arXiv 1706.06083; ``spectral``: Araujo et al., arXiv 2006.08391
    "ibp": _ibp,  # Gowal et al., arXiv 1810.12715; with ``warmup`` Shi et al., arXiv 2103.17268
    "crown-ibp": _crown_ibp,  # Zhang et al., arXiv 1906.06316; with ``fused`` Xu et al., arXiv 2002.12920
    "mtl-ibp": _mtl_ibp,  # De Palma et al., arXiv 2305.13991
    "sabr": _sabr,  # Müller et al., arXiv 2210.04871
    "pgd-l2": _pgd_l2,  # of adversarial images in ℓ2
    "rat": _rat,  # of adversarial images with noise: Pinot et al., arXiv 1903.10219
    "mat-max": _mat_max,  # of the worse of two adversarial images, in ℓ∞ and ℓ2: Araujo et al., arXiv 2012.02632
    "mat-rand": _mat_rand,  # of one in a norm that is drawn for each image: the same
}
