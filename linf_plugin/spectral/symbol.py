"""The symbol F(ω) = Σ_t K_t·e^{i⟨t, ω⟩} of a kernel, on a grid of frequencies that stands for all that matter."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import Axis
from .outward import TINY, Matrices, gamma, up
from .roots import cosine_below, roots

FINE = 16  # frequencies for each step of the reach, where a grid stands for the whole circle
COARSE = 4  # for large kernels
MANY = 1 << 14
BLOCK = 1 << 22  # entries of the matrices that are held at a time


@dataclass(frozen=True)
class Grid:
    """Frequencies ω = 2π·(j₁/n₁, j₂/n₂), one of each pair ±ω: F(−ω) is the conjugate of F(ω) and has the same norm.

    Attributes:
        counts: (n₁, n₂).
        steps: the distance of two taps: tap t stands at steps·t.
        factor: at least sup ‖F‖/max over the grid ‖F‖, for the frequencies that matter.
        indices: (B, 2) int64, the pairs j.
    """

    counts: tuple[int, int]
    steps: tuple[int, int]
    factor: float
    indices: Tensor


def circle_factor(reach: int, points: int) -> float:
    """Returns at least 1/cos(π·r/(2·S)) for r = ``reach`` < S = ``points``: the supremum over a circle, by a grid.

    Let F(ω) = Σ K_t·e^{itω} for t = 0, …, r, and M = sup ‖F(ω)‖₂.  Then M ≤ factor·max_j ‖F(2πj/S)‖₂.

    Proof: M = |uᴴF(ω*)v| for unit vectors u, v and some ω*.  With η = ω/2, g(η) = Re(c·e^{−irη}·uᴴF(2η)v) is a real
    trigonometric polynomial of degree r, |g| ≤ M, and g(η*) = M for some |c| = 1.  By the inequality of Bernstein and
    Szegő, g′² + r²·g² ≤ r²·M².  So arccos(g/M) grows by at most r·|h| from η* to η* + h: g(η* + h) ≥ M·cos(r·h) while
    r·|h| ≤ π.  The nearest point of the grid has |h| ≤ π/(2·S).

    For two axes the factors multiply: first move ω₁ at ω₂*, then ω₂ at the point found, where the supremum over ω₂ is
    no smaller than M divided by the first factor.
    """
    return 1.0 if reach == 0 else up(1 / cosine_below(reach, 4 * points), 2)


def grid(wanted: tuple[Axis, Axis], taps: tuple[int, int], fine: int = FINE) -> Grid:
    """Returns the grid for a kernel with so many taps in each axis.

    Where only the frequencies of one size matter, and they are many, a coarser grid stands for the whole circle.  For a
    kernel so large that there would be more than ``MANY`` frequencies, the grid is coarser, but at least ``COARSE``.

    Args:
        wanted: from ``geometry.axes``.
        taps: (kh, kw).
        fine: frequencies for each step of the reach.
    """
    counts, steps, factor = [], [], 1.0
    for axis, k in zip(wanted, taps):
        reach = k - 1
        enough = max(fine * reach, 1)
        if axis.points is not None and reach > 0 and axis.points <= 2 * enough:
            counts.append(axis.points)
            steps.append(axis.step)
        else:
            counts.append(enough)
            steps.append(1)
            factor = up(factor * circle_factor(reach, enough), 1) if reach else factor
    if factor > 1 and counts[0] * counts[1] > 2 * MANY and fine > COARSE:
        return grid(wanted, taps, fine // 2)
    first, second = (torch.arange(n, device="cpu") for n in (counts[0], counts[1] // 2 + 1))
    return Grid(tuple(counts), tuple(steps), factor, torch.cartesian_prod(first, second))


def trimmed(kernel: Tensor) -> Tensor:
    """Returns the kernel (…, kh, kw) without border rows and columns that are zero: only its place changes."""
    for dim in (-2, -1):
        rest = [d for d in range(kernel.dim()) if d != kernel.dim() + dim]
        at = (kernel != 0).sum(rest).nonzero().squeeze(1).tolist()
        if at:
            kernel = kernel.narrow(dim, at[0], at[-1] - at[0] + 1)
    return kernel


def waves(grid: Grid, taps: tuple[int, int], chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cos and sin of ⟨t, ω⟩, (kh·kw, B) float64 on the CPU, each wrong by at most 6·u as a complex number.

    Proof: the factors of an axis are wrong by at most √2·u each, their product of numbers near 1 by 2·√2·u more than
    its rounding of √2·γ₂ ≤ 2.9·u; together less than 6·u.
    """
    parts = []
    for axis, k in enumerate(taps):
        n = grid.counts[axis]
        turn = (torch.arange(k, device="cpu")[:, None] * grid.steps[axis] % n) * chosen[:, axis] % n
        parts.append(roots(n)[:, turn])  # (2, k, B)
    (c1, s1), (c2, s2) = parts
    c1, s1, c2, s2 = c1[:, None], s1[:, None], c2[None], s2[None]
    return (c1 * c2 - s1 * s2).flatten(0, 1), (c1 * s2 + s1 * c2).flatten(0, 1)


def blocks(kernel: Tensor, grid: Grid) -> Iterator[Tensor]:
    """Yields indices of the grid, in blocks whose matrices and waves fit into memory."""
    return iter(grid.indices.split(max(1, BLOCK // max(math.prod(kernel.shape[:3]), math.prod(kernel.shape[3:])))))


def matrices(kernel: Tensor, grid: Grid, chosen: Tensor) -> Matrices:
    """Returns F(ω), (B·groups, out, in), for kernels (groups, out, in, kh, kw) in float64 or float32.

    See ``error`` for how exact it is in float64.
    """
    g, o, i, kh, kw = kernel.shape
    if kh * kw == 1:
        return Matrices(kernel[:, :, :, 0, 0])
    rows = kernel.reshape(g * o * i, kh * kw)
    return Matrices(*((wave.to(kernel).T @ rows.T).view(-1, o, i) for wave in waves(grid, (kh, kw), chosen)))


def error(kernel: Tensor) -> float:
    """Returns how far ``matrices`` in float64 can be from the exact F(ω), in the 2-norm, for every ω.

    Proof: let P = Σ_t |K_t| with T taps.  Real and imaginary part are sums of T products with factors of at most
    1 + 6·u.  They are off by at most γ_T·(1 + 6·u)·P, and the complex entry by √2 times that and 6·u·P: less than
    √2·γ_{T+6}·P.  The 2-norm is at most the Frobenius norm.  One tap has no product.
    """
    taps = kernel.shape[-1] * kernel.shape[-2]
    if taps == 1:
        return 0.0
    absolute = up(kernel.abs().sum((-2, -1)), taps)
    largest = up(absolute.square().sum((-2, -1)).max().sqrt().item(), absolute[0].numel() + 4)
    return up(largest * (1.5 * gamma(taps + 6)), 4) + kernel[0].numel() * TINY
