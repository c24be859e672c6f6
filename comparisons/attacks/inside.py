"""Points inside the ball around a sample and inside the pixel range [0, 1]."""

import math

import torch
from torch import Tensor

TINY = 1e-300  # keeps 0/0 away where a point does not move


def inside(x: Tensor, points: Tensor, eps: float, norm: float = math.inf) -> Tensor:
    """Moves points into the ball, also where the rounding of x ± ε leaves the ball.

    In ℓ∞ they go to the nearest points of it, in ℓ2 towards x.

    Args:
        x: (N, *), in [0, 1].
        points: (N, *).  Where a value is NaN, x takes its place.
        eps: radius.
        norm: exponent of its norm, ``math.inf`` or 2.

    Returns:
        (N, *) in the dtype of x, with 0 ≤ result ≤ 1 and ‖result − x‖ ≤ eps, computed in float64; in ℓ2 this holds for
        the exact numbers too.
    """
    exact = x.double()
    wanted = torch.where(points.isnan(), exact, points.double())
    if norm == math.inf:
        moved = torch.minimum(torch.maximum(wanted, exact - eps), exact + eps).to(x.dtype).clamp(0, 1)
        over = (moved.double() - exact).abs() > eps
        return torch.where(over, torch.nextafter(moved, x), moved)
    step = _shortened(wanted.clamp(0, 1) - exact, eps)
    moved = (exact + step).to(x.dtype).clamp(0, 1)
    over = (
        moved.double() - exact
    ).abs() > step.abs()  # no number moves further than its step, so the norm is not larger
    return torch.where(over, torch.nextafter(moved, x), moved)


def _shortened(steps: Tensor, eps: float) -> Tensor:
    """Returns steps (N, *) float64, scaled down to an ℓ2 length of at most eps.

    A sum of n squares, its root, a quotient and n products are wrong by less than n + 8 units in the last place.  The
    length is taken to be larger by twice that.
    """
    flat = steps.flatten(1)
    spare = 1 + (flat.shape[1] + 8) * 2.0**-51
    length = torch.linalg.vector_norm(flat, dim=1) * spare
    return steps * (eps / length.clamp_min(TINY)).clamp_max(1.0).view(-1, *[1] * (steps.dim() - 1))
