"""Compares the specification and the operators with exact arithmetic."""

from fractions import Fraction
from itertools import pairwise, permutations

import pytest
import torch
from cases import INF, box, dist, each_device, each_dtype, each_p, sorted_dist, value_tolerance

from linf_plugin.kernels import reference

DISTANCES = {"reference": reference.dist, "op": torch.ops.linf.dist}
RANGES = {"reference": reference.box_dist, "op": torch.ops.linf.box_dist}
whole_p = pytest.mark.parametrize("p", (1.0, 2.0, 3.0, 8.0, INF), ids=lambda p: f"p={p:g}")


def _fractions(a) -> list[Fraction]:
    return [Fraction(v) for v in a.flatten().tolist()]


def _assert_is_norm(y: float, z: list[Fraction], p: float, tolerance: float) -> None:
    """Checks y = ‖z‖_p for z ≥ 0: it compares y^p with Σ z^p, both exact."""
    if p == INF:
        assert Fraction(y) == max(z)
        return
    power, exact = Fraction(y) ** int(p), sum(v ** int(p) for v in z)
    assert abs(power - exact) <= Fraction(p * tolerance) * exact


def _eighths(*shape, dtype, device):
    """Returns random multiples of 1/8; their differences are exact in every dtype."""
    return (torch.randint(-80, 81, shape) / 8).to(device, dtype)


@each_device
@each_dtype
@whole_p
@pytest.mark.parametrize("function", DISTANCES.values(), ids=DISTANCES)
def test_dist_is_exact(function, p, dtype, device):
    x, w = (_eighths(1, 9, dtype=dtype, device=device) for _ in range(2))
    z = [abs(a - b) for a, b in zip(_fractions(x), _fractions(w))]
    _assert_is_norm(function(x, w, p).item(), z, p, value_tolerance(dtype, p, features=9))


@each_device
@each_dtype
@whole_p
@pytest.mark.parametrize("function", RANGES.values(), ids=RANGES)
def test_box_dist_is_exact(function, p, dtype, device):
    centre, w = (_eighths(1, 9, dtype=dtype, device=device) for _ in range(2))
    lower, upper = (end.mul(8).round().div(8) for end in box(centre))
    near, far = function(lower, upper, w, p)
    ends = list(zip(_fractions(lower), _fractions(upper), _fractions(w)))
    tolerance = value_tolerance(dtype, p, features=9)
    _assert_is_norm(near.item(), [max(a - v, v - b, Fraction(0)) for a, b, v in ends], p, tolerance)
    _assert_is_norm(far.item(), [max(abs(a - v), abs(b - v)) for a, b, v in ends], p, tolerance)


@each_device
@pytest.mark.parametrize("p", (2.0, 3.0, 8.0), ids=lambda p: f"p={p:g}")
@pytest.mark.parametrize("function", (dist, torch.ops.linf.dist), ids=DISTANCES)
def test_gradient_is_exact(function, p, device):
    """∂y/∂x_i = sign(t_i)·(|t_i|/y)^{p−1}, so its p-th power times (Σ|t|^p)^{p−1} is |t_i|^{p(p−1)}."""
    x, w = (_eighths(1, 5, dtype=torch.float64, device=device) for _ in range(2))
    g_x, g_w = torch.autograd.grad(function(x.requires_grad_(), w.requires_grad_(), p).sum(), (x, w))
    assert torch.equal(g_w, -g_x)
    n, t = int(p), [a - b for a, b in zip(_fractions(x), _fractions(w))]
    total = sum(abs(v) ** n for v in t)
    for g, v in zip(_fractions(g_x), t):
        assert (g > 0) == (v > 0) and (g < 0) == (v < 0)
        exact = abs(v) ** (n * (n - 1))
        assert abs(abs(g) ** n * total ** (n - 1) - exact) <= Fraction(1e-14) * n * n * exact


@each_device
@pytest.mark.parametrize("function", (dist, torch.ops.linf.dist), ids=DISTANCES)
def test_gradient_at_p_1_and_infinity(function, device):
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0]], device=device, requires_grad=True)
    w = torch.tensor([[3.0, 1.0, 0.5, -3.0]], device=device)  # differences −2, −3, 0, 3
    for p, expected in ((1.0, [-1.0, -1.0, 0.0, 1.0]), (INF, [0.0, -1.0, 0.0, 0.0])):
        (grad,) = torch.autograd.grad(function(x, w, p).sum(), x)
        assert grad.tolist() == [expected]


@each_p
def test_norm_of_nothing_and_of_zeros_is_0(p):
    for z in (torch.ones(2, 3, 0), torch.zeros(2, 3, 4)):
        y = reference.norm(z, p)
        assert torch.equal(y, torch.zeros(2, 3))
        assert torch.equal(reference.norm_vjp(torch.ones(2, 3), z, y, p), torch.zeros_like(z))


