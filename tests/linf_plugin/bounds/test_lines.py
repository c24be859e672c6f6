"""Every candidate line by itself: sound on sampled boxes, tight where it is said to be, finite where it is hard."""

import math
from itertools import product

import pytest
import torch
from cases import each_p, each_sort

from linf_plugin.bounds import lines
from linf_plugin.kernels import reference

ROUNDING = 1e-12  # of sums of up to 100 float64 numbers of size up to 10
each_width = pytest.mark.parametrize("width", [1e-9, 0.1, 1.0, 10.0], ids=lambda w: f"width={w:g}")


def boxes(n=3, out=5, features=7, width=1.0):
    lower = torch.randn(n, features, dtype=torch.float64)
    return (
        lower,
        lower + width * torch.rand(n, features, dtype=torch.float64),
        torch.randn(out, features, dtype=torch.float64),
    )


def inside(lower, upper, samples=400):
    """Points of each box: random ones, and random corners.  (samples, *box)"""
    shape = (samples, *lower.shape)
    at = torch.rand(shape, dtype=lower.dtype)
    at[::2] = at[::2].round()
    return lower + at * (upper - lower)


def dense(side):
    """Slopes on all coordinates (B, out, J, in) of a side of 7 inputs, or however many it has."""
    if side.index is None:
        return side.slopes
    features = max(int(side.index.max()) + 1, 7)
    shape = (*side.slopes.shape[:3], features)
    index = side.index.unsqueeze(2).expand_as(side.slopes)
    return side.slopes.new_zeros(shape).scatter_add(3, index, side.slopes)


def values(side, x):
    """Each candidate at points x (samples, B, in): (samples, B, out, J)."""
    return torch.einsum("boji,sbi->sboj", dense(side)[..., : x.shape[2]], x) + side.consts


def slack(sides, x, y):
    """Least distance from y (samples, B, out) to any candidate below it, and to any above it."""
    below, above = sides
    return (y.unsqueeze(3) - values(below, x)).min().item(), (values(above, x) - y.unsqueeze(3)).min().item()


def distances(x, w, *constants):
    function = reference.dist if len(constants) == 1 else reference.sorted_dist
    return torch.stack([function(part, w, *constants) for part in x])


@each_p
@each_width
def test_every_candidate_is_below_or_above(p, width):
    lower, upper, w = boxes(width=width)
    x = inside(lower, upper)
    for many in (False, True):
        below, above = slack(lines.dist(lower, upper, w, p, many), x, distances(x, w, p))
        assert below >= -ROUNDING * (1 + width) and above >= -ROUNDING * (1 + width)


@each_sort
@each_width
def test_every_candidate_of_a_sorted_sum_is_below_or_above(sort, width):
    lower, upper, w = boxes(width=width)
    x = inside(lower, upper)
    for many in (False, True):
        below, above = slack(lines.sorted_sum(lower, upper, w, *sort, many), x, distances(x, w, *sort))
        assert below >= -ROUNDING * (1 + width) and above >= -ROUNDING * (1 + width)


@pytest.mark.parametrize("features", [1, 2, 3, 4, 8])
def test_few_coordinates_leave_few_candidates(features):
    lower, upper, w = boxes(features=features)
    x = inside(lower, upper)
    for many in (False, True):
        below, above = slack(lines.linf(lower, upper, w, many), x, distances(x, w, math.inf))
        assert below >= -ROUNDING and above >= -ROUNDING


@each_p
def test_the_default_is_the_only_line_where_only_one_is_asked_for(p):
    lower, upper, w = boxes()
    for one, all_ in zip(lines.dist(lower, upper, w, p), lines.dist(lower, upper, w, p, many=True)):
        assert one.consts.shape[2] == 1 and all_.consts.shape[2] > 1
        torch.testing.assert_close(dense(one), dense(all_.chosen()))
        torch.testing.assert_close(one.consts, all_.chosen().consts)


@each_p
def test_lower_line_is_nowhere_below_the_interval_bound(p):
    """Its least value on the box is the exact minimum."""
    lower, upper, w = boxes()
    below, _ = lines.dist(lower, upper, w, p)
    near, _ = reference.box_dist(lower, upper, w, p)
    slopes = dense(below).squeeze(2)
    least = below.consts.squeeze(2) + (slopes * torch.where(slopes > 0, lower[:, None], upper[:, None])).sum(-1)
    torch.testing.assert_close(least, near, rtol=0, atol=ROUNDING)


