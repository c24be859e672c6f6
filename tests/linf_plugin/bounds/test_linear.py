"""The linear rules by themselves: sound on sampled boxes, tight where they claim it, finite where it is hard."""

import math
from itertools import product

import pytest
import torch
from cases import each_conv, each_p, each_sort

from linf_plugin.bounds import linear
from linf_plugin.kernels import reference

ROUNDING = 1e-12  # of sums of up to 100 float64 numbers of size up to 10


def boxes(n=3, out=5, features=6, width=1.0):
    lower = torch.randn(n, features, dtype=torch.float64)
    return lower, lower + width * torch.rand(n, features, dtype=torch.float64), torch.randn(
        out, features, dtype=torch.float64
    )


def inside(lower, upper, samples=400):
    """Points of each box: random ones, and random corners.  (samples, *box)"""
    shape = (samples, *lower.shape)
    at = torch.rand(shape, dtype=lower.dtype)
    at[::2] = at[::2].round()
    return lower + at * (upper - lower)


def slack(line, x, w, *constants):
    """Least distance from y to the line below it, and to the line above it, over points x (samples, n, in)."""
    function = reference.dist if len(constants) == 1 else reference.sorted_dist
    y = torch.stack([function(part, w, *constants) for part in x])
    low = torch.einsum("boi,sbi->sbo", line.low, x) + line.low_const
    up = torch.einsum("boi,sbi->sbo", line.up, x) + line.up_const
    return (y - low).min().item(), (up - y).min().item()


@each_p
@pytest.mark.parametrize("width", [1e-9, 0.1, 1.0, 10.0], ids=lambda w: f"width={w:g}")
def test_lines_are_below_and_above(p, width):
    lower, upper, w = boxes(width=width)
    line = linear.lines(lower, upper, w, p)
    below, above = slack(line, inside(lower, upper), w, p)
    assert below >= -ROUNDING * (1 + width) and above >= -ROUNDING * (1 + width)


@each_p
def test_lower_line_is_nowhere_below_the_interval_bound(p):
    """Its least value on the box is the exact minimum."""
    lower, upper, w = boxes()
    line = linear.lines(lower, upper, w, p)
    near, _ = reference.box_dist(lower, upper, w, p)
    least = line.low_const + (line.low * torch.where(line.low > 0, lower[:, None], upper[:, None])).sum(-1)
    torch.testing.assert_close(least, near, rtol=0, atol=ROUNDING)


@each_p
def test_upper_line_is_at_most_the_interval_bound_in_the_middle(p):
    lower, upper, w = boxes()
    line = linear.lines(lower, upper, w, p)
    _, far = reference.box_dist(lower, upper, w, p)
    middle = torch.einsum("boi,bi->bo", line.up, (lower + upper) / 2) + line.up_const
    assert (middle <= far + ROUNDING).all()


