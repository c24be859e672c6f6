"""Intervals and tests: against published figures, and against the distributions that define them."""

import itertools
import math

import pytest

from comparisons.report.statistics import LEVEL, holm, interval, mcnemar


def at_least(hits: int, n: int, p: float) -> float:
    """The probability of ``hits`` or more of n."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(hits, n + 1))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (81, 263), (299, 360)])
def test_the_ends_are_where_the_tails_hold_half_of_the_rest(hits, n):
    low, high = interval(hits / n, n)
    assert 0 <= low <= hits / n <= high <= 1
    tail = (1 - LEVEL) / 2
    assert at_least(hits, n, low) == pytest.approx(tail, rel=1e-6) if hits else low == 0
    assert 1 - at_least(hits + 1, n, high) == pytest.approx(tail, rel=1e-6) if hits < n else high == 1


def test_a_published_interval():
    """Newcombe (1998, Statistics in Medicine 17, 857–872), Table I, method 5: 81 of 263, and 0 of 20."""
    assert interval(81 / 263, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)
    assert interval(0.0, 20) == pytest.approx((0.0, 0.1684), abs=5e-5)


@pytest.mark.parametrize(("fraction", "samples"), [(-0.1, 10), (1.1, 10), (0.5, 0)])
def test_what_is_no_accuracy_is_refused(fraction, samples):
    with pytest.raises(ValueError, match=f"fraction must lie in .0, 1. .*got {fraction} and {samples}"):
        interval(fraction, samples)


def test_mcnemar_is_the_sign_test_of_the_discordant_samples():
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0
    assert mcnemar(0, 5) == pytest.approx(2 * 0.5**5)
    assert mcnemar(1, 9) == mcnemar(9, 1) == pytest.approx(2 * at_least(9, 10, 0.5))


def test_a_published_p_value():
    """Fagerland, Lydersen and Laake (2013): airway hyper-responsiveness, with 1 and 7 discordant pairs."""
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)


def test_holm_multiplies_the_smallest_by_the_number_of_all():
    assert holm([]) == [] and holm([0.2]) == [0.2]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    for values in itertools.permutations((0.01, 0.02, 0.3)):
        assert dict(zip(values, holm(values))) == pytest.approx({0.01: 0.03, 0.02: 0.04, 0.3: 0.3})
