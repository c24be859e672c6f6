"""The certificate of several noises: against Cohen's radius, the true radius, sampling and a slow reference."""

import importlib.util
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import optimize, special, stats

from linf_plugin.smoothing import lower, several_radius, upper
from linf_plugin.smoothing.dual import Several, concave, estimate, falls, proved

_SPEC = importlib.util.spec_from_file_location("slow_reference", Path(__file__).parent / "slow_reference.py")
reference = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(reference)

# (d, σ_1, p_0, p_1) for σ_0 = 1 → (radius, k_0, k_1), by ``slow_reference.solve``.
SOLVED = {
    (16, 1.1, 0.8, 0.63): (1.2298992077027837, 6.125771282256466, -3.7847084038728904),
    (16, 0.9, 0.8, 0.91): (1.109559305678053, -0.7200706538551769, 3.3658896237863156),
    (16, 1.5, 0.8, 0.35): (0.8501141787513324, 1.462192169975246, -0.047272715059514775),
    (64, 1.2, 0.95, 0.5): (1.7370870355263375, 4.90065818379988, -0.35815933584232745),
}


def _ball(p0, sigma0, sigma1, d):
    """A class that is a ball around x: its probability under σ_1, and its true radius under σ_0."""
    square = sigma0**2 * stats.chi2.ppf(p0, d)
    true = optimize.brentq(
        lambda r: stats.ncx2.cdf(square / sigma0**2, d, (r / sigma0) ** 2) - 0.5, 1e-3, 10 * sigma0, xtol=1e-12
    )
    return float(stats.chi2.cdf(square / sigma1**2, d)), true


@pytest.mark.parametrize("d", [1, 2, 16, 256])
@pytest.mark.parametrize("p0, sigma1", [(0.6, 0.55), (0.8, 0.45), (0.99, 0.7)])
def test_a_half_space_has_cohens_radius(d, p0, sigma1):
    sigma0 = 0.5
    cohen = sigma0 * special.ndtri(p0)
    p1 = float(special.ndtr(cohen / sigma1))
    assert several_radius({sigma0: (p0, p0), sigma1: (p1, p1)}, d) == pytest.approx(cohen, abs=1e-6)


@pytest.mark.parametrize("d, sigma1, least", [(16, 0.55, 1.1460), (16, 0.45, 1.1460), (256, 0.55, 2.2066)])
def test_a_ball_lies_between_cohen_and_the_truth(d, sigma1, least):
    """Of all classes with p_0 the ball has an extreme p_1, so exact probabilities leave no other class.

    The radius could reach the true one with infinite multipliers; in float64 they end at about 1e9.
    """
    p1, true = _ball(0.8, 0.5, sigma1, d)
    radius = several_radius({0.5: (0.8, 0.8), sigma1: (p1, p1)}, d)
    assert least <= radius <= true + 1e-9
    assert several_radius({0.5: (0.8, 0.8)}, d) == pytest.approx(0.4208106, abs=1e-7)


@pytest.mark.parametrize("d, sigma1", [(16, 0.55), (256, 0.45), (3072, 0.505)])
def test_a_ball_from_counts(d, sigma1):
    p1, true = _ball(0.8, 0.5, sigma1, d)
    n, alpha = 100_000, 0.00025
    ends = {}
    for sigma, p in ((0.5, 0.8), (sigma1, p1)):
        ends[sigma] = float(lower(round(p * n), n, alpha)), float(upper(round(p * n), n, alpha))
    cohen = several_radius({0.5: ends[0.5]}, d)
    assert 1.5 * cohen < several_radius(ends, d) < true