@each_p
def test_upper_line_is_at_most_the_interval_bound_in_the_middle(p):
    lower, upper, w = boxes()
    _, above = lines.dist(lower, upper, w, p)
    _, far = reference.box_dist(lower, upper, w, p)
    assert (values(above, ((lower + upper) / 2)[None]).squeeze(0).squeeze(2) <= far + ROUNDING).all()


def test_upper_line_is_the_concave_envelope_in_the_middle():
    """The least linear bound at the middle of the box, among all that hold at its corners, by linear programming."""
    from scipy.optimize import linprog

    lower, upper, w = boxes(n=4, out=3, features=5)
    _, above = lines.linf(lower, upper, w)
    middle = (lower + upper) / 2
    ours = values(above, middle[None]).squeeze(0).squeeze(2)
    for b, o in product(range(4), range(3)):
        corners = torch.tensor(list(product(*zip(lower[b].tolist(), upper[b].tolist()))), dtype=torch.float64)
        y = reference.dist(corners, w[o : o + 1], math.inf).squeeze(1)
        # minimise g·middle + h subject to g·corner + h ≥ y
        A = -torch.cat([corners, torch.ones(len(corners), 1)], 1)
        best = linprog([*middle[b].tolist(), 1.0], A.numpy(), -y.numpy(), bounds=[(None, None)] * 6)
        assert best.status == 0 and abs(best.fun - ours[b, o].item()) <= 1e-9


