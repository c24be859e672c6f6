"""The region where a combination of Gaussian densities exceeds a shifted one, as intervals of ‖z‖² for each x₁.

Units: the first noise has σ₀ = 1 and density f_0, and f_δ is f_0 moved by ε along the first axis.  With u = ‖z‖² and
c_i = (σ_i⁻² − 1)/2,

    Σ k_i f_i(z) ≥ f_δ(z)  ⇔  G(u) ≥ exp(ε·x₁ − ε²/2),   G(u) = k_0 + Σ_{i≥1} k_i σ_i^{−d} exp(−c_i u).

G depends on u only, and the right side on x₁ only.  So the region is found by inverting G between its extrema.  All
comparisons are between sums of positive terms in logarithms, so nothing overflows.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]
HALVINGS = 60  # of an interval of u: its ends are then known to the last bits


def intervals(logs: Array, signs: Array, rates: Array, levels: Array, most: float) -> list[tuple[Array, Array]]:
    """Returns disjoint intervals that together are {u in [0, most]: Σ signs_i·exp(logs_i − rates_i·u) ≥ exp(level)}.

    Args:
        logs, signs, rates: (m,) each: ln|k_i|σ_i^{−d}, the sign of k_i or 0, and c_i.
        levels: (M,), ln of the right side for each x₁.
        most: the largest u that counts.

    Returns:
        pairs (low, high) of (M,) each; empty intervals have low = high.
    """
    used = signs != 0
    logs, signs, rates = logs[used], signs[used], rates[used]
    moving = rates != 0
    if not moving.any():  # G is the constant k_0
        above = _above(logs, signs, rates, np.zeros_like(levels), levels)
        return [(np.zeros_like(levels), np.where(above, most, 0.0))]
    if moving.sum() == 1 and len(rates) <= 2:
        return [_one(logs, signs, rates, moving, levels, most)]
    # G′ has the terms −k_i c_i exp(…).
    slopes = (logs[moving] + np.log(np.abs(rates[moving])), -signs[moving] * np.sign(rates[moving]), rates[moving])
    edges = [0.0, *_roots(*slopes, most), most]
    found = []
    for a, b in pairwise(edges):
        at_a, at_b = (_above(logs, signs, rates, np.full_like(levels, u), levels) for u in (a, b))
        low, high = np.full_like(levels, a), np.full_like(levels, b)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            same = _above(logs, signs, rates, middle, levels) == at_a
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        crossed = at_a != at_b
        found.append((np.where(at_a, a, np.where(crossed, low, b)), np.where(at_b, b, np.where(crossed, low, a))))
        found[-1] = (found[-1][0], np.maximum(*found[-1]))
    return found


def _one(
    logs: Array, signs: Array, rates: Array, moving: NDArray[np.bool_], levels: Array, most: float
) -> tuple[Array, Array]:
    """The interval where one exponential and a constant reach the levels, in closed form."""
    (rho,), (sign,), (c,) = logs[moving], signs[moving], rates[moving]
    constant = float(np.sum(signs[~moving] * np.exp(logs[~moving])))  # k_0
    with np.errstate(over="ignore", divide="ignore"):
        least = np.exp(levels) - constant  # what the exponential must add
        at = np.clip((rho - np.log(np.abs(least))) / c, 0.0, most)  # where |exponential| = |least|
    reached = (least < 0) if sign < 0 else (least > 0)  # or else it is never, or always, enough
    falls = (c > 0) == (sign > 0)  # whether the exponential falls with u
    always = (sign > 0) & (least <= 0)
    low = np.where(reached & ~np.bool_(falls), at, 0.0)
    high = np.where(reached, at if falls else most, np.where(always, most, 0.0))
    return low, high


def _above(logs: Array, signs: Array, rates: Array, u: Array, levels: Array) -> NDArray[np.bool_]:
    """Returns whether Σ signs_i·exp(logs_i − rates_i·u) ≥ exp(level), for pairs (u, level)."""
    terms = logs[:, None] - rates[:, None] * u
    return _sum(terms[signs > 0]) >= np.logaddexp(_sum(terms[signs < 0]), levels)


def _sum(terms: Array) -> Array:
    """Returns ln Σ exp(terms) over the first axis; −∞ for an empty sum."""
    return special.logsumexp(terms, axis=0) if len(terms) else np.full(terms.shape[1:], -np.inf)


def _roots(logs: Array, signs: Array, rates: Array, most: float) -> list[float]:
    """Returns the roots in (0, most) of S(u) = Σ signs_i·exp(logs_i − rates_i·u) where S changes its sign, ascending.

    S·exp(rates_0·u) has the same roots, and its derivative has one term fewer.  By Rolle's theorem the roots of the
    derivative, found in the same way, separate those of S.
    """
    if len(signs) < 2 or abs(signs.sum()) == len(signs):
        return []
    others = rates[1:] - rates[0]
    edges = [0.0, *_roots(logs[1:] + np.log(np.abs(others)), -signs[1:] * np.sign(others), others, most), most]
    none = np.array([-np.inf])

    def positive(u: float) -> bool:
        return bool(_above(logs, signs, rates, np.array([u]), none)[0])

    found = []
    for low, high in pairwise(edges):
        at_low = positive(low)
        if at_low != positive(high):
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if positive(middle) == at_low else (low, middle)
            found.append(low)
    return found