@pytest.mark.parametrize("case", SOLVED, ids=str)
def test_the_slow_reference_agrees(case, monkeypatch):
    (d, sigma, p0, p1), (eps, *k) = case, SOLVED[case]
    monkeypatch.setattr(reference, "PANELS", 600)
    assert reference.under(eps, sigma, d, *k) == pytest.approx((p0, p1), abs=2e-5)
    assert reference.shifted(eps, sigma, d, *k) == pytest.approx(0.5, abs=2e-5)
    radius = several_radius({1.0: (p0, p0), sigma: (p1, p1)}, d)
    assert eps - 1e-4 < radius < eps + 2e-5
    assert several_radius({0.3: (p0, p0), 0.3 * sigma: (p1, p1)}, d) == pytest.approx(0.3 * radius, abs=1e-5)


@pytest.mark.parametrize("d", [1, 2, 3, 16])
@pytest.mark.parametrize(
    "sigmas, k",
    [
        ([1.0, 1.2], [3.0, -1.0]),
        ([1.0, 0.7], [-0.4, 2.0]),
        ([1.0, 0.7], [1.0, 0.8]),
        ([1.0, 0.7], [2.0, -0.5]),
        ([1.0, 1.2, 0.8], [1.5, -0.3, 0.4]),
        ([1.0, 1.2, 0.8], [1.5, 0.3, -0.4]),
        ([1.0, 1.3, 0.8, 0.6], [-1.5, 1.3, 2.4, -0.7]),
        ([1.0], [1.4]),
    ],
)
def test_the_proved_bound_is_below_the_dual_by_sampling(sigmas, k, d):
    """D(k) with the probabilities of the optimal region as ends is its probability under the shifted noise."""
    sigmas, k, eps = np.array(sigmas), np.array(k), 0.9
    rng = np.random.default_rng(d)
    z = rng.standard_normal((200_000, d))

    def f(points, sigma):
        return np.exp(-0.5 * (points**2).sum(axis=1) / sigma**2) / sigma**d

    def inside(points):
        moved = points - eps * np.eye(1, d)
        return sum(a * f(points, s) for a, s in zip(k, sigmas)) >= f(moved, 1.0)

    p = np.array([inside(s * z).mean() for s in sigmas])
    problem = Several(sigmas, p, p, d)
    truth = inside(z + eps * np.eye(1, d)).mean()
    noise = 4 * (1 + np.abs(k).sum()) / math.sqrt(len(z))
    low = proved(problem, eps, k, 0.002)
    integral, reached, _ = estimate(problem, eps, k, 0.002)
    assert low <= k @ p - integral + 1e-9
    assert low == pytest.approx(truth, abs=noise) and reached == pytest.approx(p, abs=0.01)
    # A finer rule proves more, and the truth is above all of them.
    assert proved(problem, eps, k, 0.05) <= low + 1e-9


def test_wide_intervals_leave_cohens_radius():
    one = several_radius({0.5: (0.8, 0.82)}, 20)
    assert several_radius({0.5: (0.8, 0.82), 0.6: (0.0, 1.0)}, 20) == pytest.approx(one, abs=1e-9)


def test_narrower_intervals_never_shorten_the_radius():
    radii = [several_radius({1.0: (0.8 - w, 0.8 + w), 1.1: (0.63 - w, 0.63 + w)}, 16) for w in (0.02, 0.005, 0.001)]
    assert radii == sorted(radii)
    assert radii[0] < radii[-1]


def test_three_noises_are_no_worse_than_two():
    p1, p2 = (_ball(0.8, 0.5, sigma, 16)[0] for sigma in (0.55, 0.45))
    ends = {0.5: (0.799, 0.801), 0.55: (p1 - 0.001, p1 + 0.001), 0.45: (p2 - 0.001, p2 + 0.001)}
    two = [several_radius({s: ends[s] for s in (0.5, other)}, 16) for other in (0.55, 0.45)]
    assert max(two) - 1e-4 < several_radius(ends, 16) <= _ball(0.801, 0.5, 0.55, 16)[1]


