"""The two regularisers with which interval training warms up.  Shi et al. (arXiv 2103.17268), sections 3.3 and 3.4."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .bounded import Box

TINY = 1e-12


def tightness(first: Box, hidden: list[Box], tolerance: float) -> Tensor:
    """Returns the mean over hidden layers of max(0, tolerance − d₀/d)/tolerance.

    d is the mean half-width of a layer's intervals, d₀ that of ``first``.  So it is 0 where intervals have grown to at
    most 1/tolerance times the width of the input's.
    """
    start = _half(first).mean()
    return torch.stack([F.relu(tolerance - start / _half(box).mean().clamp_min(TINY)) for box in hidden]).mean() / (
        tolerance
    )


def balance(hidden: list[Box], tolerance: float) -> Tensor:
    """Returns the mean over hidden layers of (max(0, tolerance − r) + max(0, tolerance − s))/tolerance.

    It keeps ReLUs that are surely active and surely inactive in balance: r compares the sums of their centres, and s
    the variances, as the smaller divided by the larger.  A layer without ReLUs of both kinds counts 0.
    """
    terms = []
    for low, high in hidden:
        centre, active, inactive = (low + high) / 2, low > 0, high < 0
        if not (active.any() and inactive.any()):
            terms.append(centre.new_zeros(()))
            continue
        spread = (centre - centre.mean()).square()
        means = _ratio((centre * active).sum(), -(centre * inactive).sum())
        variances = _ratio((spread * active).sum(), (spread * inactive).sum())
        terms.append((F.relu(tolerance - means) + F.relu(tolerance - variances)) / tolerance)
    return torch.stack(terms).mean()


def _half(box: Box) -> Tensor:
    return (box[1] - box[0]) / 2


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.clamp_min(TINY), b.clamp_min(TINY)
    return torch.minimum(a / b, b / a)
