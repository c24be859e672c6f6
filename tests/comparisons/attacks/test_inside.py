"""Points land in the ball and in the pixel range, exactly."""

import pytest
import torch

from comparisons.attacks.inside import inside


@pytest.mark.parametrize("eps", [0.3, 0.1, 8 / 255, 1e-3, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_land_inside_the_ball_and_the_pixel_range(eps, dtype):
    x = torch.rand(500, 1, 4, 4, dtype=dtype)
    moved = inside(x, x + eps * torch.randn_like(x).sign() * 1.5, eps)
    assert moved.dtype == dtype and ((moved.double() - x.double()).abs() <= eps).all()
    assert 0 <= moved.min() and moved.max() <= 1


def test_points_inside_stay():
    x = torch.rand(20, 3)
    points = (x + 0.05 * torch.rand_like(x)).clamp(0, 1)
    assert torch.equal(inside(x, points, 0.1), points)


def test_nan_is_no_point():
    x = torch.full((1, 3), 0.5)
    points = torch.tensor([[float("nan"), float("inf"), -float("inf")]])
    assert inside(x, points, 0.25).tolist() == [[0.5, 0.75, 0.25]]