# Sorted sums.

SORTED = {"reference": reference.sorted_dist, "op": torch.ops.linf.sorted_dist}
SORTED_RANGES = {"reference": reference.box_sorted_dist, "op": torch.ops.linf.box_sorted_dist}


@pytest.mark.parametrize("k", (1, 2, 3, 8, 10, 64, 100))
@pytest.mark.parametrize("rho", (1e-300, 1e-9, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.7, 0.75, 0.85, 0.999999, 1 - 2**-53, 1.0))
def test_coefficients_are_those_of_the_formula_and_add_up_to_at_most_1(rho, k):
    c = reference.coefficients(rho, k, 64)
    count, q = min(k, 64), 1 - Fraction(rho)
    assert c == reference.coefficients(rho, count, 1000)
    assert all(torch.tensor(a).item() == a for a in c)  # float32 represents them exactly
    assert all(a >= b > 0 for a, b in pairwise(c))
    assert 1 - count * Fraction(2) ** -23 <= sum(map(Fraction, c)) <= 1
    total = sum(q**j for j in range(count))
    for j in range(count):
        exact = q**j / total
        if j < len(c):
            assert exact * (1 - Fraction(2) ** -22) <= c[j] <= exact * (1 + Fraction(2) ** -45)
        else:
            assert exact < Fraction(2) ** -126
    for dtype in (torch.float32, torch.float64):  # in the order of the additions
        ones = torch.ones(1, 64, dtype=dtype)
        assert 1 - 1e-5 < torch.ops.linf.sorted_dist(ones, 0 * ones, rho, k).item() <= 1


@each_device
@each_dtype
@pytest.mark.parametrize("k", (1, 3, 6, 10))
@pytest.mark.parametrize("function", SORTED.values(), ids=SORTED)
def test_sorted_dist_is_the_largest_sum_over_permutations(function, k, dtype, device):
    x, w = (_eighths(1, 6, dtype=dtype, device=device) for _ in range(2))
    z = [abs(a - b) for a, b in zip(_fractions(x), _fractions(w))]
    c = [Fraction(a) for a in reference.coefficients(0.4, k, 6)]
    largest = max(sum(a * b for a, b in zip(c, order)) for order in permutations(z))
    y = Fraction(function(x, w, 0.4, k).item())
    assert abs(y - largest) <= (k + 1) * Fraction(torch.finfo(dtype).eps) / 2 * largest  # k products, k − 1 sums


@each_device
@each_dtype
@pytest.mark.parametrize("function", SORTED_RANGES.values(), ids=SORTED_RANGES)
def test_box_sorted_dist_is_exact(function, dtype, device):
    centre, w = (_eighths(1, 9, dtype=dtype, device=device) for _ in range(2))
    lower, upper = (end.mul(8).round().div(8) for end in box(centre))
    near, far = function(lower, upper, w, 0.4, 5)
    ends = list(zip(_fractions(lower), _fractions(upper), _fractions(w)))
    c = [Fraction(a) for a in reference.coefficients(0.4, 5, 9)]
    for y, z in (
        (near, [max(a - v, v - b, Fraction(0)) for a, b, v in ends]),
        (far, [max(abs(a - v), abs(b - v)) for a, b, v in ends]),
    ):
        exact = sum(a * b for a, b in zip(c, sorted(z, reverse=True)))
        assert abs(Fraction(y.item()) - exact) <= 3 * Fraction(torch.finfo(dtype).eps) * exact


@each_device
@pytest.mark.parametrize("function", (sorted_dist, torch.ops.linf.sorted_dist), ids=SORTED)
def test_gradient_of_a_sorted_sum(function, device):
    x = torch.tensor([[1.0, -2.0, 0.5, 0.0, 3.0]], device=device, requires_grad=True)
    w = torch.tensor([[3.0, 1.5, 0.5, -3.0, 0.0]], device=device, requires_grad=True)  # −2, −3.5, 0, 3, 3
    a, b, c, d = reference.coefficients(0.3, 4, 5)
    for k, expected in ((4, [-d, -a, 0.0, b, c]), (5, None)):
        g_x, g_w = torch.autograd.grad(function(x, w, 0.3, k).sum(), (x, w))
        if expected is None:  # the fifth is 0, without a gradient
            a, b, c, d, _ = reference.coefficients(0.3, 5, 5)
            expected = [-d, -a, 0.0, b, c]
        assert g_x.tolist() == [expected] and torch.equal(g_w, -g_x)


def test_sorted_sum_of_nothing_and_of_zeros_is_0():
    for z in (torch.ones(2, 3, 0), torch.zeros(2, 3, 4)):
        assert torch.equal(reference.sorted_sum(z, 0.5, 3), torch.zeros(2, 3))
        assert torch.equal(reference.sorted_sum_vjp(torch.ones(2, 3), z, 0.5, 3), torch.zeros_like(z))
