"""Bounds of Clopper and Pearson against binomial tails in exact rational arithmetic."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from linf_plugin.smoothing import least_draws, lower, upper


def _tail(k: int, n: int, p: float) -> Fraction:
    """P(Binomial(n, p) ≥ k), exactly."""
    p = Fraction(p)
    return sum((math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)), Fraction(0))


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001, 1e-6])
@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_ends_hold_exactly_and_are_tight(n, alpha):
    k = np.arange(n + 1)
    low, high = lower(k, n, alpha), upper(k, n, alpha)
    exact = Fraction(alpha)
    assert low[0] == 0 and high[n] == 1
    for i in range(1, n + 1):
        assert _tail(i, n, float(low[i])) <= exact < _tail(i, n, float(low[i]) * (1 + 1e-8))
    for i in range(n):  # P(K ≤ i) under p is P(n − K ≥ n − i) under 1 − p
        miss = 1 - Fraction(float(high[i]))
        assert sum(math.comb(n, j) * miss**j * (1 - miss) ** (n - j) for j in range(n - i, n + 1)) <= exact


@pytest.mark.parametrize("k, n, alpha", [(99_990, 100_000, 5e-4), (100_000, 100_000, 5e-4), (50_300, 100_000, 2.5e-4)])
def test_ends_of_many_draws(k, n, alpha):
    with mpmath.workdps(40):
        p = mpmath.mpf(float(lower(k, n, alpha)))
        first = mpmath.binomial(n, k) * p**k * (1 - p) ** (n - k)
        tail, term, i = first, first, k
        while i < n and term > mpmath.mpf(10) ** -35:
            term *= mpmath.mpf(n - i) / (i + 1) * p / (1 - p)
            tail, i = tail + term, i + 1
        assert alpha * (1 - 1e-6) < tail <= alpha


def test_least_draws():
    for alpha in (0.4, 0.05, 0.001, 2.5e-4):
        n = least_draws(alpha)
        assert lower(n, n, alpha) > 0.5
        assert n == 1 or not lower(n - 1, n - 1, alpha) > 0.5
    assert least_draws(0.001) == 10
    assert least_draws(0.5) == 2  # with one draw the end is ½ itself, and no more


@pytest.mark.parametrize(
    "arguments, error, name",
    [
        ((1, 0, 0.1), ValueError, "n"),
        ((1, 2.0, 0.1), TypeError, "n"),
        ((1, 2, 0.0), ValueError, "alpha"),
        ((1, 2, 1.0), ValueError, "alpha"),
        ((1, 2, float("nan")), ValueError, "alpha"),
        ((1, 2, "x"), TypeError, "alpha"),
        ((3, 2, 0.1), ValueError, "k"),
        ((-1, 2, 0.1), ValueError, "k"),
        ((0.5, 2, 0.1), TypeError, "k"),
    ],
)
@pytest.mark.parametrize("end", [lower, upper])
def test_wrong_arguments(end, arguments, error, name):
    with pytest.raises(error, match=f"^{name} must"):
        end(*arguments)
