"""The losses of the baselines: cross-entropy on clean inputs, on adversarial ones, and on bounds of margins.

All are one sum with other weights:

    κ·CE(clean) + (1 − κ)·(α·CE(worst margins in a box) + (1 − α)·CE(adversarial input)) + warm-up + l1·Σ|w|
        + spectral·Σ log(bound of a layer's spectral norm)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import Net
from linf_plugin.layers.activations import ParamRamp
from linf_plugin.spectral import norm
from linf_plugin.training import Schedule, Step

from .bounded import Bounds, Box, BoxBounds, FusedBounds
from .searched import adversarial, adversarial_in_ball, box_around
from .warmup import balance, tightness

TINY = 1e-12  # the logarithm of the norm of a layer of zeros is taken from here
SMALLEST_EPS = 1e-6  # of the intervals that the warm-up regularisers see before ε rises from 0


class RobustCrossEntropy:
    """The sum above.  Its variants are ``LOSSES``' rows.

    Args:
        model: is trained in place; in evaluation mode when the loss is built.
        schedule: gives the largest ε.
        linear: the share of CROWN-IBP in the bounds of margins at ε = 0; it falls to 0 as ε rises.
        fused: whether CROWN-IBP bounds the loss instead of the margins.
        alpha: α, the weight of the bounds; 1 needs no adversarial inputs, 0 no bounds.
        part: half-width of the box whose margins are bounded, as a part of ε.  Below 1 the box lies around an
            adversarial input, inside of the ball.
        steps, size: of the search for adversarial inputs; a step of size 1 is as long as the ball is half wide.
        kappa_first, kappa: κ, first and at the largest ε.
        warmup: weight of the warm-up regularisers while ε rises; it falls to 0 with that.
        tolerance: of the warm-up regularisers.
        l1: weight of the sum of |w| over all weights of linear layers and convolutions.
        spectral: weight of the sum of log(bound of ‖W‖₂) over all linear layers and convolutions.  For a ReLU net this
            sum is the logarithm of a Lipschitz bound in ℓ2.  Convolutions are bounded by LipBound, linear layers by
            Gram iteration.  Araujo et al. (arXiv 2006.08391).
        leak: first slope of ParamRamp's flat ends; it falls to 0 as ε rises.  The net is then bounded by intervals of
            this package, because auto_LiRPA has constants where a leak would change; linear and fused must be off.
    """

    def __init__(
        self,
        model: Net,
        schedule: Schedule,
        *,
        linear: float = 0.0,
        fused: bool = False,
        alpha: float = 1.0,
        part: float = 1.0,
        steps: int = 0,
        size: float = 0.25,
        kappa_first: float = 1.0,
        kappa: float = 0.0,
        warmup: float = 0.0,
        tolerance: float = 0.5,
        l1: float = 0.0,
        leak: float = 0.0,
        spectral: float = 0.0,
    ):
        _check_share(alpha=alpha, kappa_first=kappa_first, kappa=kappa)
        if not 0 < part <= 1:
            raise ValueError(f"part must lie in (0, 1], got {part}")
        if (alpha < 1 or part < 1) and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if not 0 < tolerance <= 1:
            raise ValueError(f"tolerance must lie in (0, 1], got {tolerance}")
        if min(warmup, l1, leak, spectral) < 0:
            given = f"got {warmup}, {l1}, {leak} and {spectral}"
            raise ValueError(f"warmup, l1, leak and spectral must not be negative, {given}")
        if leak and (linear or fused):
            raise ValueError("leak is only for interval bounds")
        self.eps_max, self.linear = schedule.eps, linear
        self.alpha, self.part, self.steps, self.size = alpha, part, steps, size
        self.kappa_first, self.kappa = kappa_first, kappa
        self.warmup, self.tolerance, self.l1, self.leak, self.spectral = warmup, tolerance, l1, leak, spectral
        self.bounds = None if not alpha else BoxBounds(model) if leak else _bounds_of(model, fused)

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor, step: Step) -> Tensor:
        progress = step.eps / self.eps_max if self.eps_max else 1.0
        for layer in model.modules():
            if isinstance(layer, ParamRamp):
                layer.leak.fill_(self.leak * (1 - progress))
        value = self._entropies(model, x, labels, step.eps, progress)
        if self.l1:
            value = value + self.l1 * sum(_weight_sums(model))
        if self.spectral:
            value = value + self.spectral * sum(_log_norms(model))
        return value

    def _entropies(self, model: nn.Module, x: Tensor, labels: Tensor, eps: float, progress: float) -> Tensor:
        warming = self.warmup * (1 - progress)
        if eps == 0 and not warming:
            return F.cross_entropy(model(x), labels)
        if self.bounds is None:
            return self._without_bounds(model, x, labels, eps, progress)
        ball = box_around(x, eps or SMALLEST_EPS)
        search = self.alpha < 1 or self.part < 1
        moved = adversarial(model, labels, ball, self.steps, self.size) if search and eps else x
        box = ball if self.part == 1 or not eps else _smaller_box(x, moved, eps, self.part)
        kappa = self._kappa(progress) if eps else 1.0
        clean, worst = self.bounds.entropies(x, labels, box, self.linear * (1 - progress) if eps else 0.0)
        value = kappa * clean
        if kappa < 1:
            robust = self.alpha * worst
            if self.alpha < 1:
                robust = robust + (1 - self.alpha) * F.cross_entropy(self.bounds.logits(model, moved), labels)
            value = value + (1 - kappa) * robust
        if warming:
            first, hidden = self.bounds.hidden()
            value = value + warming * (tightness(first, hidden, self.tolerance) + balance(hidden, self.tolerance))
        return value

    def _kappa(self, progress: float) -> float:
        return self.kappa_first + (self.kappa - self.kappa_first) * progress

    def _without_bounds(self, model: nn.Module, x: Tensor, labels: Tensor, eps: float, progress: float) -> Tensor:
        moved = adversarial_in_ball(model, x, labels, eps, self.steps, self.size)
        value, kappa = F.cross_entropy(model(moved), labels), self._kappa(progress)
        return value if not kappa else (1 - kappa) * value + kappa * F.cross_entropy(model(x), labels)


def _check_share(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {share}")


def _bounds_of(model: Net, fused: bool) -> Bounds:
    example = torch.rand(2, *model.input_shape, device=next(model.parameters()).device)
    return (FusedBounds if fused else Bounds)(model, example, model(example).shape[1])


def _smaller_box(x: Tensor, moved: Tensor, eps: float, part: float) -> Box:
    """Returns the ends of a box of half-width part·eps around ``moved``, inside of the ball of radius eps around x.

    Müller et al. (arXiv 2210.04871), section 3: the centre is the adversarial input, moved into the ball of radius
    (1 − part)·eps.
    """
    centre = torch.clamp(moved, x - (1 - part) * eps, x + (1 - part) * eps)
    return box_around(centre, part * eps)


def _weighted(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]


def _weight_sums(model: nn.Module) -> list[Tensor]:
    return [layer.weight.abs().sum() for layer in _weighted(model)]


def _log_norms(model: nn.Module) -> list[Tensor]:
    bounds = [norm(layer, "lipbound" if isinstance(layer, nn.Conv2d) else "gram") for layer in _weighted(model)]
    return [bound.clamp_min(TINY).log() for bound in bounds]
