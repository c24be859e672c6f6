"""Volumes of balls in ℓ∞ and ℓ2: equal radii, and how much of one lies in the other."""

import itertools
import math

import pytest
import torch
from scipy.integrate import quad

from linf_plugin.volumes import equal_volume_radius, overlap, overlap_bound

DIMENSIONS = {"MNIST": 784, "CIFAR-10": 3072, "ImageNet": 3 * 224 * 224}


def test_the_radius_of_equal_volume():
    assert equal_volume_radius(3072, 0.031) == pytest.approx(0.833, abs=5e-4)
    for d, volume in ((1, 2.0), (2, math.pi), (3, 4 / 3 * math.pi), (4, math.pi**2 / 2)):
        for eps in (0.031, 1.0, 2.0):
            assert volume * equal_volume_radius(d, eps) ** d == pytest.approx((2 * eps) ** d, rel=1e-12)
    assert equal_volume_radius(10**6) == pytest.approx(math.sqrt(2 * 10**6 / (math.pi * math.e)), rel=1e-4)


@pytest.mark.parametrize("name, exponent", (("MNIST", -19.6), ("CIFAR-10", -79.5), ("ImageNet", -3955)))
def test_chernoffs_exponents(name, exponent):
    assert overlap_bound(DIMENSIONS[name]) == pytest.approx(exponent, abs=0.06)
    assert overlap(DIMENSIONS[name]) < overlap_bound(DIMENSIONS[name]) < overlap(DIMENSIONS[name]) + 3


def test_the_published_exponents_are_not_these():
    """144, 578 and 28946 take E u² for 2/3, and are natural logarithms."""
    for name, published in (("MNIST", 144), ("CIFAR-10", 578), ("ImageNet", 28946)):
        assert -overlap(DIMENSIONS[name]) < published / 6


def test_two_dimensions_by_geometry():
    assert 10 ** overlap(2) == pytest.approx(0.909, abs=5e-4)
    assert 10 ** overlap(1) == 1
    for radius in (1.05, 1.2, 1.4):  # the height of the disc above x, cut at 1

        def height(x):
            return min(1.0, math.sqrt(max(0.0, radius**2 - x * x)))

        kink = math.sqrt(radius**2 - 1)
        assert 10 ** overlap(2, radius) == pytest.approx(kink + quad(height, kink, 1)[0], rel=1e-8)
    assert overlap(2, 1.5) == 0 and 10 ** overlap(2, 1.0) == pytest.approx(math.pi / 4)


def below_two(s):
    """P(u² + v² ≤ s)."""
    return 0.0 if s <= 0 else 1.0 if s >= 2 else 10 ** overlap(2, math.sqrt(s))


@pytest.mark.parametrize("radius", (1.01, 1.2407, 1.5, 1.7))
def test_three_dimensions_by_quadrature(radius):
    square = radius**2
    kinks = sorted({0.0, 1.0, *(math.sqrt(square - s) for s in (0.0, 1.0, 2.0) if 0 < square - s < 1)})
    exact = sum(quad(lambda u: below_two(square - u * u), a, b, epsabs=1e-12)[0] for a, b in itertools.pairwise(kinks))
    assert 10 ** overlap(3, radius) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("radius", (1.1, 1.3423, 1.7))
def test_four_dimensions_by_quadrature(radius):
    """The sum of two pairs; the density of u² + v² is π/4 below 1, and then π/4 − arccos(1/√t)."""
    square = radius**2

    def density(t):
        return math.pi / 4 - (math.acos(1 / math.sqrt(t)) if t > 1 else 0.0)

    kinks = sorted({0.0, 1.0, min(2.0, square), *(square - s for s in (1.0, 2.0) if 0 < square - s < 2)})
    exact = sum(
        quad(lambda t: density(t) * below_two(square - t), a, b, epsabs=1e-12)[0] for a, b in itertools.pairwise(kinks)
    )
    assert 10 ** overlap(4, radius) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize("d", (3, 5, 8, 16, 30))
def test_sampled_points_agree(d):
    generator, n = torch.Generator().manual_seed(0), 400_000
    inside = (2 * torch.rand(n, d, generator=generator) - 1).square().sum(1)
    for ratio in (equal_volume_radius(d), 1.1 * equal_volume_radius(d), math.sqrt(d / 3) + 0.2):
        p = 10 ** overlap(d, ratio)
        assert abs((inside <= ratio**2).double().mean() - p) <= 4.5 * math.sqrt(p * (1 - p) / n) + 1e-9
    # Points of the ℓ2 ball that lie in the ℓ∞ ball: the same part, because the volumes are equal.
    points = torch.randn(n // 4, d, generator=generator)
    points *= (torch.rand(n // 4, 1, generator=generator) ** (1 / d)) / points.norm(dim=1, keepdim=True)
    share = ((equal_volume_radius(d) * points).abs().amax(1) <= 1).double().mean()
    p = 10 ** overlap(d)
    assert abs(share - p) <= 4.5 * math.sqrt(p * (1 - p) / (n // 4))


def test_the_bound_is_above_and_both_fall_with_the_dimension():
    found = [(overlap_bound(d), overlap(d)) for d in (1, 2, 3, 5, 10, 20, 50, 200, 1000, 5000)]
    assert all(exact <= bound <= 0 for bound, exact in found)
    assert [exact for _, exact in found] == sorted((exact for _, exact in found), reverse=True)
    for d in (3, 40):
        by_ratio = [overlap(d, ratio) for ratio in (0.5, 0.99, 1.0, 1.01, 1.3, 1.6, 3.0, 6.0, 7.0)]
        assert by_ratio == sorted(by_ratio) and by_ratio[-1] == 0
        bounds = [overlap_bound(d, ratio) for ratio in (0.5, 0.99, 1.0, 1.01, 1.3, 1.6, 3.0, 6.0, 7.0)]
        assert all(exact <= bound + 1e-9 for bound, exact in zip(bounds, by_ratio))


@pytest.mark.parametrize("function", (equal_volume_radius, overlap, overlap_bound))
@pytest.mark.parametrize("value", (0, -1, 1.5, "3", None, True))
def test_wrong_dimensions_are_refused(function, value):
    with pytest.raises((TypeError, ValueError), match="^dimension must be"):
        function(value)


@pytest.mark.parametrize("value", (0.0, -1.0, math.nan, math.inf, "1"))
def test_wrong_radii_are_refused(value):
    with pytest.raises((TypeError, ValueError), match="^eps must be"):
        equal_volume_radius(3, value)
    for function in (overlap, overlap_bound):
        with pytest.raises((TypeError, ValueError), match="^ratio must be"):
            function(3, value)
