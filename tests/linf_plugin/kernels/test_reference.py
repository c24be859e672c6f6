"""The specification itself, and the operators, against exact arithmetic."""

from fractions import Fraction

import pytest
import torch
from cases import INF, box, dist, each_device, each_dtype, each_p, value_tolerance

from linf_plugin.kernels import reference

DISTANCES = {"reference": reference.dist, "op": torch.ops.linf.dist}
RANGES = {"reference": reference.box_dist, "op": torch.ops.linf.box_dist}
whole_p = pytest.mark.parametrize("p", (1.0, 2.0, 3.0, 8.0, INF), ids=lambda p: f"p={p:g}")


def _fractions(a) -> list[Fraction]:
    return [Fraction(v) for v in a.flatten().tolist()]


def _assert_is_norm(y: float, z: list[Fraction], p: float, tolerance: float) -> None:
    """y = ‖z‖_p for z ≥ 0, by comparing y^p with Σ z^p, both exact."""
    if p == INF:
        assert Fraction(y) == max(z)
        return
    power, exact = Fraction(y) ** int(p), sum(v ** int(p) for v in z)
    assert abs(power - exact) <= Fraction(p * tolerance) * exact


def _eighths(*shape, dtype, device):
    """Random multiples of 1/8, whose differences are exact in every dtype."""
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
    """∂y/∂x_i = sign(t_i)·(|t_i|/y)^{p−1}: its p-th power times (Σ|t|^p)^{p−1} is |t_i|^{p(p−1)}."""
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
        grad, = torch.autograd.grad(function(x, w, p).sum(), x)
        assert grad.tolist() == [expected]


@each_p
def test_norm_of_nothing_and_of_zeros_is_0(p):
    for z in (torch.ones(2, 3, 0), torch.zeros(2, 3, 4)):
        y = reference.norm(z, p)
        assert torch.equal(y, torch.zeros(2, 3))
        assert torch.equal(reference.norm_vjp(torch.ones(2, 3), z, y, p), torch.zeros_like(z))
