"""The largest singular value of each matrix, computed by LAPACK and proved by a Cholesky factor."""

import torch
from torch import Tensor

from .outward import TINY, UNIT, Matrices, frobenius, gram, power_of_two, scaled, up

ATTEMPTS = 5
MORE = 8.0  # the allowance grows by this factor where a matrix was not positive definite


def svd_upper(a: Matrices, steps: int = 0) -> Tensor:
    """Returns (B,): upper bounds of the 2-norms of the matrices, which hold with all rounding.

    No result of LAPACK is trusted.  Let H = GᴴG + E with ‖E‖₂ ≤ e, τ any number, M = τI − H as computed, X any matrix,
    and Δ = M − X·Xᴴ.  Then τI − GᴴG = X·Xᴴ + Δ + E + D, where the diagonal D is the rounding of M's diagonal.
    X·Xᴴ has no negative eigenvalue, so σ₁(G)² ≤ τ + ‖Δ‖_F + e + u·max|M_ii|.  LAPACK gives τ, a little above the
    largest eigenvalue of H, and X, the Cholesky factor of M, so that ‖Δ‖_F is of the order of rounding.
    """
    g, exponent = scaled(a.tall)
    size = frobenius(g)
    h, missed = gram(g, size)
    found = size.clone()  # an upper bound in any case
    n = h.re.shape[-1]
    whole = h.re if h.im is None else torch.complex(h.re, h.im)
    largest = torch.linalg.eigvalsh(whole)[:, -1]
    open_ = a.largest.nonzero().squeeze(1)
    allowance = 16 * n * UNIT
    for _ in range(ATTEMPTS):
        if len(open_) == 0:
            break
        tau = largest[open_] * (1 + allowance)
        parts = Matrices(*(None if part is None else part[open_] for part in h))
        found[open_], proved = _proved(parts, tau, missed[open_], size[open_])
        open_, allowance = open_[~proved], allowance * MORE
    found = (torch.minimum(found, size) * power_of_two(exponent)).clamp(min=TINY)
    return torch.where(a.largest == 0, 0.0, found)


def _proved(h: Matrices, tau: Tensor, missed: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """Returns bounds (B,), and whether each has been proved by a factor; where not, the bound is ``otherwise``."""
    n = h.re.shape[-1]
    unity = torch.eye(n, dtype=torch.float64, device=tau.device)
    re = tau[:, None, None] * unity - h.re
    m = re if h.im is None else torch.complex(re, -h.im)
    factor, info = torch.linalg.cholesky_ex(m)
    x = Matrices(factor) if h.im is None else Matrices(factor.real.contiguous(), factor.imag.contiguous())
    good = (info == 0) & x.largest.isfinite()
    x = Matrices(*(None if part is None else torch.where(good[:, None, None], part, 0.0) for part in x))
    rest, error = _rest(Matrices(re, None if h.im is None else -h.im), x)
    diagonal = up(re.diagonal(dim1=-2, dim2=-1).abs().amax(-1) * UNIT, 2) + TINY
    bound = up(up(tau + rest + error + missed + diagonal, 4).sqrt(), 1)
    good &= bound.isfinite()
    return torch.where(good, bound, otherwise), good


def _rest(m: Matrices, x: Matrices) -> tuple[Tensor, Tensor]:
    """Returns upper bounds of ‖M − X·Xᴴ‖_F as computed and of what rounding hides of it, (B,) each."""
    scaled_x, exponent = scaled(x.adjoint)
    back = power_of_two(exponent)
    product, error = gram(scaled_x, frobenius(scaled_x))
    square = back * back
    differences = Matrices(*(None if b is None else a - b * square[:, None, None] for a, b in zip(m, product)))
    total = sum(part.square().sum((-2, -1)) for part in differences if part is not None)
    entries = differences.entries
    lost = entries * (2.0**-500 + TINY)  # by underflow in the squares and in the products
    return up(up(total, 2 * entries + 2).sqrt(), 6) + lost, up(error * square, 1)
