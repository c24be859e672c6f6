"""The forms for training: their values, their gradients, and why they are no certificates."""

import math

import pytest
import torch
from spectral_layers import draw, largest, operator
from torch import nn
from torch.autograd import gradcheck

from linf_plugin.spectral import SPECTRAL_METHODS, Convolution, bound, norm
from linf_plugin.spectral.gram import SchattenNorm, schatten

UPPER = [name for name, row in SPECTRAL_METHODS.items() if row.kind == "upper"]


@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (5, 5), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gram_iteration_is_a_schatten_norm(shape, dtype):
    g = torch.randn(2, *shape, dtype=dtype)
    singular = torch.linalg.svdvals(g)
    for steps in range(5):
        q = 2 ** (steps + 1)
        torch.testing.assert_close(schatten(g, steps), singular.pow(q).sum(-1).pow(1 / q), rtol=1e-12, atol=0)
    values = torch.stack([schatten(g, steps) for steps in range(12)])
    assert (values[1:] <= values[:-1] * (1 + 1e-12)).all() and (values >= singular[:, 0] * (1 - 1e-12)).all()
    assert (values[11] <= singular[:, 0] * min(shape) ** (1 / 4096) * (1 + 1e-12)).all()


@pytest.mark.parametrize("shape", [(6, 4), (3, 7), (1, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [0, 1, 3, 6])
def test_the_closed_gradient_is_right(shape, dtype, steps):
    g = torch.randn(shape, dtype=dtype, requires_grad=True)
    assert gradcheck(lambda g: SchattenNorm.apply(g, steps), (g,))
    (closed,) = torch.autograd.grad(SchattenNorm.apply(g, steps), g)
    (unrolled,) = torch.autograd.grad(schatten(g, steps), g)
    torch.testing.assert_close(closed, unrolled, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["gram", "svd", "lipbound", "norm2toep"])
@pytest.mark.parametrize("form", ["dense", "conv", "strided", "circular", "size"])
def test_gradients_of_layers(method, form):
    """Groups, strides and grids included."""
    torch.manual_seed(5)
    weight = torch.randn(*((4, 3) if form == "dense" else (4, 2, 3, 2)), dtype=torch.float64, requires_grad=True)
    settings = {
        "dense": {},
        "conv": dict(padding=1, groups=2),
        "strided": dict(stride=2, dilation=3, padding=1),
        "circular": dict(padding_mode="circular", size=5, padding=((1, 1), (0, 1))),
        "size": dict(padding=1, size=4),
    }[form]

    def value(weight):
        return norm(
            weight if form == "dense" else Convolution(weight, **settings), method, iterations=ITERATIONS[method]
        )

    assert gradcheck(value, (weight,))
    what = weight if form == "dense" else Convolution(weight, **settings)
    assert value(weight).item() == pytest.approx(bound(what, method, iterations=ITERATIONS[method]).value, rel=1e-9)
    assert value(weight).item() >= bound(what, "power", certify=False).value * (1 - 1e-12)


ITERATIONS = {"gram": 4, "svd": None, "lipbound": None, "norm2toep": 2}


def test_power_iteration_has_the_gradient_of_its_last_vector():
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(norm(weight, "power", iterations=200), weight)
    u, s, vh = torch.linalg.svd(weight.detach())
    torch.testing.assert_close(grad, torch.outer(u[:, 0], vh[0]), rtol=1e-6, atol=1e-8)
    conv = nn.Conv2d(2, 3, 3, padding=1)
    norm(conv, "power").backward()
    assert conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("method", SPECTRAL_METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_and_extreme_weights_give_numbers(method, dtype):
    for scale in (0.0, 1.0) if dtype == torch.float16 else (0.0, 1e-30, 1e30):
        weight = torch.full((2, 2, 3, 3), scale, dtype=dtype, requires_grad=True)
        found = norm(Convolution(weight, padding=1, size=4), method)
        assert found.dtype == dtype and found.isfinite() and (found > 0) == (scale > 0)
        if method != "matrix":
            (grad,) = torch.autograd.grad(found, weight)
            assert grad.isfinite().all()


def test_training_with_a_norm_makes_it_smaller():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1)
    before = bound(layer).value
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        norm(layer).backward()
        optimizer.step()
    assert bound(layer).value < 0.5 * before


def test_float32_falls_below_the_norm_and_a_certificate_does_not():
    below = 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(64, 48, generator=generator)
        exact = largest(weight.double())
        below += norm(weight, "gram", iterations=20).item() < exact * (1 - 1e-12)
        for name in ("gram", "svd"):
            certified = bound(weight, name, iterations=20 if name == "gram" else None).value
            assert exact * (1 - 1e-14) <= certified <= exact * (1 + 1e-5)
    assert below > 40


def stretch(weight: torch.Tensor, value: float) -> float:
    """‖I − h·WᵀW‖₂ with h = 2/value²: the Jacobian of x − h·Wᵀσ(Wx + b) where all slopes of σ are 1."""
    w = weight.double()
    return largest(torch.eye(w.shape[1], dtype=torch.float64) - 2 / value**2 * w.T @ w)


def test_what_power_iteration_certifies_an_exact_check_refutes():
    """A layer of CPL (2110.12690) is 1-Lipschitz if h ≤ 2/‖W‖².  With a lower bound of the norm, h is too large."""
    worst = dict.fromkeys((1, 5, 20, 100), 0.0)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(64, 96, generator=generator)
        for steps in worst:
            found = bound(weight, "power", certify=False, iterations=steps).value
            worst[steps] = max(worst[steps], stretch(weight, found))
        for name in ("gram", "svd", "norm2toep", "lipbound"):
            assert stretch(weight, bound(weight, name).value) <= 1 + 1e-12
    assert worst[1] > 2 and worst[5] > 1.3 and worst[20] > 1.05 and worst[100] > 1.001
    with pytest.raises(ValueError, match="method='power' gives a lower bound"):
        bound(weight, "power")


def test_forms_for_training_are_near_the_certificates():
    for seed in range(40):
        layer, size = draw(seed)
        for name in UPPER:
            steps = 4 if name in ("gram", "norm2toep") else None
            for s in (size, None) if name != "matrix" else (size,):
                certified = bound(layer, name, size=s, iterations=steps).value
                plain = norm(layer, name, size=s, iterations=steps).item()
                trimmed = 1.3  # a kernel whose borders are zero has a finer grid in a certificate
                assert (certified / trimmed <= plain * (1 + 1e-4) and plain <= certified * trimmed) or certified < 1e-25


def test_norms_of_matrices_pushed_through_layers():
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=True)
    exact = largest(operator(nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False), 2, 6, 6))
    assert exact > 0 and math.isclose(
        norm(layer, "matrix", size=6).item(), largest(operator(layer, 2, 6, 6)), rel_tol=1e-6
    )
