"""The float32 inputs of a ball, and which of them the model itself classifies otherwise."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.verifiers.points import confirmed, float32_box
from linf_plugin.norms import Ball


@pytest.mark.parametrize("eps", [0.0, 0.1, 8 / 255, 1e-9, 0.3, 0.55])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.7), (-math.inf, math.inf)])
def test_the_box_is_all_of_the_ball_in_float32(eps, low, high):
    """Its ends are in the ball and in the range, in exact arithmetic, and their neighbours are not."""
    first = np.array([low, high], np.float32).clip(-1, 1)  # the float32 numbers nearest to the ends of the range
    x = np.r_[first, np.random.default_rng(0).uniform(max(low, 0), min(high, 1), 30).astype(np.float32)]
    lower, upper = float32_box(x.reshape(4, 8), Ball(eps, low=low, high=high))
    assert lower.shape == upper.shape == (4, 8) and lower.dtype == upper.dtype == np.float32

    def inside(value, centre):
        value, centre = float(value), float(centre)
        near = abs(Fraction(value) - Fraction(centre)) <= Fraction(eps)
        return near and (low <= value <= high or value == centre)

    for a, b, centre in zip(lower.ravel(), upper.ravel(), x):
        assert inside(a, centre) and inside(b, centre) and a <= centre <= b
        assert not inside(np.nextafter(a, np.float32(-np.inf)), centre)
        assert not inside(np.nextafter(b, np.float32(np.inf)), centre)


def test_the_largest_float32_numbers():
    lower, upper = float32_box(np.array([3e38], np.float32), Ball(1e39))
    assert np.isfinite(lower).all() and np.isfinite(upper).all()


def _step(at: float) -> nn.Module:
    """Class 1 where x > at."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -at]))
    return net


X, BALL = torch.tensor([[0.5]]), Ball(0.1, low=0.0, high=1.0)


@pytest.mark.parametrize(
    "point",
    [
        0.58,  # of another class
        0.55,  # tied
        0.549999,  # a little too near
        0.52,  # the gradient leads to the other class
        7.0,  # far outside
    ],
)
def test_a_point_is_confirmed_inside_the_ball(point):
    found = confirmed(_step(0.55), X, 0, BALL, np.array([point]))
    assert found.dtype == torch.float32 and found.shape == X.shape
    assert float(abs(found.double() - X.double())) <= 0.1 and int(_step(0.55)(found[None]).argmax()) == 1


@pytest.mark.parametrize("point", [0.62, math.nan, math.inf])
def test_a_point_outside_the_ball_is_not(point):
    assert confirmed(_step(0.61), X, 0, BALL, np.array([point])) is None
    assert confirmed(_step(0.61), X, 0, Ball(0.2, low=0.0, high=0.6), np.array([point])) is None


def test_a_model_without_a_gradient():
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([[1.0, 0.0]])

    assert confirmed(Constant(), X, 0, BALL, np.array([0.55])) is None
