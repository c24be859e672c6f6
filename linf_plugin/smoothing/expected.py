"""The certificate in expectation of a net with noise: how often an attack can make it err, on average."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_labels
from ..norms import as_radius, check_norm
from .classes import Entropy, class_counts, entropy
from .counts import check_probability
from .noise import NoiseShift, certified_risk_gap, noise_shifts


@dataclass(frozen=True)
class ExpectedRisk:
    """What is known of the risk of a net with noise: the mean, over samples, of the probability of an error.

    Attributes:
        eps, norm: the ball of the attack.
        alpha: the probability, over the draws, with which the whole statement may fail.
        draws: for each sample.
        counts: (N, classes + 1), as ``class_counts``.
        shifts: what each noise layer hides.
        divergence, variation: the lowest bounds of the noise layers.
        entropies: of the classes at each sample; all intervals hold at once.
        risk, risk_upper: the risk without an attack: the share of wrong draws, and an upper bound.
        gaps: (N,), by how much an attack can raise the probability of an error at each sample.
    """

    eps: float
    norm: float
    alpha: float
    draws: int
    counts: Tensor
    shifts: list[NoiseShift]
    divergence: float
    variation: float
    entropies: Entropy
    risk: float
    risk_upper: float
    gaps: Tensor

    @property
    def gap(self) -> float:
        """The mean of ``gaps``."""
        return float(self.gaps.mean())

    @property
    def gap_by_entropy(self) -> float:
        """The bound of the paper: 1 − e^{−ε}·mean(e^{−H})."""
        return float(certified_risk_gap(self.divergence, 1.0, self.entropies.upper).mean())

    @property
    def attacked(self) -> float:
        """An upper bound of the risk under any attack in the ball: ``risk_upper`` + ``gap``, at most 1."""
        return min(1.0, self.risk_upper + self.gap)


def expected_risk(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    norm: float | str = 2.0,
    draws: int = 1000,
    alpha: float = 0.001,
    order: float = 1.0,
    seed: int = 0,
    batch_size: int = 512,
    progress: bool = False,
) -> ExpectedRisk:
    """Certifies in expectation: bounds the mean, over the samples, of the largest probability of an error in the ball.

    The attack may choose each x′ with full knowledge of the net and the distribution of its noise, but not of the noise
    that is drawn after it.  With probability at least 1 − alpha over the draws,

        mean_x max_{‖x′ − x‖ ≤ eps} P(M(x′) ≠ y) ≤ risk_upper + mean_x min(V, 1 − e^{−ε − H(x)}).

    Half of alpha pays for the entropies of all N samples, alpha/2N each, and half for the risk, by Hoeffding's
    inequality for N·draws draws.  The noise of PyTorch's generator stands for independent exact noise, and the layers
    before the noise for exact arithmetic.  Pinot et al. (arXiv 1902.01148), theorem 3.

    Args:
        model: a ``Sequential`` with a noise layer, in evaluation mode.
        x, labels: (N, *) and (N,), at least one sample.
        eps, norm: the radius of the ball, in units of x, and its norm.
        draws, seed, batch_size, progress: as ``class_counts``.
        alpha: in (0, 1).
        order: of the Rényi divergence, ≥ 1; 1 gives the best bound.

    Raises:
        TypeError, ValueError: an argument is not as described, or no noise layer hides anything; the message names it.
    """
    eps, norm = as_radius(eps), check_norm(norm)
    check_probability("alpha", alpha)
    counts = class_counts(model, x, draws, seed=seed, batch_size=batch_size, progress=progress)
    if not len(x):
        raise ValueError("x must have at least one sample")
    labels = check_labels(labels, x, counts.shape[1] - 1)
    shifts = noise_shifts(model, tuple(x.shape[1:]), eps, norm, order)
    divergence, variation = (min(getattr(s, name) for s in shifts) for name in ("renyi", "total_variation"))
    entropies = entropy(counts, alpha / (2 * len(x)))
    right = int(counts.gather(1, labels.cpu()[:, None]).sum())
    risk = 1 - right / (len(x) * draws)
    spare = (torch.tensor(2 / alpha, dtype=torch.float64).log() / (2 * len(x) * draws)).sqrt().item()
    gaps = certified_risk_gap(divergence, variation, entropies.upper)
    upper = min(1.0, risk + spare + 1e-12)
    return ExpectedRisk(eps, norm, alpha, draws, counts, shifts, divergence, variation, entropies, risk, upper, gaps)
