"""Circulant, Toeplitz and doubly-block Toeplitz matrices: symbols, norms, fast products (arXiv 2109.00959, 1901.10255).

A circulant C_ij = c_{(i−j) mod n} is diagonal in the Fourier basis: its singular values are |FFT(c)|.  A Toeplitz
matrix T_ij = t_{i−j} is a part of the convolution with t on ℓ2(Z), so ‖T‖₂ ≤ sup |f(ω)| with the symbol f(ω) =
Σ_k t_k·e^{ikω}.  A doubly-block Toeplitz matrix is the same for images.
"""

import math

import torch
from torch import Tensor

from ..arguments import check_finite
from ..norms import check_norm
from .bounding import bound
from .geometry import Convolution, Pair
from .gram import gram_upper
from .matrix import matrix
from .outward import back, read, up
from .symbol import Grid, blocks, error, matrices


def circulant(c: Tensor, rows: int | None = None) -> Tensor:
    """Returns the matrix C_ij = c_{(i−j) mod n}, (n, n), of a first column c (n,); or only its first rows."""
    _check_vector("c", c)
    n = torch.arange(len(c), device=c.device)
    return c[(n[:rows, None] - n) % len(c)]


def toeplitz(column: Tensor, row: Tensor) -> Tensor:
    """Returns the matrix (m, n) with first column (m,) and first row (n,), which agree in their first entry."""
    diagonals = _diagonals(column, row)
    m, n = (torch.arange(len(a), device=a.device) for a in (column, row))
    return diagonals[m[:, None] - n + len(row) - 1]


def doubly_block_toeplitz(kernel: Tensor, size: Pair, padding: int | str | Pair = "same") -> Tensor:
    """Returns the matrix of a convolution of images (h, w) = ``size`` with one kernel (kh, kw), padded by zeros.

    It consists of Toeplitz blocks, which are arranged as in a Toeplitz matrix.  Float64, on the CPU.
    """
    if kernel.dim() != 2:
        raise ValueError(f"kernel must have shape (kh, kw), got {tuple(kernel.shape)}")
    return matrix(Convolution(kernel[None, None], padding=padding, size=size))


def circulant_symbol(c: Tensor) -> Tensor:
    """Returns FFT(c), (n,) complex: the eigenvalues of ``circulant(c)``.  Their absolute values are singular values."""
    _check_vector("c", c)
    return torch.fft.fft(c)


def toeplitz_symbol(column: Tensor, row: Tensor, omega: Tensor) -> Tensor:
    """Returns f(ω) = Σ_k t_k·e^{ikω} at frequencies (N,), complex (N,)."""
    diagonals = _diagonals(column, row)
    k = torch.arange(1 - len(row), len(column), device=column.device)
    waves = torch.polar(torch.ones_like(k * omega[:, None]), k * omega[:, None])
    return waves @ diagonals.to(waves.dtype)


def circulant_product(c: Tensor, x: Tensor) -> Tensor:
    """Returns ``circulant(c) @ x`` for each row of x (…, n), by real FFTs in O(n·log n).  It is differentiable."""
    _check_vector("c", c)
    if x.shape[-1] != len(c):
        raise ValueError(f"x must have rows of {len(c)} numbers, as c has, got {tuple(x.shape)}")
    if x.numel() == 0:  # FFTs refuse it
        return x * c
    return torch.fft.irfft(torch.fft.rfft(c) * torch.fft.rfft(x), n=len(c))


def toeplitz_product(column: Tensor, row: Tensor, x: Tensor) -> Tensor:
    """Returns ``toeplitz(column, row) @ x`` for each row of x (…, n), by real FFTs in O((m + n)·log(m + n))."""
    _diagonals(column, row)
    if x.shape[-1] != len(row):
        raise ValueError(f"x must have rows of {len(row)} numbers, as row has, got {tuple(x.shape)}")
    n = len(column) + len(row) - 1
    c = torch.cat([column, row[1:].flip(0)])  # the circulant of this column has the Toeplitz matrix in its corner
    return torch.fft.irfft(torch.fft.rfft(c) * torch.fft.rfft(x, n=n), n=n)[..., : len(column)]


