"""How much of an ℓ∞ ball lies in an ℓ2 ball of the same volume: the geometry of defences in two norms.

A defence that is trained in one of these balls sees the points of that ball.  In high dimension almost no point of the
one lies in the other.  Araujo et al. (arXiv 2012.02632) argue so; their exponents use E u² = 2/3 for u uniform in
[−1, 1], and natural logarithms.  Here E u² = 1/3, and logarithms have the base 10.
"""

import math

from . import extras
from .arguments import check_count, check_positive

TAIL = 1e-11  # relative size of what the integral of the overlap leaves out
POINTS = 1 << 12  # of the integral that are computed at once
MOST_POINTS = 1 << 20


def equal_volume_radius(dimension: int, eps: float = 1.0) -> float:
    """Returns the radius of the ℓ2 ball with the volume of an ℓ∞ ball: (2/√π)·Γ(d/2 + 1)^{1/d}·eps.

    The ℓ∞ ball has the volume (2·eps)^d, and the ℓ2 ball of radius r has π^{d/2}·r^d/Γ(d/2 + 1).

    Args:
        dimension: d, at least 1.
        eps: the radius in ℓ∞, positive, in the units of the result.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_count("dimension", dimension)
    check_positive("eps", eps)
    return 2 / math.sqrt(math.pi) * math.exp(math.lgamma(dimension / 2 + 1) / dimension) * eps


def overlap_bound(dimension: int, ratio: float | None = None) -> float:
    """Returns an upper bound of ``overlap``, as a logarithm to the base 10: Chernoff's bound, which is at most 0.

    P(Σ u_i² ≤ r²) ≤ min_{t ≥ 0} e^{t·r²}·(E e^{−t·u²})^d with E e^{−t·u²} = √π·erf(√t)/(2·√t).  The exponent is convex
    in t, and each t gives a bound.

    Args: as ``overlap``.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    radius = _ratio(dimension, ratio)
    if radius * radius >= dimension / 3:  # the mean of Σ u²
        return 0.0
    return min(0.0, _exponent(_tilt(dimension, radius), dimension, radius)) / math.log(10)


def overlap(dimension: int, ratio: float | None = None) -> float:
    """Returns the part of an ℓ∞ ball that lies in an ℓ2 ball with the same centre, as a logarithm to the base 10.

    It is log10 P(Σ u_i² ≤ r²), with u_1, …, u_d independent and uniform in [−1, 1].  If the volumes are equal, it is
    also the part of the ℓ2 ball that lies in the ℓ∞ ball.  For d = 1 and d = 2 it comes from geometry.  For larger d it
    is the integral that inverts the Laplace transform of Σ u²,

        P = 1/(2πi)·∫ e^{z·r²}·m(z)^d/z dz,   m(z) = E e^{−z·u²} = √π·erf(√z)/(2·√z),

    over the vertical line through the lowest point of the integrand.  There it is largest, and nothing cancels; so the
    relative error of P is below 1e-8 for every d, also where P is far below the smallest float.  Sums at equal steps h
    stand for the integral.  They add P(Σ u² ≤ r² + 2πk/h)·e^{−2πkc/h} for k ≥ 1, and h is so small that these do not
    count.

    Args:
        dimension: d, at least 1.
        ratio: r, the radius of the ℓ2 ball where that of the ℓ∞ ball is 1; by default that of equal volumes.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
        ImportError: SciPy is not installed.
    """
    radius = _ratio(dimension, ratio)
    if radius <= 1:  # the ℓ2 ball lies in the ℓ∞ ball
        return dimension * math.log10(radius / equal_volume_radius(dimension))
    if radius * radius >= dimension:
        return 0.0
    if dimension == 2:
        # The disc without the four caps that stand out, over the area 4 of the square.
        cap = radius * radius * math.acos(1 / radius) - math.sqrt(radius * radius - 1)
        return math.log10((math.pi * radius * radius - 4 * cap) / 4)
    return _inverted(dimension, radius)


def _ratio(dimension: int, ratio: float | None) -> float:
    check_count("dimension", dimension)
    if ratio is None:
        return equal_volume_radius(dimension)
    check_positive("ratio", ratio)
    return float(ratio)


def _exponent(t: float, dimension: int, radius: float) -> float:
    """Returns t·r² + d·log E e^{−t·u²}."""
    root = math.sqrt(t)
    return t * radius * radius + (dimension * math.log(math.sqrt(math.pi) * math.erf(root) / (2 * root)) if t else 0.0)


def _tilt(dimension: int, radius: float) -> float:
    """Returns t at which ``_exponent`` is lowest, by golden sections of log t."""
    low, high, part = math.log(1e-9), math.log(1e9), (math.sqrt(5) - 1) / 2
    for _ in range(100):
        first, second = high - part * (high - low), low + part * (high - low)
        if _exponent(math.exp(first), dimension, radius) < _exponent(math.exp(second), dimension, radius):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def _inverted(dimension: int, radius: float) -> float:
    with extras.named():
        import numpy as np
        from scipy.special import erf

    square = radius * radius
    # Above the mean of Σ u² the exponent falls to t = 0, where 1/z has its pole; then any small t serves.
    c = _tilt(dimension, radius) if square < dimension / 3 else 0.0
    c = max(c, 2.0 / square)
    top = _exponent(c, dimension, radius)
    # The wanted number is at least about e^top/(c·√d), and the error e^{−2πc/h} at most; both in logarithms.
    step = 2 * math.pi * c / (max(0.0, -top) + math.log(c * math.sqrt(dimension) + 1) - math.log(TAIL))
    total, tail = 0.0, math.inf
    for first in range(0, MOST_POINTS, POINTS):
        y = step * np.arange(first, first + POINTS)
        z = c + 1j * y
        root = np.sqrt(z)
        # log m(z) may take any branch, because d is an integer and the exponential has the period 2πi.
        with np.errstate(under="ignore"):
            values = np.exp(z * square + dimension * np.log(math.sqrt(math.pi) * erf(root) / (2 * root)) - top) / z
        total += float(values.real.sum()) - (float(values[0].real) / 2 if not first else 0.0)
        # |m(z)| is about √(π/4|z|) far from 0, and each further term turns by step·r².
        tail = dimension / 2 * math.log(math.pi / 4 / abs(z[-1])) - math.log(abs(z[-1])) + c * square - top
        if tail < math.log(TAIL * step * total):
            break
    return min(0.0, top + math.log(total * step / math.pi)) / math.log(10)
