"""The classes that a random net gives at an input, and the entropy of their distribution, with an interval."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_count, check_finite, check_logits, check_model, check_samples, check_seed
from ..progress import bar, hidden
from .counts import check_probability
from .counts import lower as ends_below
from .counts import upper as ends_above

OUTWARD = 1e-9  # by which an entropy is moved outward, far more than float64 rounding changes
STEPS = 100  # halvings of the level of the box's entropy


@torch.no_grad()
def class_counts(
    model: nn.Module, x: Tensor, draws: int, *, seed: int = 0, batch_size: int = 512, progress: bool = False
) -> Tensor:
    """Returns how often a random net gives each class at each sample: (N, classes + 1) int64.

    The last column counts draws with a NaN among the logits: they are of no class.  Each sample has a seed of its own,
    from ``seed`` and its place, so that any part of the samples can be counted alone.  PyTorch's generators are left as
    they were.

    Args:
        model: maps (N, *) to logits, with noise of PyTorch's default generators; in evaluation mode.
        x: (N, *).
        draws: how many times each sample is classified.
        seed: in [0, 2³²).
        batch_size: how many draws are classified at once.  Another one may draw other noise.
        progress: shows a bar.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_model(model)
    check_samples(x, model)
    check_finite(x=x)
    check_count("draws", draws)
    check_count("batch_size", batch_size)
    check_seed(seed)
    counts = None
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        for place in bar(range(max(1, len(x))), desc="draws", disable=hidden(progress)):
            torch.manual_seed(_seed(seed, place))
            sample = x[place : place + 1] if len(x) else x.new_zeros(1, *x.shape[1:])
            for done in range(0, draws if len(x) else 1, batch_size):
                size = min(batch_size, draws - done)
                logits = model(sample.expand(size, *x.shape[1:]))
                classes = check_logits(logits, size)
                if counts is None:
                    counts = torch.zeros(len(x), classes + 1, dtype=torch.int64)
                if len(x):
                    counts[place] += _counted(logits, classes)
    return counts


def _counted(logits: Tensor, classes: int) -> Tensor:
    given = torch.where(logits.isnan().any(1), classes, logits.argmax(1))
    return torch.bincount(given, minlength=classes + 1).cpu()


def _seed(seed: int, place: int) -> int:
    """Returns a seed of 32 bits, all that the generator of the CPU reads."""
    import numpy as np

    return int(np.random.SeedSequence([seed, place]).generate_state(1)[0])


@dataclass(frozen=True)
class Entropy:
    """Entropies of distributions, in nats: (N,) float64 each.

    estimate: of the observed frequencies; on average it is too low.  lower, upper: the ends of the interval.
    """

    estimate: Tensor
    lower: Tensor
    upper: Tensor


def entropy(counts: Tensor, alpha: float) -> Entropy:
    """Returns the entropy of each row's distribution, with an interval that fails with probability at most alpha.

    Each half of alpha pays for one statement, and the interval is where both agree.

    1. The entropy Ĥ of the frequencies of n draws in k classes.  H − log(1 + (k − 1)/n) ≤ E Ĥ ≤ H (Paninski, Neural
       Computation 15, 2003).  One other draw changes Ĥ by at most c = (log n + (n − 1)·log(n/(n − 1)))/n, because
       −t·log t is concave.  So |Ĥ − E Ĥ| ≤ c·√(n·log(4/alpha)/2), by McDiarmid's inequality.
    2. Clopper–Pearson intervals [l_i, u_i] of all probabilities at once.  The entropy is at most the largest one over
       distributions with l ≤ p ≤ u, and at least −log max u_i.  For any level v > 0 and p_i = v moved into [l_i, u_i],
       the former is at most H(p) − (1 + log v)·(1 − Σ p_i), by duality; v is chosen so that this is low.

    Args:
        counts: (N, k) of integers, each row with at least one draw.
        alpha: in (0, 1), for each row.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_probability("alpha", alpha)
    if not isinstance(counts, Tensor) or counts.is_floating_point() or counts.dtype == torch.bool:
        raise TypeError("counts must be a tensor of integers (N, k)")
    if counts.dim() != 2 or (counts < 0).any() or (counts.sum(1) < 1).any() or counts.shape[1] < 2:
        raise ValueError(f"counts must have shape (N, k ≥ 2), none below 0, and a draw in each row, got {counts.shape}")
    counts, k = counts.cpu().double(), counts.shape[1]
    n = counts.sum(1)
    estimate = _entropy(counts / n[:, None])
    change = (n.log() + torch.where(n > 1, (n - 1) * (n / (n - 1).clamp_min(1)).log(), 0.0)) / n
    spread = change * (n * math.log(4 / alpha) / 2).sqrt()
    low, high = _intervals(counts, n, alpha / (4 * k))
    lower = torch.maximum(estimate - spread, -high.amax(1).log()) - OUTWARD
    upper = torch.minimum(estimate + spread + torch.log1p((k - 1) / n), _largest(low, high)) + OUTWARD
    return Entropy(estimate, lower.clamp_min(0.0), upper.clamp(0.0, math.log(k) + OUTWARD))


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(1)


def _intervals(counts: Tensor, n: Tensor, tail: float) -> tuple[Tensor, Tensor]:
    """Returns the Clopper–Pearson ends of each probability; each end fails with probability at most ``tail``."""
    low, high = torch.zeros_like(counts), torch.ones_like(counts)
    for draws in n.unique():
        rows = n == draws
        for ends, found in ((low, ends_below), (high, ends_above)):
            ends[rows] = torch.from_numpy(found(counts[rows].numpy(), int(draws), tail))
    return low, high


def _largest(low: Tensor, high: Tensor) -> Tensor:
    """Returns an upper bound of the entropies of distributions p with low ≤ p ≤ high: (N,)."""
    below, above = torch.full_like(low[:, :1], 1e-300), torch.ones_like(low[:, :1])
    for _ in range(STEPS):
        level = (below + above) / 2
        over = torch.clamp(level, low, high).sum(1, keepdim=True) > 1
        below, above = torch.where(over, below, level), torch.where(over, level, above)
    level = (below + above) / 2
    p = torch.clamp(level, low, high)
    return _entropy(p) - (1 + level.log().squeeze(1)) * (1 - p.sum(1))