def circulant_bound(c: Tensor, norm: float | str = 2) -> float:
    """Returns an upper bound of ‖circulant(c)‖ that exceeds it only by rounding, which it covers.

    In ℓ2 it is max |FFT(c)|, by sums of cosines without an FFT, in O(n²).  In ℓ∞ and ℓ1 it is ‖c‖₁, because each row
    and each column has all entries of c.

    Raises:
        TypeError, ValueError: c is no vector of finite numbers, or the norm is unknown.
    """
    _check_vector("c", c)
    return back(*_circulant_norm(c, check_norm(norm)))


def diagonal_circulant_bound(diagonal: Tensor, column: Tensor, norm: float | str = 2) -> float:
    """Returns an upper bound of ‖D·C‖ with D = diag(d) and the first rows of C = circulant(c); it covers rounding.

    It is max |d|·‖C‖, with ‖C‖ from ``circulant_bound``.  In ℓ∞ this is exact: row i has the absolute sum |d_i|·‖c‖₁.
    In ℓ1 the absolute sum of column j is Σ_i |d_i|·|c_{i−j}|, which is at most max |d|·‖c‖₁.  In ℓ2, ‖D‖₂ = max |d|.
    Leaving rows out enlarges no norm.  With |d_i| = 1 for all rows of C the bound is exact in every norm.

    Args:
        diagonal: d, (m,) with m ≤ n.
        column: c, (n,), the first column of C.
        norm: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.

    Raises:
        TypeError, ValueError: d or c is no vector of finite numbers, d is longer than c, or the norm is unknown.
    """
    _check_vector("diagonal", diagonal)
    _check_vector("column", column)
    if len(diagonal) > len(column):
        raise ValueError(f"diagonal must have at most {len(column)} numbers, as many as column, got {len(diagonal)}")
    check_finite(diagonal=diagonal, column=column)
    d, scale = read(diagonal)
    size, other = _circulant_norm(column, check_norm(norm))
    return back(up(d.abs().max().item() * size, 1), scale + other)


def toeplitz_bound(column: Tensor, row: Tensor) -> float:
    """Returns an upper bound of sup |f(ω)|, and so of ‖toeplitz(column, row)‖₂, which covers rounding."""
    return bound(Convolution(_diagonals(column, row)[None, None, None]), "svd").value


def _circulant_norm(c: Tensor, norm: float) -> tuple[float, int]:
    """Returns (b, e): 2^e·b is an upper bound of the norm of ``circulant(c)``; b ≥ 1/2, or 0 if c is zero."""
    w, scale = read(c)
    return (_largest_frequency(w) if norm == 2 else up(w.abs().sum().item(), len(c))), scale


def _largest_frequency(w: Tensor) -> float:
    if not (w != 0).any():
        return 0.0
    kernel, n = w[None, None, None, None], len(w)
    half = torch.cartesian_prod(*(torch.arange(m, device="cpu") for m in (1, n // 2 + 1)))
    grid = Grid((1, n), (1, 1), 1.0, half)
    values = [gram_upper(matrices(kernel, grid, chosen), 0).max().item() for chosen in blocks(kernel, grid)]
    return up(max(values) + error(kernel), 1)


def _check_vector(name: str, c: Tensor) -> None:
    if not isinstance(c, Tensor) or c.dim() != 1 or len(c) == 0:
        shape = tuple(c.shape) if isinstance(c, Tensor) else type(c).__name__
        raise ValueError(f"{name} must be a vector of at least one number, got {shape}")


def _diagonals(column: Tensor, row: Tensor) -> Tensor:
    """Returns t_k for k = 1 − n, …, m − 1."""
    _check_vector("column", column)
    _check_vector("row", row)
    if not torch.equal(column[0], row[0]) and not (math.isnan(column[0]) and math.isnan(row[0])):
        raise ValueError(f"row must begin as column does, with {column[0].item()}, got {row[0].item()}")
    return torch.cat([row[1:].flip(0), column])
