"""Float64 numbers rounded outward: the bounds of rounding errors from which certificates of norms are made.

Rounding is to nearest, with unit u = 2⁻⁵³.  A sum of n products, in any order, fused or not, is off by at most
γ_n·Σ|terms| with γ_n = n·u/(1 − n·u) (Higham, Accuracy and Stability, 3.1), and by what underflow loses.  Matrices are
scaled to about 1 by powers of two, so one number loses less than ``TINY`` by underflow, also where subnormal numbers
are flushed to zero.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..process import check_environment, check_rounding

UNIT = 2.0**-53
TINY = 2.0**-900
MOST_TERMS = 1 << 26
_BITS = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


class Matrices(NamedTuple):
    """Matrices (B, m, n) in float64: the real parts, and the imaginary parts or None if all matrices are real."""

    re: Tensor
    im: Tensor | None = None

    @property
    def entries(self) -> int:
        """How many entries a matrix has."""
        return self.re.shape[-1] * self.re.shape[-2]

    @property
    def adjoint(self) -> "Matrices":
        return Matrices(self.re.mT, None if self.im is None else -self.im.mT)

    @property
    def tall(self) -> "Matrices":
        """The matrices or their adjoints, whichever have no more columns than rows.  The norms are the same."""
        return self.adjoint if self.re.shape[-1] > self.re.shape[-2] else self

    @property
    def largest(self) -> Tensor:
        """(B,): the largest |real part| or |imaginary part| of each matrix."""
        parts = [a.abs().amax((-2, -1)) for a in self if a is not None]
        return parts[0] if len(parts) == 1 else torch.maximum(*parts)


def gamma(terms: int) -> float:
    """Returns a number that is at least γ of so many terms.

    γ_n ≤ n·u·(1 + 2⁻²⁶) for n ≤ 2²⁶, and the product below rounds once.  Raises ValueError above ``MOST_TERMS``.
    """
    if terms > MOST_TERMS:
        raise ValueError(f"the weight needs sums of {terms} terms; a certificate allows {MOST_TERMS}")
    return terms * (UNIT * (1 + 2.0**-20))


def up(x, roundings: int):
    """Returns x·(1 + (k + 8)·2⁻⁵²), rounded: at least x/(1 − γ_k) for k = ``roundings``.

    So it is an upper bound of the exact value, if x ≥ 0 is what float64 gives for sums, products and roots of numbers
    that are not negative, with at most k roundings one after the other.

    Proof: 1/(1 − γ_k) = 1 + k·u/(1 − 2·k·u) ≤ 1 + 1.1·k·u, and (1 + 2·(k + 8)·u)·(1 − u) is larger by more than 14·u.
    The factor itself is exact.  The spare 14·u also cover the underflow of up to 2²⁶ numbers if x ≥ 2⁻⁸⁷⁰.
    """
    gamma(roundings)  # the range of k
    return x * (1 + (roundings + 8) * 2.0**-52)


def power_of_two(exponent: Tensor) -> Tensor:
    """Returns 2^exponent exactly, for whole exponents from −1022 to 1023 (int64)."""
    return ((exponent + 1023) << 52).view(torch.float64)


def scaled(a: Matrices) -> tuple[Matrices, Tensor]:
    """Returns (2^−e·a, e) with e (B,) int64, exact except for underflow.

    The largest part of each matrix then lies in [1, 2); it stays 0 if it is 0, and it may be smaller, but no smaller
    than 2⁻⁷⁴, if it was below 2⁻¹⁰⁰⁰.
    """
    bits = a.largest.contiguous().view(torch.int64)
    exponent = torch.where(bits == 0, 0, ((bits >> 52) - 1023).clamp(min=-1000))
    factor = power_of_two(-exponent)[:, None, None]
    return Matrices(*(None if part is None else part * factor for part in a)), exponent


def frobenius(a: Matrices) -> Tensor:
    """Returns (B,): upper bounds of the Frobenius norms.  A matrix is zero, or is scaled by ``scaled``."""
    total = sum(part.square().sum((-2, -1)) for part in a if part is not None)
    return up((up(total, 2 * a.entries + 2) + a.entries * TINY).sqrt(), 2)


def gram(a: Matrices, norm: Tensor) -> tuple[Matrices, Tensor]:
    """Returns (H, error): H ≈ aᴴa, (B, n, n), with ‖H − aᴴa‖₂ ≤ error (B,).  ``norm`` is ``frobenius(a)``.

    Proof: a real entry is a sum of m products.  The real part of a complex one is XᵀX + YᵀY for a = X + iY, and the
    imaginary part is XᵀY minus its transpose: sums of m products, and one more rounding.  By Cauchy–Schwarz such a part
    is off by at most γ_{m+1}·‖a_i‖·‖a_j‖ for the columns a_i, a_j, and the entry by √2 times that.  So the Frobenius
    norm of the error, which is no smaller than its 2-norm, is at most √2·γ_{m+1}·‖a‖_F².
    """
    m, n = a.re.shape[-2:]
    if a.im is None:
        product, parts = Matrices(a.re.mT @ a.re), 1.0
    else:
        mixed = a.re.mT @ a.im
        product, parts = Matrices(a.re.mT @ a.re + a.im.mT @ a.im, mixed - mixed.mT), 1.5
    return product, up(norm * norm * (parts * gamma(m + 1)), 4) + n * n * TINY


def read(weight: Tensor) -> tuple[Tensor, int]:
    """Returns (w, e): the exact weight is 2^e·w, in float64, with |w| < 1; but underflow may lose 2⁻¹⁰⁰⁰ of an entry.

    Raises:
        RuntimeError: this process does not round to nearest, may compute with less than float64, or reads small
            weights as zero.
        ValueError: the weight has NaN or infinite values.
    """
    check_rounding()
    check_environment("cuda" if weight.is_cuda else "cpu", "multiply")
    weight = weight.detach()
    if not weight.isfinite().all():
        raise ValueError("weight must not hold NaN or infinite values")
    exact = weight.double()
    bits = weight.contiguous().view(_BITS[weight.dtype])
    if ((bits << 1 != 0) & (exact == 0)).any():
        raise RuntimeError(
            "this thread reads subnormal weights as zero: call torch.set_flush_denormal(False) before certifying"
        )
    _, exponent = math.frexp(exact.abs().max().item())
    half = -exponent // 2  # 2^−exponent alone may not be a number
    return exact * 2.0**half * 2.0 ** (-exponent - half), exponent


def back(bound: float, exponent: int) -> float:
    """Returns an upper bound of 2^exponent·bound, which is ∞ if no number is large enough."""
    try:
        value = math.ldexp(bound, exponent)
    except OverflowError:
        return math.inf
    return value if value == 0.0 == bound or value >= 2.0**-1022 else math.nextafter(value, math.inf)
