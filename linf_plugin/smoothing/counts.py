"""Bounds of a probability from a count, by Clopper and Pearson (1934).

If K of n independent draws are successes and each succeeds with probability p, then P(lower(K, n, α) > p) ≤ α and
P(upper(K, n, α) < p) ≤ α, for every p.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from ..arguments import check_count, check_number

TAIL = 1e-9  # how much smaller than alpha a tail must be by SciPy, as a part of alpha.  SciPy is much more exact.
STEP = 1e-12  # by which an end is moved outward at first, as a part of itself


def lower(k: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Returns lower ends of one-sided confidence intervals: P(Binomial(n, lower) ≥ k) ≤ alpha, and 0 for k = 0.

    The end is the quantile of Beta(k, n − k + 1), and it is moved down until the tail, computed at the end itself, is
    at most alpha·(1 − ``TAIL``).  So an error of the quantile cannot make it too large.

    Args:
        k: counts of successes, whole numbers of any shape.
        n: the number of draws.
        alpha: the probability with which the end may lie above the true probability.

    Raises:
        TypeError, ValueError: n is not a positive integer, a count is not in 0..n, or alpha is not in (0, 1).
    """
    counts = _checked(k, n, alpha)
    some = np.maximum(counts, 1.0)
    found = special.betaincinv(some, n - some + 1, alpha)
    step = STEP
    # I_p(k, n − k + 1) = P(Binomial(n, p) ≥ k).
    while (high := ~(special.betainc(some, n - some + 1, found) <= alpha * (1 - TAIL))).any():
        found = np.where(high, np.maximum(found * (1 - step), 0.0) if step < 1 else 0.0, found)
        step *= 2
    return np.where(counts > 0, found, 0.0)


def upper(k: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    """Returns upper ends of one-sided confidence intervals: P(Binomial(n, upper) ≤ k) ≤ alpha, and 1 for k = n.

    It is 1 − ``lower`` of the failures, rounded up.  The arguments and errors are those of ``lower``.
    """
    counts = _checked(k, n, alpha)
    return np.minimum(np.nextafter(1.0 - lower(n - counts, n, alpha), 2.0), 1.0)


def least_draws(alpha: float, p: float = 0.5) -> int:
    """Returns the least n for which ``lower(n, n, alpha)`` exceeds p: with fewer draws no count can show that.

    Raises TypeError or ValueError unless alpha and p lie in (0, 1).
    """
    check_probability("alpha", alpha)
    check_probability("p", p)
    n = max(1, math.floor(math.log(alpha) / math.log(p)) - 1)  # lower(n, n, α) is about α^(1/n)
    while not lower(n, n, alpha) > p:
        n += 1
    return n


def check_probability(name: str, value: float) -> None:
    """Raises TypeError unless the value is a number, and ValueError unless it lies in (0, 1)."""
    check_number(name, value)
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie in (0, 1), got {value}")


def _checked(k: ArrayLike, n: int, alpha: float) -> NDArray[np.float64]:
    check_count("n", n)
    check_probability("alpha", alpha)
    counts = np.asarray(k)
    if counts.dtype.kind not in "iuf" or not (counts == np.floor(counts)).all():
        raise TypeError(f"k must hold whole numbers, got {k!r}")
    if not ((counts >= 0) & (counts <= n)).all():
        raise ValueError(f"k must lie in 0..n = {n}, got {counts.min()} to {counts.max()}")
    return counts.astype(np.float64)
