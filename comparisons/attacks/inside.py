"""Points inside the ball around a sample and inside the pixel range [0, 1]."""

import torch
from torch import Tensor


def inside(x: Tensor, points: Tensor, eps: float) -> Tensor:
    """Moves points to the nearest ones inside the ball, also where the rounding of x ± ε leaves the ball.

    Args:
        x: (N, *), in [0, 1].
        points: (N, *).  Where a value is NaN, x takes its place.
        eps: ℓ∞ radius.

    Returns:
        (N, *) in the dtype of x, with 0 ≤ result ≤ 1 and, computed in float64, |result − x| ≤ eps.
    """
    exact = x.double()
    wanted = torch.where(points.isnan(), exact, points.double())
    moved = torch.minimum(torch.maximum(wanted, exact - eps), exact + eps).to(x.dtype).clamp(0, 1)
    over = (moved.double() - exact).abs() > eps
    return torch.where(over, torch.nextafter(moved, x), moved)
