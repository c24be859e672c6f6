"""Points land in the ball and in the pixel range, exactly."""

from fractions import Fraction

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


def exactly_inside(x, moved, eps) -> bool:
    """Whether ‖moved − x‖₂ ≤ eps for the rational numbers that the tensors hold."""
    pairs = zip(x.flatten(1).tolist(), moved.flatten(1).tolist())
    squares = (sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(*pair)) for pair in pairs)
    return all(square <= Fraction(eps) ** 2 for square in squares)


@pytest.mark.parametrize("eps", [3.0, 1.58, 0.5, 36 / 255, 1e-3, 1e-7, 0.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1, 2, 49, 784])
def test_points_land_inside_the_l2_ball_exactly(eps, dtype, size):
    x = torch.rand(12, size, dtype=dtype)
    x[0], x[1] = 0, 1
    x[2] = 2.0**-60  # much smaller than the moves
    for spread in (1.0, 1e-3, 1e-8):
        moved = inside(x, x + spread * torch.randn_like(x), eps, 2.0)
        assert moved.dtype == dtype and 0 <= moved.min() and moved.max() <= 1
        assert exactly_inside(x, moved, eps)


def test_points_on_the_edge_of_the_l2_ball_stay_near_it():
    """What rounding takes away is small beside the radius."""
    x, way = torch.full((100, 64), 0.5), torch.randn(100, 64)
    for eps in (0.5, 1e-3):
        moved = inside(x, x + 2 * eps * way / way.norm(dim=1, keepdim=True), eps, 2.0)
        reached = (moved.double() - x.double()).norm(dim=1)
        assert exactly_inside(x, moved, eps) and (reached > 0.999 * eps).all()


def test_points_beyond_the_pixel_range_are_cut_before_they_are_shortened():
    x, points = torch.tensor([[0.9, 0.5]]), torch.tensor([[5.0, 0.5]])
    assert inside(x, points, 0.5, 2.0).tolist() == [[1.0, 0.5]]


@pytest.mark.parametrize("norm", [float("inf"), 2.0])
def test_points_inside_stay(norm):
    x = torch.rand(20, 3)
    points = (x + 0.05 * torch.rand_like(x)).clamp(0, 1)
    assert torch.equal(inside(x, points, 0.1, norm), points)


def test_nan_is_no_point():
    x = torch.full((1, 3), 0.5)
    points = torch.tensor([[float("nan"), float("inf"), -float("inf")]])
    assert inside(x, points, 0.25).tolist() == [[0.5, 0.75, 0.25]]
    moved = inside(x, points, 0.25, 2.0)
    assert moved[0].tolist() == pytest.approx([0.5, 0.5 + 0.25 / 2**0.5, 0.5 - 0.25 / 2**0.5])
