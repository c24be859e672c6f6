"""Radii of one noise: closed forms, rounding down, and proofs checked by exact overlaps."""

import math

import mpmath
import numpy as np
import pytest

from linf_plugin.smoothing import NOISES, gaussian_radius, uniform_radius_l1, uniform_radius_linf

PROBABILITIES = [0.5 + 1e-12, 0.5001, 0.6, 0.8, 0.999, 1 - 1e-6, 1 - 1e-12]


@pytest.mark.parametrize("p", PROBABILITIES)
def test_cohens_radius_is_below_the_exact_one_and_near(p):
    radius = gaussian_radius(p, 0.25)
    with mpmath.workdps(40):
        at = mpmath.ncdf(mpmath.mpf(radius) / mpmath.mpf(0.25))
        assert at <= mpmath.mpf(p)
        exact = float(mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1) / 4)
    assert exact - radius < 1e-11 + 1e-4 * exact


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5])
def test_no_radius_without_a_majority(p):
    assert gaussian_radius(p, 1.0) == uniform_radius_l1(p, 1.0) == uniform_radius_linf(p, 1.0, 3) == 0.0


@pytest.mark.parametrize("p", [0.5001, 0.7, 0.99, 1.0])
def test_uniform_noise_in_one_dimension_is_exact(p):
    """The class is an interval at the far end of the noise: moved by r, it keeps p − r/2λ."""
    width = 0.3
    for radius in (uniform_radius_l1(p, width, 1), uniform_radius_linf(p, width, 1)):
        assert radius == pytest.approx(2 * width * (p - 0.5), rel=1e-11)
        assert p - radius / (2 * width) >= 0.5


@pytest.mark.parametrize("dim", [1, 2, 5, 784])
@pytest.mark.parametrize("p", [0.51, 0.9, 1.0])
def test_uniform_noise_keeps_a_majority_at_corners_and_axes(p, dim):
    width = 0.25
    with mpmath.workdps(40):
        corner = mpmath.mpf(uniform_radius_linf(p, width, dim))
        assert mpmath.mpf(p) - (1 - (1 - corner / (2 * width)) ** dim) >= 0.5
        beyond = corner * (1 + mpmath.mpf(10) ** -9)
        assert mpmath.mpf(p) - (1 - (1 - beyond / (2 * width)) ** dim) < 0.5
        assert mpmath.mpf(p) - mpmath.mpf(uniform_radius_l1(p, width, dim)) / (2 * width) >= 0.5
    assert corner <= uniform_radius_l1(p, width, dim) * (1 + 1e-12) <= dim * float(corner) * (1 + 1e-9)


def test_the_table_draws_what_it_says():
    out = np.empty((200_000, 2))
    for noise, deviation, most in (("gaussian", 1.0, math.inf), ("uniform", 1 / math.sqrt(3), 1.0)):
        NOISES[noise].draw(np.random.default_rng(0), out)
        assert abs(out.mean()) < 0.01 and abs(out.std() - deviation) < 0.01 and abs(out).max() <= most


@pytest.mark.parametrize(
    "arguments, error, name",
    [
        ((1.1, 1.0, 2), ValueError, "p"),
        ((-0.1, 1.0, 2), ValueError, "p"),
        ((math.nan, 1.0, 2), ValueError, "p"),
        (("0.7", 1.0, 2), TypeError, "p"),
        ((0.7, 0.0, 2), ValueError, "sigma|width"),
        ((0.7, -1.0, 2), ValueError, "sigma|width"),
        ((0.7, math.inf, 2), ValueError, "sigma|width"),
        ((0.7, 1.0, 0), ValueError, "dim"),
    ],
)
@pytest.mark.parametrize("radius", [gaussian_radius, uniform_radius_l1, uniform_radius_linf])
def test_wrong_arguments(radius, arguments, error, name):
    with pytest.raises(error, match=f"^({name}) must"):
        radius(*arguments)
