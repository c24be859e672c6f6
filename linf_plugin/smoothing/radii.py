"""Radii within which one noise keeps a class more probable than all others together, and the table of noises.

Each function maps a lower bound p of the class's probability under noise around x to a radius r, rounded down: around
every x′ with ‖x′ − x‖ < r the class has a probability above ½, so the smoothed classifier answers it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

from ..arguments import check_count, check_number, check_positive

ROUND = 4e-16  # how far Φ(Φ⁻¹(p)) of SciPy can be from p
SHRINK = 1 - 1e-13  # covers the rounding of a few operations of float64


@dataclass(frozen=True)
class Noise:
    """A row of ``NOISES``.

    Attributes:
        draw: (generator, out) → None fills a float64 array with independent draws for scale 1.
        scale: what the scale means.
        radii: the exponent of a norm → (p, scale, dim) → radius in that norm.  The first norm is the usual one.
        source: where the radius comes from.
    """

    draw: Callable[[np.random.Generator, np.ndarray], None]
    scale: str
    radii: dict[float, Callable[[float, float, int], float]]
    source: str


def gaussian_radius(p: float, sigma: float, dim: int = 1) -> float:
    """Returns σ·Φ⁻¹(p) in ℓ2, rounded down, and 0 for p ≤ ½.

    Source: Cohen et al. (arXiv 1902.02918), Theorem 1 with p_B = 1 − p_A.

    Proof: among the sets of probability p under N(0, σ²I) the half-space {z₁ ≤ σΦ⁻¹(p)} has the least probability under
    N(δ, σ²I) (Neyman and Pearson), Φ(Φ⁻¹(p) − ‖δ‖/σ), which exceeds ½ for ‖δ‖ < σΦ⁻¹(p).  The dimension does not
    matter.

    Raises TypeError or ValueError unless p lies in [0, 1] and σ is positive and finite.
    """
    _check(p, "sigma", sigma, dim)
    return max(0.0, math.nextafter(sigma * quantile_below(p), -math.inf)) if p > 0.5 else 0.0


def uniform_radius_l1(p: float, width: float, dim: int = 1) -> float:
    """Returns 2λ(p − ½) in ℓ1 for noise uniform in [−λ, λ]^d, rounded down, and 0 for p ≤ ½.

    Source: Lee et al.  (arXiv 1906.04948); Yang et al.  (arXiv 2002.08118).  Proof: let V be the part of the cube
    around x that is also in the cube around x + δ, V = Π(1 − |δ_i|/2λ)₊ ≥ 1 − ‖δ‖₁/2λ.  The class has a mass of at
    least p − (1 − V) in the common part, and there both noises have the same density.  p − ‖δ‖₁/2λ > ½ for ‖δ‖₁ <
    2λ(p − ½).

    Raises TypeError or ValueError unless p lies in [0, 1] and the half width λ is positive and finite.
    """
    _check(p, "width", width, dim)
    return max(0.0, 2 * width * (p - 0.5) * SHRINK)


def uniform_radius_linf(p: float, width: float, dim: int) -> float:
    """Returns 2λ(1 − (3/2 − p)^{1/d}) in ℓ∞ for noise uniform in [−λ, λ]^d, rounded down, and 0 for p ≤ ½.

    Source: Yang et al.  (arXiv 2002.08118).  Proof: as for ``uniform_radius_l1``, but V ≥ (1 − ‖δ‖∞/2λ)^d, and p − (1
    − V) > ½ where V > 3/2 − p.  In one dimension it is the radius in ℓ1.

    Raises TypeError or ValueError as ``uniform_radius_l1``, or if dim is not a positive integer.
    """
    _check(p, "width", width, dim)
    if p <= 0.5:
        return 0.0
    # p − ½ is exact; a change of log1p by a relative error 2⁻⁵⁰ changes the radius by no more.
    return -2 * width * math.expm1(math.log1p(-(p - 0.5)) / dim) * SHRINK


def quantile_below(p: float) -> float:
    """Returns a number of at most Φ⁻¹(p), closer than 1e-11 for p in [½, 1 − 1e-6]; ∞ for p = 1."""
    z = float(special.ndtri(p))
    if not math.isfinite(z):
        return z
    density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return z - ROUND / density - (1e-14 + 1e-14 * abs(z))


def _check(p: float, name: str, scale: float, dim: int) -> None:
    check_number("p", p)
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    check_positive(name, scale)
    check_count("dim", dim)


def _gaussian(generator: np.random.Generator, out: np.ndarray) -> None:
    generator.standard_normal(out=out)


def _uniform(generator: np.random.Generator, out: np.ndarray) -> None:
    generator.random(out=out)
    np.multiply(out, 2.0, out=out)
    np.subtract(out, 1.0, out=out)


NOISES = {
    "gaussian": Noise(
        _gaussian, "the standard deviation σ of each coordinate", {2.0: gaussian_radius}, "arXiv 1902.02918"
    ),
    "uniform": Noise(
        _uniform,
        "the half width λ of the cube [−λ, λ]^d",
        {1.0: uniform_radius_l1, math.inf: uniform_radius_linf},
        "arXiv 1906.04948, 2002.08118",
    ),
}