def test_a_shell_is_proved_sphere_by_sphere():
    """A class outside of a ball around x grows with the distance, so its bound need not fall with it."""
    square = 0.25 * stats.chi2.ppf(0.2, 16)
    p1 = float(stats.chi2.sf(square / 0.55**2, 16))
    radius = several_radius({0.5: (0.795, 0.805), 0.55: (p1 - 0.005, p1 + 0.005)}, 16)
    assert radius > 0.5 * special.ndtri(0.795) + 0.05


@pytest.mark.parametrize(
    "k, log_concave, falling",
    [
        ([2.0, -1.0], True, True),
        ([2.0, 0.0], True, True),
        ([2.0, 1.0], False, True),
        ([-1.0, 2.0], False, False),
        ([0.0, 2.0], True, True),
        ([0.0, 0.0], False, True),
    ],
)
def test_the_signs_of_multipliers(k, log_concave, falling):
    sigmas = np.array([1.0, 1.2])
    assert (concave(sigmas, np.array(k)), falls(sigmas, np.array(k))) == (log_concave, falling)


@pytest.mark.parametrize("freedom", [1, 2, 15, 255, 3071])
def test_scipy_knows_the_distribution_of_chi_square(freedom):
    """``Several.exact`` trusts it within 1e-14 for one degree of freedom or two, and else within 1e-15."""
    with mpmath.workdps(40):
        for z in (-6, -2, -0.5, 0, 0.7, 3, 8):
            x = max(freedom + z * math.sqrt(2 * freedom), 1e-3 * freedom)
            a, y = mpmath.mpf(freedom) / 2, mpmath.mpf(x) / 2
            term = total = mpmath.exp(a * mpmath.log(y) - y - mpmath.loggamma(a + 1))
            n = 0
            while term > total * mpmath.mpf(10) ** -35:
                n += 1
                term *= y / (a + n)
                total += term
            allowed = 1e-14 if freedom < 3 else 1e-15
            assert abs(float(special.chdtr(freedom, x) - total)) < allowed
            assert abs(float(special.chdtrc(freedom, x) - (1 - total))) < allowed


def test_no_majority_gives_no_radius():
    assert several_radius({1.0: (0.5, 0.9), 1.1: (0.9, 1.0)}, 4) == 0.0
    assert several_radius({1.0: (0.0, 1.0)}, 4) == 0.0


@pytest.mark.parametrize(
    "p, d, error, text",
    [
        ({}, 2, ValueError, "p must"),
        ({0.0: (0.6, 0.7)}, 2, ValueError, "sigma must"),
        ({-1.0: (0.6, 0.7)}, 2, ValueError, "sigma must"),
        ({math.nan: (0.6, 0.7)}, 2, ValueError, "sigma must"),
        ({1.0: (0.7, 0.6)}, 2, ValueError, r"p\[1.0\] must"),
        ({1.0: (math.nan, 0.6)}, 2, ValueError, r"p\[1.0\] must"),
        ({1.0: (0.6, 1.1)}, 2, ValueError, r"p\[1.0\] must"),
        ({1.0: ("a", 1.0)}, 2, TypeError, "p must"),
        ({1.0: (0.6, 0.7)}, 0, ValueError, "dim must"),
        ({1.0: (0.6, 0.7)}, 2.0, TypeError, "dim must"),
    ],
)
def test_wrong_arguments(p, d, error, text):
    with pytest.raises(error, match=text):
        several_radius(p, d)


@pytest.mark.parametrize(
    "p, d", [(((0.999, 1.0), (0.0, 0.2)), 16), (((0.9, 1.0), (0.0, 0.01)), 8), (((0.9, 0.95), (0.0, 0.01)), 8)]
)
def test_ends_that_contradict_each_other_give_no_more_than_the_first_noise(p, d):
    """They prove everything.  Such ends come from counts with a probability of at most alpha."""
    radius = several_radius({1.0: p[0], 1.2: p[1]}, d)
    assert radius == pytest.approx(stats.norm.ppf(p[0][0]), abs=1e-9) and radius <= stats.norm.ppf(p[0][0])