def test_a_dominating_coordinate_makes_both_lines_exact():
    """One coordinate is the farthest over the whole box and stays on one side of its weight."""
    w = torch.zeros(1, 4, dtype=torch.float64)
    lower = torch.tensor([[3.0, -1.0, -1.0, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[5.0, 1.0, 2.0, 0.5]], dtype=torch.float64)
    for side in lines.linf(lower, upper, w):
        torch.testing.assert_close(dense(side)[0, 0, 0, :4], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
        assert side.consts.item() == 0


def test_an_order_that_holds_over_the_whole_box_makes_both_lines_of_a_sorted_sum_exact():
    w = torch.zeros(1, 5, dtype=torch.float64)
    lower = torch.tensor([[-9.0, 3.5, -1.0, 0.25, 5.5]], dtype=torch.float64)
    upper = torch.tensor([[-7.0, 5.0, 1.0, 0.5, 6.5]], dtype=torch.float64)
    a, b, c = reference.coefficients(0.4, 3, 5)
    for side in lines.sorted_sum(lower, upper, w, 0.4, 3):
        torch.testing.assert_close(dense(side)[0, 0, 0], torch.tensor([-a, c, 0, 0, b], dtype=torch.float64))
        assert abs(side.consts.item()) <= ROUNDING


@each_sort
def test_lines_of_sorted_sums_are_no_worse_than_intervals_where_they_say_so(sort):
    """The line below has the exact minimum as its least value; the line above is below far in the middle."""
    lower, upper, w = boxes()
    below, above = lines.sorted_sum(lower, upper, w, *sort)
    near, far = reference.box_sorted_dist(lower, upper, w, *sort)
    slopes = dense(below).squeeze(2)
    least = below.consts.squeeze(2) + (slopes * torch.where(slopes > 0, lower[:, None], upper[:, None])).sum(-1)
    torch.testing.assert_close(least, near, rtol=0, atol=ROUNDING)
    assert (values(above, ((lower + upper) / 2)[None]).squeeze(0).squeeze(2) <= far + ROUNDING).all()


@each_p
def test_a_box_that_is_a_point_gives_its_value(p):
    x, w = torch.randn(3, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    for many, side in product((False, True), (0, 1)):
        found = lines.dist(x, x, w, p, many)[side].chosen()
        torch.testing.assert_close(values(found, x[None])[0, ..., 0], reference.dist(x, w, p), rtol=1e-12, atol=1e-12)


@each_sort
def test_a_box_that_is_a_point_gives_its_sorted_sum(sort):
    x, w = torch.randn(3, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    w[0] = x[0]
    for side in lines.sorted_sum(x, x, w, *sort):
        torch.testing.assert_close(
            values(side, x[None])[0, ..., 0], reference.sorted_dist(x, w, *sort), rtol=1e-12, atol=1e-12
        )


@each_p
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_point_on_the_weight_gives_zero(p, dtype):
    w = torch.randn(2, 3, dtype=dtype)
    for many in (False, True):
        for side in lines.dist(w[:1], w[:1], w, p, many):
            assert side.slopes.isfinite().all() and side.consts.isfinite().all()
            assert values(side.chosen(), w[None, :1])[0, 0, 0].abs() <= torch.finfo(dtype).eps * 10


@each_p
@pytest.mark.parametrize("scale", [1e-20, 1e15], ids=lambda s: f"scale={s:g}")
def test_sizes_whose_powers_leave_float32_stay_finite_and_sound(p, scale):
    lower, upper, w = (a.float() * scale for a in boxes())
    sides = lines.dist(lower, upper, w, p, many=True)
    assert all(side.slopes.isfinite().all() and side.consts.isfinite().all() for side in sides)
    sides = [side._replace(slopes=side.slopes.double(), consts=side.consts.double()) for side in sides]
    x = inside(lower.double(), upper.double())
    below, above = slack(sides, x, distances(x, w.double(), p))
    tolerance = 6 * (20 + p if p < math.inf else 20) * torch.finfo(torch.float32).eps * scale * 4
    assert below >= -tolerance and above >= -tolerance


TANH_ENDS = (0.0, 1e-300, 1e-12, 1e-8, 1e-3, 0.1, 0.5, 1.0, 3.0, 10.0, 18.0, 25.0, 499.0, 501.0, 1e4)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 100.0], ids=lambda s: f"scale={s:g}")
def test_every_candidate_of_tanh_is_below_or_above(scale):
    ends = torch.tensor(
        [*TANH_ENDS, *(-t for t in TANH_ENDS), *(scale * torch.randn(20)).tolist()], dtype=torch.float64
    )
    pairs = torch.combinations(ends.sort().values, with_replacement=True)
    lower, upper = pairs[:, 0][None], pairs[:, 1][None]
    at = torch.cat(
        [torch.linspace(0, 1, 301, dtype=torch.float64), torch.tensor([1e-9, 1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6])]
    )
    x = torch.minimum(lower + at[:, None] * (upper - lower), upper)  # (points, pairs)
    for many in (False, True):
        below, above = lines.tanh(lower, upper, many)
        # a line at a distant point is off by rounding of its slope times the distance
        rounding = 4e-16 * (1 + lower.abs() + upper.abs())
        for side, sign in ((below, 1), (above, -1)):
            y = side.slopes[0, :, :, 0] * x.unsqueeze(2) + side.consts[0]
            assert (sign * (x.tanh().unsqueeze(2) - y) >= -rounding.squeeze(0).unsqueeze(1)).all()


def test_lines_of_tanh_are_tight():
    """Touching the curve; and no wider in the middle than its chord or its range."""
    for lower, upper in ((-3.0, -1.0), (-2.0, 0.5), (-0.5, 2.0), (-1.0, 1.0), (0.2, 0.9)):
        ends = torch.tensor([[[lower]], [[upper]]], dtype=torch.float64)
        x = torch.linspace(lower, upper, 20001, dtype=torch.float64)
        middle = (lower + upper) / 2
        below, above = lines.tanh(*ends)
        for side, sign in ((below, 1), (above, -1)):
            slope, constant = side.slopes.item(), side.consts.item()
            assert (sign * (x.tanh() - slope * x - constant)).min() <= 1e-7
            assert sign * (slope * middle + constant) >= sign * math.tanh(lower if sign == 1 else upper) - 1e-12


def test_lines_are_differentiable():
    """A net can be trained on its bounds."""
    boxed = [a.requires_grad_() for a in boxes(n=1, out=2, features=3)]

    def numbers(make):
        return lambda *a: tuple(b for side in make(*a) for b in (side.slopes, side.consts))

    for p, many in product((3.0, math.inf), (False, True)):
        assert torch.autograd.gradcheck(numbers(lambda *a: lines.dist(*a, p, many)), boxed)
    assert torch.autograd.gradcheck(numbers(lambda *a: lines.sorted_sum(*a, 0.4, 2)), boxed)
