"""Norms and the facts that follow from them: differences of two coordinates, boxes around balls."""

import math
from fractions import Fraction

import pytest
import torch

from linf_plugin.norms import NORMS, Ball, apart, as_radius, box, check_norm, largest_radius, name_of


def length(t, norm):
    return torch.linalg.vector_norm(t, ord=norm, dim=1)


def directions(size, count=2000):
    generator = torch.Generator().manual_seed(size)
    dense = torch.randn(count, size, generator=generator, dtype=torch.float64)
    found = torch.cat([dense, dense.sign(), torch.eye(size, dtype=torch.float64), dense * (dense.abs() > 1.5)])
    return found[found.any(1)]


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_two_coordinates_come_apart_by_no_more(norm):
    t = directions(4)
    gaps = (t.amax(1) - t.amin(1)) / length(t, norm)
    assert (gaps <= apart(norm)).all()
    pair = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    attained = 2 / length(pair, norm).item()
    single = 1.0  # of (1, 0)
    assert max(attained, single) == pytest.approx(apart(norm), rel=1e-15)
    assert Fraction(apart(2)) ** 2 > 2  # rounded up


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_a_box_holds_the_ball_within_its_range(norm):
    x = torch.tensor([[0.0, 0.5, 0.98]])
    lower, upper = Ball(0.1, norm, 0.0, 1.0).box(x)
    t = directions(3)
    inside = (x + 0.1 * t / length(t, norm).unsqueeze(1)).clamp(0, 1)
    assert (lower <= inside).all() and (inside <= upper).all()
    assert (lower > -1e-12).all() and (upper < 1 + 1e-12).all()
    assert torch.equal(torch.stack(box(x, 0.1, 0.0, 1.0)), torch.stack([lower, upper]))


def test_names_and_exponents():
    for name, norm in NORMS.items():
        assert check_norm(name) == check_norm(norm) == norm and name_of(norm) == name
        assert Ball(0.1, name) == Ball(0.1, norm)
    assert check_norm(2) == 2.0 and isinstance(check_norm(2), float)


def test_a_radius_may_be_text():
    assert Ball("8/255", math.inf, 0.0, 1.0).eps == 8 / 255 and Ball("0.1").eps == 0.1
    assert as_radius("1/4", "width") == as_radius(0.25, "width") == 0.25
    with pytest.raises(ValueError, match="^width must be a number or a fraction such as 8/255, got 'x'"):
        as_radius("x", "width")


def test_a_radius_is_in_units_of_the_range():
    with pytest.raises(ValueError, match=r"eps must be at most high − low = 1, .* got 8: .* are 8/255"):
        Ball(8, math.inf, 0.0, 1.0)
    assert Ball(0.2, math.inf, 0.1, 0.3).eps == 0.2  # 0.3 − 0.1 is less than 0.2 in float64
    assert Ball(8).eps == Ball(8, math.inf, 0.0, 255.0).eps == 8


@pytest.mark.parametrize("norm", [2, 1])
def test_a_radius_in_l2_and_l1_may_exceed_the_width_of_the_range(norm):
    """Two corners of a square are √2 and 2 apart."""
    ball, corner = Ball(1.58, norm, 0.0, 1.0), torch.zeros(1, 9)
    assert ball.eps == 1.58 and largest_radius(norm, 0.0, 1.0) == math.inf
    lower, upper = ball.box(corner)
    assert (lower <= 0).all() and (upper >= 1).all() and (lower > -1e-12).all() and (upper < 1 + 1e-12).all()
    with pytest.raises(ValueError, match="eps must be"):
        Ball(math.inf, norm, 0.0, 1.0)
