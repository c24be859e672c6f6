"""Divergences of noise agree with quadrature, and shifts of noise layers hold for nets."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad
from torch import nn

import linf_plugin as lp
from linf_plugin.smoothing import DIVERGENCES, certified_risk_gap, noise_shifts, renyi, total_variation

SHIFTS = (1e-6, 0.01, 0.3, 1.0, 2.5, 7.0)
SCALES = (0.05, 0.5, 3.0)
DENSITIES = {
    "gaussian": lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi),
    "laplace": lambda t: math.exp(-abs(t)) / 2,
    "uniform": lambda t: 0.5 if abs(t) <= 1 else 0.0,
}
LOGARITHMS = {"gaussian": lambda t: -t * t / 2 - math.log(2 * math.pi) / 2, "laplace": lambda t: -abs(t) - math.log(2)}


def integral(function, shift):
    """Over the line, in pieces between the kinks of densities at 0 and at the shift."""
    kinks = {-60.0, -1.0, 0.0, 1.0, shift / 2, shift - 1, shift, shift + 1, shift + 60}
    ends = sorted(kinks | {float(t) for t in range(-20, int(shift) + 20, 2)})
    return sum(quad(function, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in itertools.pairwise(ends))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("order", (1.0, 1.0001, 1.5, 2.0, 5.0))
@pytest.mark.parametrize("noise", LOGARITHMS)
def test_renyi_divergences_are_those_of_quadrature(noise, order, shift, scale):
    log, t = LOGARITHMS[noise], shift
    if order == 1:
        exact = integral(lambda s: math.exp(log(s)) * (log(s) - log(s - t)), t)
    else:
        # The largest value of the integrand is taken out, so that nothing overflows.
        top = max(order * log(s) + (1 - order) * log(s - t) for s in (-(order - 1) * t, 0.0, t))

        def around(s):
            return math.exp(order * log(s) + (1 - order) * log(s - t) - top)

        moved = (order - 1) * t if noise == "gaussian" else 0.0  # where the integrand is large
        exact = (top + math.log(integral(lambda s: around(s - moved), t + moved))) / (order - 1)
    found = renyi(noise, shift * scale, scale, order)
    assert abs(found - exact) <= 1e-8 * max(1.0, exact)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("noise", DIVERGENCES)
def test_total_variations_are_those_of_quadrature(noise, shift, scale):
    density, t = DENSITIES[noise], shift
    exact = integral(lambda s: abs(density(s) - density(s - t)), t) / 2
    assert abs(total_variation(noise, shift * scale, scale) - exact) <= 1e-8


@pytest.mark.parametrize("t", (1e-9, 1e-4, 0.2, 1.0, 6.0))
def test_bounds_are_above_the_exact_numbers(t):
    import mpmath

    with mpmath.workdps(50):
        exact = {
            total_variation("gaussian", t, 1.0): mpmath.erf(mpmath.mpf(t) / mpmath.sqrt(8)),
            total_variation("laplace", t, 1.0): 1 - mpmath.exp(-mpmath.mpf(t) / 2),
            renyi("gaussian", t, 1.0): mpmath.mpf(t) ** 2 / 2,
            renyi("laplace", t, 1.0): mpmath.mpf(t) + mpmath.exp(-mpmath.mpf(t)) - 1,
        }
        for order in (1 + 2.0**-30, 1.25, 3.0, 50.0):
            h, number = mpmath.mpf(order) - 1, mpmath.mpf(t)
            a, b = (h + 1) / (2 * h + 1), h / (2 * h + 1)
            value = mpmath.log(a * mpmath.exp(h * number) + b * mpmath.exp(-(h + 1) * number)) / h
            exact[renyi("laplace", t, 1.0, order)] = value
        assert all(value <= found <= value * (1 + mpmath.mpf("1e-5")) + 1e-20 for found, value in exact.items())


def test_limits():
    for noise in DIVERGENCES:
        assert renyi(noise, 0.0, 0.5) == 0 and total_variation(noise, 0.0, 0.5) == 0
        assert total_variation(noise, 1e6, 0.5) == 1
    assert renyi("laplace", 0.3, 0.5, math.inf) == pytest.approx(0.6) and renyi("uniform", 0.1, 0.5) == math.inf
    assert renyi("gaussian", 0.3, 0.5, math.inf) == math.inf
    orders = [renyi("laplace", 0.8, 0.5, order) for order in (1, 1.1, 2, 10, 1e4, math.inf)]
    assert orders == sorted(orders) and orders[-1] - orders[-2] < 1e-3
    assert renyi("laplace", 1e4, 1.0, 3.0) == pytest.approx(1e4 + math.log(3 / 5) / 2)


@pytest.mark.parametrize("noise", ("laplace", "uniform"))
def test_the_worst_shift_moves_one_coordinate(noise):
    """In two dimensions, for every division of the same ℓ1 length; the integral over both is a product or a sum."""
    t = 1.1
    for part in (0.0, 0.2, 0.5):
        shifts = (part * t, (1 - part) * t)
        apart = 1.0
        for s in shifts:
            apart *= 1 - total_variation(noise, s, 1.0)  # of the coupling; the exact variation is not larger
        assert 1 - apart <= total_variation(noise, t, 1.0) + 1e-9
        if noise == "laplace":
            for order in (1.0, 2.0, 9.0):
                assert sum(renyi(noise, s, 1.0, order) for s in shifts) <= renyi(noise, t, 1.0, order) + 1e-9


def test_the_couplings_bound_holds_in_two_dimensions():
    """The exact total variation of two-dimensional Laplace noise, on a grid, for a shift of both coordinates."""
    axis = torch.linspace(-14, 14, 2801, dtype=torch.float64)

    def one(t):
        return torch.exp(-(axis - t).abs()) / 2 * 0.01

    for a, b in ((0.5, 0.5), (0.9, 0.1), (2.0, 1.0)):
        exact = (one(0.0)[:, None] * one(0.0) - one(a)[:, None] * one(b)).abs().sum() / 2
        assert exact <= total_variation("laplace", a + b, 1.0) + 1e-4


@pytest.mark.parametrize(
    "arguments, named",
    (
        (("normal", 0.1, 0.5), "noise must be one of"),
        (("gaussian", -0.1, 0.5), "shift must be finite and at least 0"),
        (("gaussian", math.nan, 0.5), "shift must be finite"),
        (("gaussian", 0.1, 0.0), "scale must be positive"),
        (("gaussian", 0.1, -1.0), "scale must be positive"),
        (("gaussian", 0.1, math.nan), "scale must be positive"),
        (("laplace", 0.1, "1"), "scale must be a number"),
    ),
)
@pytest.mark.parametrize("function", (renyi, total_variation))
def test_wrong_arguments_are_refused_by_name(function, arguments, named):
    with pytest.raises((TypeError, ValueError), match=named):
        function(*arguments)


@pytest.mark.parametrize("order", (0.5, 0, -1, math.nan, "2"))
def test_wrong_orders_are_refused(order):
    with pytest.raises((TypeError, ValueError), match="order must be"):
        renyi("laplace", 0.1, 0.5, order)


def net(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()


def test_noise_at_the_input_is_shifted_by_the_attack():
    model = net(lp.GaussianNoise(0.5), nn.Flatten(), nn.Linear(12, 3))
    (shift,) = noise_shifts(model, (3, 2, 2), 0.3, 2)
    assert (shift.layer, shift.noise, shift.scale, shift.shift) == (0, "gaussian", 0.5, 0.3)
    assert shift.renyi == pytest.approx(0.3**2 / 0.5) and shift.total_variation == total_variation("gaussian", 0.3, 0.5)
    assert noise_shifts(model, (3, 2, 2), 0.3, "linf")[0].shift == pytest.approx(0.3 * math.sqrt(12))
    assert noise_shifts(model, (3, 2, 2), 0.3, "l1")[0].shift == 0.3
    assert noise_shifts(model, (3, 2, 2), 0.0)[0].total_variation == 0
    laplace = net(lp.LaplaceNoise(0.5))
    shifts = [noise_shifts(laplace, (12,), 0.3, norm)[0].shift for norm in ("l1", "l2", "linf")]
    assert shifts == pytest.approx([0.3, 0.3 * math.sqrt(12), 0.3 * 12])


@torch.no_grad()
@pytest.mark.parametrize("norm", (1.0, 2.0, math.inf))
@pytest.mark.parametrize("noise", (lp.GaussianNoise(0.2), lp.LaplaceNoise(0.2)), ids=("gaussian", "laplace"))
def test_no_input_of_the_ball_moves_the_noise_further(noise, norm):
    layers = [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.Tanh()]
    model, eps = net(*layers, noise, nn.Linear(4, 3)).double(), 0.3
    (shift,) = noise_shifts(model, (6,), eps, norm)
    x, step = torch.randn(2, 5000, 6, dtype=torch.float64)
    step *= eps / torch.linalg.vector_norm(step, ord=norm, dim=1, keepdim=True)
    before = model[:4]
    moved = torch.linalg.vector_norm(before(x + step) - before(x), ord=DIVERGENCES[shift.noise].norm, dim=1)
    assert moved.max() <= shift.shift < 100 * moved.max()


def test_the_best_norm_between_counts():
    """A distance net has a bound in ℓ∞ only, and two linear layers have one in each norm."""
    distances = net(nn.Flatten(), lp.LinfDistLinear(12, 7), lp.GaussianNoise(0.5))
    assert noise_shifts(distances, (3, 2, 2), 0.1, math.inf)[0].shift == pytest.approx(0.1 * math.sqrt(7))
    model = net(nn.Linear(6, 5), lp.LaplaceNoise(0.5))
    ways = [
        6 ** (1 - 0.5) * lp.lipschitz_bound(model[0], 1),
        lp.lipschitz_bound(model[0], 2) * 5**0.5,
        lp.lipschitz_bound(model[0], math.inf) * 5,
    ]
    assert noise_shifts(model, (6,), 0.1, 2)[0].shift == pytest.approx(0.1 * min(ways))


def test_each_noise_layer_gives_a_bound():
    model = net(lp.GaussianNoise(0.0), lp.GaussianNoise(0.5), nn.Linear(4, 4), nn.Sequential(lp.LaplaceNoise(0.2)))
    found = noise_shifts(model, (4,), 0.1, 2)
    assert [(shift.layer, shift.noise) for shift in found] == [(1, "gaussian"), (3, "laplace")]


def test_nets_without_a_bound_are_refused():
    with pytest.raises(ValueError, match="model has no layer that adds noise"):
        noise_shifts(net(nn.Linear(3, 2), lp.GaussianNoise(0.0)), (3,), 0.1)
    with pytest.raises(TypeError, match="no Lipschitz bound is known for GELU"):
        noise_shifts(net(nn.GELU(), lp.GaussianNoise(0.1)), (3,), 0.1)
    with pytest.raises(ValueError, match="training mode"):
        noise_shifts(net(lp.GaussianNoise(0.1)).train(), (3,), 0.1)
    with pytest.raises(ValueError, match="eps must be finite and at least 0"):
        noise_shifts(net(lp.GaussianNoise(0.1)), (3,), -0.1)
    with pytest.raises(ValueError, match="norm must be one of"):
        noise_shifts(net(lp.GaussianNoise(0.1)), (3,), 0.1, 3)


def test_the_gap_is_the_lower_of_two_bounds():
    entropy = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    gaps = certified_risk_gap(0.05, 0.2, entropy)
    assert gaps.tolist() == pytest.approx([1 - math.exp(-0.05), 1 - math.exp(-0.15), 0.2])
    assert certified_risk_gap(math.inf, 0.3, entropy).tolist() == [0.3] * 3
    assert certified_risk_gap(0.0, 0.0, entropy).tolist() == [0.0] * 3
    for arguments, named in (
        ((-0.1, 0.2, entropy), "divergence"),
        ((math.nan, 0.2, entropy), "divergence"),
        ((0.1, -0.2, entropy), "variation"),
        ((0.1, 0.2, -entropy), "entropy"),
        ((0.1, 0.2, entropy * math.nan), "entropy"),
        ((0.1, 0.2, [0.1]), "entropy"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{named} must"):
            certified_risk_gap(*arguments)


def test_two_distributions_differ_by_at_most_the_gap():
    """Random distributions p and q of k classes, with their own divergence: every event, and so every class."""
    generator = torch.Generator().manual_seed(0)
    for sharpness in (0.1, 1.0, 4.0):
        for k in (2, 3, 10):
            p = (sharpness * torch.randn(500, k, generator=generator, dtype=torch.float64)).softmax(1)
            q = (p.log() + 0.3 * torch.randn(500, k, generator=generator, dtype=torch.float64)).softmax(1)
            divergences, entropies = (p * (p / q).log()).sum(1), -(p * p.log()).sum(1)
            for i in range(500):
                gap = certified_risk_gap(divergences[i].item(), 1.0, entropies[i : i + 1])
                assert (p[i] - q[i]).clamp_min(0).sum() <= gap
