"""Linear rules (CROWN), as pure functions: lines below and above a distance over a box.

``lines`` gives, for y = ‖x − w_k‖_p on lower ≤ x ≤ upper,

    low·x + low_const  ≤  y  ≤  up·x + up_const,

and ``back_substitute`` pushes a linear function of y through them.  ``sorted_lines`` and
``back_substitute_sorted`` do the same for sorted sums, of which p = ∞ is the one with the coefficient 1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels import windows
from ..kernels.reference import coefficients
from . import interval

CHUNK_BYTES = 1 << 24  # of one (batch, outputs of the chunk, in) tensor


class Lines(NamedTuple):
    """Slopes (B, out, in) and constants (B, out) of the line below and of the line above."""

    low: Tensor
    low_const: Tensor
    up: Tensor
    up_const: Tensor


def _nearest(lower: Tensor, upper: Tensor, w: Tensor) -> Tensor:
    """x − w at the box's point nearest to w: (B, out, in)."""
    return torch.minimum(torch.maximum(w, lower[:, None]), upper[:, None]) - w


def _below(lower: Tensor, upper: Tensor, w: Tensor, near: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Finite p: the tangent at the box's point nearest to w, slopes g with y ≥ g·(x − w).

    Any g with dual norm ‖g‖_q ≤ 1, 1/p + 1/q = 1, gives a lower bound (Hölder's inequality).  This one is
    the gradient at the minimiser of a convex function, so its least value on the box is ``near``, the exact
    minimum.  A box that contains w has g = 0.
    """
    t = _nearest(lower, upper, w)
    scale = torch.where(near == 0, 1, near).unsqueeze(-1)
    g = t.sign() * (t.abs() / scale) ** (p - 1)
    return g, -(g * w).sum(-1)


def _below_sorted(t: Tensor, index: Tensor, w: Tensor, c: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The same for y = Σ_j c_j·|t|_(j), c descending: g_i = ±c_j where |t_i| is the j-th largest at that point,
    whose t and order are given.

    Sound for any order and signs: y is the largest Σ_j c_j·|t_π(j)| over permutations π, and |t| ≥ ±t.  The
    order and signs of the nearest point make the least value on the box the exact minimum, since every term
    attains its least value there.
    """
    g = torch.zeros_like(t).scatter(-1, index, t.gather(-1, index).sign() * t.new_tensor(c))
    return g, -(g * w).sum(-1)


def _chords(at_lower: Tensor, at_upper: Tensor, lower: Tensor, upper: Tensor, steepest: Tensor):
    """Σ_i of the chords of convex functions of x_i that take the given values at the box's ends.

    Returns slopes (B, out, in) and the sum's constant (B, out).  ``steepest`` bounds the true slopes; a
    tiny box would otherwise turn rounding errors into large ones.
    """
    lower, width = lower[:, None], (upper - lower)[:, None]
    slope = (at_upper - at_lower) / torch.where(width > 0, width, 1)
    slope = torch.where(width > 0, slope, 0)
    slope = torch.maximum(torch.minimum(slope, steepest), -steepest)
    return slope, (at_lower - slope * lower).sum(-1)


def _above_sorted(
    lower: Tensor, upper: Tensor, w: Tensor, far: Tensor, taus: Tensor, c: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """y = Σ_j c_j·z_(j), z_i = |x_i − w_i|, is Σ_m d_m·S_m with S_m the sum of the m largest z and
    d_m = c_m − c_{m+1} ≥ 0; and S_m ≤ m·τ + Σ_i (z_i − τ)₊ for any τ, each term convex in x_i: chords.

    τ_m (B, out, K) is the m-th largest of the z's least values, which makes the line exact where the box is a
    point.  Where the constant ``far`` is lower at the middle of the box, it is taken instead.
    """
    at_lower, at_upper = (lower[:, None] - w).abs(), (upper[:, None] - w).abs()
    low = high = base = far.new_zeros(())
    for m, tau in enumerate(taus.unbind(-1), 1):
        d = c[m - 1] - (c[m] if m < len(c) else 0)
        low = torch.add(low, (at_lower - tau.unsqueeze(-1)).clamp_min(0), alpha=d)
        high = torch.add(high, (at_upper - tau.unsqueeze(-1)).clamp_min(0), alpha=d)
        base = torch.add(base, tau, alpha=d * m)
    middle = base + (low + high).sum(-1) / 2
    slope, constant = _chords(low, high, lower, upper, lower.new_tensor(c[0]))
    tighter = middle < far
    return torch.where(tighter.unsqueeze(-1), slope, 0), torch.where(tighter, base + constant, far)


def _above_finite(lower, upper, w, far, p) -> tuple[Tensor, Tensor]:
    """y = U·s^{1/p} for s = Σ_i (z_i/U)^p, U = max y: chords above the convex powers, then the tangent of
    the concave root at the chords' value s₀ in the middle of the box.

    s₀ ≥ 1/2 because some end of the box has Σ (z_i/U)^p = 1; division by U keeps powers in [0, 1].
    """
    scale = torch.where(far == 0, 1, far)
    low, high = (((end[:, None] - w).abs() / scale.unsqueeze(-1)) ** p for end in (lower, upper))
    middle = ((low + high).sum(-1) / 2).clamp_min(0.25)  # far = 0: y is 0 and every factor below is finite
    slope, constant = _chords(low, high, lower, upper, (p / scale).unsqueeze(-1))
    root = middle ** (1 / p)
    gain = far * root / (p * middle)
    return gain.unsqueeze(-1) * slope, far * root + gain * (constant - middle)


def _lines_of_sums(lower: Tensor, upper: Tensor, w: Tensor, far: Tensor, c: tuple[float, ...]) -> Lines:
    t = _nearest(lower, upper, w)
    least, index = t.abs().topk(len(c), -1)
    return Lines(*_below_sorted(t, index, w, c), *_above_sorted(lower, upper, w, far, least, c))


def lines(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> Lines:
    """Lines below and above ‖x − w_k‖_p on a box.  Shapes: (B, in) twice, (out, in)."""
    near, far = interval.dist(lower, upper, w, p)
    if p == math.inf:
        return _lines_of_sums(lower, upper, w, far, (1.0,))
    return Lines(*_below(lower, upper, w, near, p), *_above_finite(lower, upper, w, far, p))


def sorted_lines(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> Lines:
    """Lines below and above the sorted sum of |x − w_k| on a box.  Shapes: (B, in) twice, (out, in)."""
    _, far = interval.sorted_dist(lower, upper, w, rho, k)
    return _lines_of_sums(lower, upper, w, far, coefficients(rho, k, w.shape[1]))


def _through(
    make_lines: Callable[[Tensor], Lines], lA: Tensor | None, uA: Tensor | None, lower: Tensor, w: Tensor
) -> tuple[Tensor | None, Tensor | float, Tensor | None, Tensor | float]:
    """``back_substitute`` through the lines that ``make_lines`` gives for some rows of w."""
    step = max(1, CHUNK_BYTES // max(1, lower.numel() * lower.element_size()))
    sides = [[lA, None, 0.0], [uA, None, 0.0]]
    for k in range(0, len(w), step):
        line = make_lines(w[k : k + step])
        for side, (with_positive, with_negative) in zip(sides, ((line[:2], line[2:]), (line[2:], line[:2]))):
            if side[0] is None:
                continue
            A = side[0][..., k : k + step].to(lower.dtype)
            for part, (slope, constant) in ((A.clamp_min(0), with_positive), (A.clamp_max(0), with_negative)):
                new_A = torch.einsum("sbo,boi->sbi", part, slope)
                side[1] = new_A if side[1] is None else side[1] + new_A
                side[2] = side[2] + torch.einsum("sbo,bo->sb", part, constant)
    (_, lA, lbias), (_, uA, ubias) = sides
    return lA, lbias, uA, ubias


def back_substitute(
    lA: Tensor | None, uA: Tensor | None, lower: Tensor, upper: Tensor, w: Tensor, p: float
) -> tuple[Tensor | None, Tensor | float, Tensor | None, Tensor | float]:
    """From coefficients of y to coefficients of x: lA·y ≥ lA'·x + lbias and uA·y ≤ uA'·x + ubias.

    A positive coefficient of the lower side takes the line below, a negative one the line above; the upper
    side the other way round.  Outputs are treated a chunk at a time, so that no (B, out, in) is held whole.

    Args:
        lA, uA: (S, B, out) or None.
        lower, upper: (B, in).
        w: (out, in).

    Returns:
        lA' (S, B, in), lbias (S, B), uA', ubias; (None, 0) for a side that is None.
    """
    return _through(lambda rows: lines(lower, upper, rows, p), lA, uA, lower, w)


def back_substitute_sorted(
    lA: Tensor | None, uA: Tensor | None, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int
) -> tuple[Tensor | None, Tensor | float, Tensor | None, Tensor | float]:
    """The same for sorted sums."""
    return _through(lambda rows: sorted_lines(lower, upper, rows, rho, k), lA, uA, lower, w)


def back_substitute_conv2d(
    lA: Tensor | None, uA: Tensor | None, lower: Tensor, upper: Tensor, w: Tensor, p: float, *conv
) -> tuple[Tensor | None, Tensor | float, Tensor | None, Tensor | float]:
    """The same for windows: lA, uA (S, B, out, H', W'), lower and upper (B, C, H, W)."""
    groups = conv[3]
    low, high = windows.unfold(lower, w.shape, conv), windows.unfold(upper, w.shape, conv)  # (groups, B·windows, in)
    flat = w.reshape(groups, len(w) // groups, -1)

    def rows(A):  # (S, B, out, H', W') → (groups, S, B·windows, out/groups)
        if A is None:
            return [None] * groups
        return windows.to_rows(A.flatten(0, 1), groups).unflatten(1, (len(A), -1))

    def image(parts, A):
        if A is None:
            return None
        columns = torch.stack(parts).flatten(1, 2)  # (groups, S·B·windows, in)
        return windows.fold(columns, A.shape[0] * len(lower), lower.shape[2:], w.shape, conv).unflatten(0, A.shape[:2])

    def total(biases, A):  # sum over groups and windows
        return 0.0 if A is None else sum(biases).unflatten(1, (len(lower), A.shape[3] * A.shape[4])).sum(-1)

    results = [
        back_substitute(l, u, low[g], high[g], flat[g], p) for g, (l, u) in enumerate(zip(rows(lA), rows(uA)))
    ]
    l_parts, l_biases, u_parts, u_biases = zip(*results)
    return image(l_parts, lA), total(l_biases, lA), image(u_parts, uA), total(u_biases, uA)
