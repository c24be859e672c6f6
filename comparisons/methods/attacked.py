"""Adversarial training in balls of ℓ∞, of ℓ2 or of both, with or without noise at the input."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import Net
from linf_plugin.arguments import check_count, check_not_negative, check_positive
from linf_plugin.layers.noise import GaussianNoise, LaplaceNoise, Noise, UniformNoise
from linf_plugin.norms import check_norm
from linf_plugin.training import Schedule, Step
from linf_plugin.volumes import equal_volume_radius

from .searched import adversarial_in_ball

INPUT_NOISE: dict[str, Callable[[float], Noise]] = {  # name → standard deviation → layer
    "gaussian": GaussianNoise,
    "uniform": lambda sigma: UniformNoise(math.sqrt(3) * sigma),
    "laplace": lambda sigma: LaplaceNoise(sigma / math.sqrt(2)),
}


class AttackedCrossEntropy:
    """The cross-entropy at adversarial inputs, E max_{‖τ‖_p ≤ ε_p} CE(f(x + τ + noise), y).

    Each call of the net, in the search and in the loss, draws noise of its own.  The trained net is f, without noise.
    Add the noise again where it is used: ``nn.Sequential(GaussianNoise(sigma), net)``.  With sigma = 0 and ℓ∞ the loss
    is that of ``pgd``, bit for bit.  With two norms, each sample takes the input with the larger loss in evaluation
    mode (MAT-Max), or a norm that is drawn with equal probabilities (MAT-Rand).

    Pinot et al. (arXiv 1903.10219), section 5 (RAT); Araujo et al. (arXiv 2012.02632), section 4 (MAT).

    Args:
        model: has an ``input_shape``.
        schedule: its ε is that of ℓ∞.
        norms: one or two of "linf" and "l2".
        random: whether the norm is drawn.
        eps_l2: the radius in ℓ2 when ε has reached its largest value; before, both are the same part of that.  By
            default the ball has the volume of that in ℓ∞ (``volumes.equal_volume_radius``).
        noise: a key of ``INPUT_NOISE``.
        sigma: its standard deviation, at least 0, in the pixel range.
        steps, size: of the search; a step of size 1 is as long as the radius.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """

    def __init__(
        self,
        model: Net,
        schedule: Schedule,
        *,
        norms: tuple[str, ...] = ("linf",),
        random: bool = False,
        eps_l2: float | None = None,
        noise: str = "gaussian",
        sigma: float = 0.0,
        steps: int = 10,
        size: float = 0.25,
    ):
        check_count("steps", steps)
        check_positive("size", size)
        check_not_negative("sigma", sigma)
        if noise not in INPUT_NOISE:
            raise ValueError(f"noise must be one of {', '.join(INPUT_NOISE)}, got {noise!r:.80}")
        self.norms = [check_norm(norm) for norm in norms]
        if not set(self.norms) <= {math.inf, 2.0} or not self.norms:
            raise ValueError(f"norm must be linf or l2, got {', '.join(norms)}")
        if eps_l2 is not None:
            check_not_negative("eps_l2", eps_l2)
        elif schedule.eps:
            eps_l2 = equal_volume_radius(math.prod(model.input_shape), schedule.eps)
        self.ratios = {math.inf: 1.0, 2.0: (eps_l2 or 0.0) / schedule.eps if schedule.eps else 0.0}
        self.random, self.noise, self.steps, self.size = random, INPUT_NOISE[noise](sigma), steps, size

    def __call__(self, model: nn.Module, x: Tensor, labels: Tensor, step: Step) -> Tensor:
        noisy = nn.Sequential(self.noise, model)
        noisy.training = model.training  # a Sequential starts in training mode
        if step.eps == 0:
            return F.cross_entropy(noisy(x), labels)
        return F.cross_entropy(noisy(self.moved(noisy, x, labels, step.eps)), labels)

    def moved(self, model: nn.Module, x: Tensor, labels: Tensor, eps: float) -> Tensor:
        """Returns the adversarial inputs, (N, *).

        eps: the present radius in ℓ∞.
        """
        if len(self.norms) == 1:
            return self._searched(model, x, labels, eps, self.norms[0])
        if not self.random:
            found = [self._searched(model, x, labels, eps, norm) for norm in self.norms]
            losses = torch.stack([_losses(model, points, labels) for points in found])
            return torch.stack(found)[losses.argmax(0), torch.arange(len(x), device=x.device)]
        drawn, moved = torch.randint(len(self.norms), (len(x),), device=x.device), x.clone()
        for number, norm in enumerate(self.norms):
            rows = (drawn == number).nonzero().squeeze(1)
            if len(rows):
                moved[rows] = self._searched(model, x[rows], labels[rows], eps, norm)
        return moved

    def _searched(self, model: nn.Module, x: Tensor, labels: Tensor, eps: float, norm: float) -> Tensor:
        radius = eps * self.ratios[norm]
        return adversarial_in_ball(model, x, labels, radius, self.steps, self.size, norm) if radius else x


@torch.no_grad()
def _losses(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """Returns the cross-entropy of each sample, in evaluation mode."""
    training = model.training
    model.eval()
    losses = F.cross_entropy(model(x), labels, reduction="none")
    model.train(training)
    return losses
