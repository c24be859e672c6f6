"""An upper bound of a spectral norm from the absolute values of WWᵀ, which holds for images of every size."""

import torch
from torch import Tensor

from ..spectral.outward import TINY, back, gamma, read, up

STEPS, CHECKED = 300, 20  # of the power iteration, and after how many steps its bound is computed


@torch.no_grad()
def squared_norm(weight: Tensor, enough: float = 0.0) -> float:
    """Returns an upper bound of ‖W‖₂² for a dense map or a convolution at stride 1, padded with zeros, on any image.

    Let M = |WWᵀ|; for a convolution M_ij is the sum over all shifts s of |Σ_{c,t} K_ic(t)·K_jc(t + s)|.
    An image that is padded with zeros is a part of the infinite image, on which the convolution is C.  So
    ‖W‖₂² ≤ ‖CCᵀ‖₂.  For any v > 0, scale the rows and columns of CCᵀ by v: its norm is at most the largest absolute row
    sum of the similar matrix, max_i (M·v)_i / v_i (Collatz–Wielandt; v = 1 is Gershgorin's bound).  M·v = λ·v gives the
    least of these bounds, so v comes from power iteration, and need not be accurate.

    All rounding is bounded.  Each sum of n products is off by at most γ_n times the sum of their sizes; over all shifts
    these are γ_n·(P·Pᵀ)_ij with P = Σ_t |K(t)|, which is added to M.

    Args:
        weight: (out, in) or (out, in, kh, kw).
        enough: the iteration ends at a bound that is not above this number.

    Returns:
        A float64 number; 0 for a weight of zeros.

    Raises:
        ValueError: the weight has NaN or infinite values.
        RuntimeError: as ``spectral.outward.read``.
    """
    w, exponent = read(weight)
    w = w.reshape(*w.shape[:2], *(w.shape[2:] or (1, 1)))
    w = w[(w != 0).flatten(1).any(1)]  # a row of zeros adds nothing to the norm
    if not len(w):
        return 0.0
    m = _absolute_gram(w)
    best, v = float("inf"), m.new_ones(len(m))
    for step in range(STEPS + 1):
        if step % CHECKED == 0:
            best = min(best, up((m @ v) / v, len(m) + 1).max().item())
            if back(best, 2 * exponent) <= enough:
                break
        v = m @ v
        v = (v / v.max()).clamp_min(2.0**-60)
    return back(best, 2 * exponent)


def _absolute_gram(w: Tensor) -> Tensor:
    """Returns M, (out, out), rounded up."""
    out, _, kh, kw = w.shape
    total = w.new_zeros(out, out)
    for y in range(kh):
        for x in range(1 - kw if y else 0, kw):
            here = w[:, :, : kh - y, max(-x, 0) : kw - max(x, 0)].flatten(1)
            there = w[:, :, y:, max(x, 0) : kw - max(-x, 0)].flatten(1)
            one = (here @ there.mT).abs()
            total += one + one.mT if (y, x) != (0, 0) else one  # the opposite shift has the transposed matrix
    sizes, terms = w.abs().flatten(2).sum(2), w[0].numel()
    error = gamma(terms) * (sizes @ sizes.mT)
    return up(total, 4 * kh * kw) + up(error, terms + kh * kw + 2) + 4 * kh * kw * terms * TINY
