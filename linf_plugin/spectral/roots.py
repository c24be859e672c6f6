"""Cosines and sines of fractions of the circle, with a proved error."""

import functools

import torch
from torch import Tensor

from .outward import UNIT

_PLACES = 128  # binary places of the whole numbers that stand for fractions


def _arctangent(inverse: int) -> int:
    """Returns arctan(1/inverse)·2^places, by its series."""
    term, total, k = (1 << _PLACES) // inverse, 0, 1
    while term:
        total += term // k if k % 4 == 1 else -(term // k)
        term //= inverse * inverse
        k += 2
    return total


_PI = 4 * (4 * _arctangent(5) - _arctangent(239))  # Machin; wrong by less than 2^-116


def _first_quadrant(numerator: int, denominator: int) -> tuple[float, float]:
    """Returns cos and sin of (π/2)·numerator/denominator in [0, π/2)."""
    x = _PI * numerator // (2 * denominator)
    sums, term, k = [0, 0], 1 << _PLACES, 0
    while term:
        sums[k % 2] += term if k % 4 < 2 else -term
        k += 1
        term = (term * x >> _PLACES) // k
    return sums[0] / (1 << _PLACES), sums[1] / (1 << _PLACES)


@functools.lru_cache(64)
def roots(n: int) -> Tensor:
    """Returns (2, n) float64 on the CPU: cos and sin of 2πj/n for j = 0, …, n − 1, each wrong by at most ``UNIT``.

    Proof: the angle is reduced to a quadrant in whole numbers.  There it has an error below 2⁻¹¹⁶, and the series of
    fewer than 50 terms, each cut to 2⁻¹²⁸, one below 2⁻¹¹⁰.  The division to a float rounds to nearest: at most 2⁻⁵⁴
    for numbers up to 1.  Together this is below 2⁻⁵³.
    """
    table = torch.empty(2, n, dtype=torch.float64, device="cpu")
    for j in range(n):
        quadrant, rest = divmod(4 * j, n)
        c, s = _first_quadrant(rest, n)
        table[0, j], table[1, j] = ((c, s), (-s, c), (-c, -s), (s, -c))[quadrant]
    return table


def cosine_below(numerator: int, denominator: int) -> float:
    """Returns a lower bound of cos(2π·numerator/denominator), for an angle in [0, π/2)."""
    return _first_quadrant(4 * numerator, denominator)[0] - UNIT