def test_a_dominating_coordinate_makes_both_lines_exact():
    """One coordinate is the farthest over the whole box and stays on one side of its weight."""
    w = torch.zeros(1, 4, dtype=torch.float64)
    lower = torch.tensor([[3.0, -1.0, -1.0, 0.0]], dtype=torch.float64)
    upper = torch.tensor([[5.0, 1.0, 2.0, 0.5]], dtype=torch.float64)
    line = linear.lines(lower, upper, w, math.inf)
    for slope, constant in ((line.low, line.low_const), (line.up, line.up_const)):
        torch.testing.assert_close(slope[0, 0], torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
        assert constant.item() == 0


@each_p
def test_a_box_that_is_a_point_gives_its_value(p):
    x, w = torch.randn(3, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    line = linear.lines(x, x, w, p)
    y = reference.dist(x, w, p)
    for slope, constant in ((line.low, line.low_const), (line.up, line.up_const)):
        value = torch.einsum("boi,bi->bo", slope, x) + constant
        torch.testing.assert_close(value, y, rtol=1e-12, atol=1e-12)


@each_p
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_point_on_the_weight_gives_zero(p, dtype):
    w = torch.randn(2, 3, dtype=dtype)
    line = linear.lines(w[:1], w[:1], w, p)
    assert all(a.isfinite().all() for a in line)
    for slope, constant in ((line.low, line.low_const), (line.up, line.up_const)):
        assert abs((slope[0, 0] * w[0]).sum() + constant[0, 0]) <= torch.finfo(dtype).eps * 10


@each_p
@pytest.mark.parametrize("scale", [1e-20, 1e15], ids=lambda s: f"scale={s:g}")
def test_sizes_whose_powers_leave_float32_stay_finite_and_sound(p, scale):
    lower, upper, w = (a.float() * scale for a in boxes())
    line = linear.Lines(*(a.double() for a in linear.lines(lower, upper, w, p)))
    assert all(a.isfinite().all() for a in line)
    below, above = slack(line, inside(lower.double(), upper.double()), w.double(), p)
    tolerance = 6 * (20 + p if p < math.inf else 20) * torch.finfo(torch.float32).eps * scale * 4
    assert below >= -tolerance and above >= -tolerance


@each_p
def test_back_substitution_bounds_every_combination(p):
    lower, upper, w = boxes(n=3, out=5)
    A = torch.randn(7, 3, 5, dtype=torch.float64)
    lA, lbias, uA, ubias = linear.back_substitute(A, A, lower, upper, w, p)
    x = inside(lower, upper)
    y = torch.stack([reference.dist(part, w, p) for part in x])
    value = torch.einsum("kbo,sbo->skb", A, y)
    low = torch.einsum("kbi,sbi->skb", lA, x) + lbias
    up = torch.einsum("kbi,sbi->skb", uA, x) + ubias
    assert (value - low).min() >= -ROUNDING and (up - value).min() >= -ROUNDING


def test_a_side_that_is_not_asked_for_is_none():
    lower, upper, w = boxes()
    A = torch.randn(2, 3, 5, dtype=torch.float64)
    both = linear.back_substitute(A, A, lower, upper, w, math.inf)
    low = linear.back_substitute(A, None, lower, upper, w, math.inf)
    up = linear.back_substitute(None, A, lower, upper, w, math.inf)
    assert low[2:] == (None, 0.0) and up[:2] == (None, 0.0)
    for ours, theirs in zip((*low[:2], *up[2:]), both, strict=True):
        assert torch.equal(ours, theirs)


def test_chunks_do_not_change_the_result(monkeypatch):
    lower, upper, w = boxes(out=13)
    A = torch.randn(2, 3, 13, dtype=torch.float64)
    whole = linear.back_substitute(A, A, lower, upper, w, 8.0)
    monkeypatch.setattr(linear, "CHUNK_BYTES", 1)
    for ours, theirs in zip(linear.back_substitute(A, A, lower, upper, w, 8.0), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


@each_conv
@pytest.mark.parametrize("p", [2.0, math.inf], ids=["p=2", "p=inf"])
def test_convolution_bounds_every_combination(conv_case, p):
    shape, w_shape, conv = conv_case
    lower = torch.randn(shape, dtype=torch.float64)
    upper = lower + 0.5 * torch.rand_like(lower)
    w = torch.randn(w_shape, dtype=torch.float64)
    y_shape = torch.ops.linf.dist_conv2d(lower, w, p, *conv).shape
    A = torch.randn(3, *y_shape, dtype=torch.float64)
    lA, lbias, uA, ubias = linear.back_substitute_conv2d(A, A, lower, upper, w, p, *conv)
    assert lA.shape == (3, *shape) and lbias.shape == (3, shape[0])
    for x in inside(lower, upper, 60):
        value = (A * torch.ops.linf.dist_conv2d(x, w, p, *conv)).sum((2, 3, 4))
        assert ((lA * x).sum((2, 3, 4)) + lbias <= value + 100 * ROUNDING).all()
        assert ((uA * x).sum((2, 3, 4)) + ubias >= value - 100 * ROUNDING).all()


@each_sort
@pytest.mark.parametrize("width", [1e-9, 0.1, 1.0, 10.0], ids=lambda w: f"width={w:g}")
def test_lines_are_below_and_above_sorted_sums(sort, width):
    lower, upper, w = boxes(width=width)
    line = linear.sorted_lines(lower, upper, w, *sort)
    below, above = slack(line, inside(lower, upper), w, *sort)
    assert below >= -ROUNDING * (1 + width) and above >= -ROUNDING * (1 + width)


@each_sort
def test_lines_of_sorted_sums_are_no_worse_than_intervals_where_they_say_so(sort):
    """The line below has the exact minimum as its least value; the line above is below far in the middle."""
    lower, upper, w = boxes()
    line = linear.sorted_lines(lower, upper, w, *sort)
    near, far = reference.box_sorted_dist(lower, upper, w, *sort)
    least = line.low_const + (line.low * torch.where(line.low > 0, lower[:, None], upper[:, None])).sum(-1)
    torch.testing.assert_close(least, near, rtol=0, atol=ROUNDING)
    middle = torch.einsum("boi,bi->bo", line.up, (lower + upper) / 2) + line.up_const
    assert (middle <= far + ROUNDING).all()


def test_an_order_that_holds_over_the_whole_box_makes_both_lines_of_a_sorted_sum_exact():
    w = torch.zeros(1, 5, dtype=torch.float64)
    lower = torch.tensor([[-9.0, 3.5, -1.0, 0.25, 5.5]], dtype=torch.float64)
    upper = torch.tensor([[-7.0, 5.0, 1.0, 0.5, 6.5]], dtype=torch.float64)
    a, b, c = reference.coefficients(0.4, 3, 5)
    line = linear.sorted_lines(lower, upper, w, 0.4, 3)
    for slope, constant in ((line.low, line.low_const), (line.up, line.up_const)):
        torch.testing.assert_close(slope[0, 0], torch.tensor([-a, c, 0, 0, b], dtype=torch.float64))
        assert abs(constant.item()) <= ROUNDING


@each_sort
def test_a_box_that_is_a_point_gives_its_sorted_sum(sort):
    x, w = torch.randn(3, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    w[0] = x[0]
    line = linear.sorted_lines(x, x, w, *sort)
    for slope, constant in ((line.low, line.low_const), (line.up, line.up_const)):
        value = torch.einsum("boi,bi->bo", slope, x) + constant
        torch.testing.assert_close(value, reference.sorted_dist(x, w, *sort), rtol=1e-12, atol=1e-12)


@each_sort
def test_back_substitution_bounds_every_combination_of_sorted_sums(sort, monkeypatch):
    lower, upper, w = boxes(n=3, out=5)
    A = torch.randn(7, 3, 5, dtype=torch.float64)
    whole = linear.back_substitute_sorted(A, A, lower, upper, w, *sort)
    monkeypatch.setattr(linear, "CHUNK_BYTES", 1)
    lA, lbias, uA, ubias = linear.back_substitute_sorted(A, A, lower, upper, w, *sort)
    for ours, theirs in zip((lA, lbias, uA, ubias), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    x = inside(lower, upper)
    value = torch.einsum("kbo,sbo->skb", A, torch.stack([reference.sorted_dist(part, w, *sort) for part in x]))
    low = torch.einsum("kbi,sbi->skb", lA, x) + lbias
    up = torch.einsum("kbi,sbi->skb", uA, x) + ubias
    assert (value - low).min() >= -ROUNDING and (up - value).min() >= -ROUNDING


def test_lines_are_differentiable():
    """A net can be trained on its bounds."""
    lower, upper, w = (a.requires_grad_() for a in boxes(n=1, out=2, features=3))
    for p, pick in product((3.0, math.inf), range(4)):
        assert torch.autograd.gradcheck(lambda *a: linear.lines(*a, p)[pick], (lower, upper, w))
    for pick in range(4):
        assert torch.autograd.gradcheck(lambda *a: linear.sorted_lines(*a, 0.4, 2)[pick], (lower, upper, w))
