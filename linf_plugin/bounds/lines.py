"""Lines below and above a distance y = ‖x − w_k‖_p, or a sorted sum, over a box lower ≤ x ≤ upper.

A side is a few candidate lines a neuron.  Each holds on the whole box, so every convex combination of them does:
CROWN takes the default candidate, α-CROWN looks for the best weights.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.reference import coefficients
from . import interval

STEEPEST = 5  # p = ∞: the lines above have slopes on so many coordinates at most


class Side(NamedTuple):
    """J candidates on one side of each distance, slopes·x[index] + consts.

    slopes (B, out, J, K) on the coordinates ``index`` (B, out, K), or on all of them, K = in, where it is None;
    consts (B, out, J).  ``default`` (B, out): which one to take where no weights are given.
    """

    index: Tensor | None
    slopes: Tensor
    consts: Tensor
    default: Tensor

    def chosen(self) -> "Side":
        """With the default as the only candidate."""
        if self.slopes.shape[2] == 1:
            return self
        at = self.default.unsqueeze(2)
        slopes = self.slopes.gather(2, at.unsqueeze(3).expand(-1, -1, 1, self.slopes.shape[3]))
        return Side(self.index, slopes, self.consts.gather(2, at), torch.zeros_like(self.default))


def _rows(a: Tensor, index: Tensor) -> Tensor:
    """a (B, in) or (out, in) [with out first] at ``index`` (B, out, K)."""
    return a.expand(*index.shape[:2], a.shape[-1]).gather(2, index)


def _steady(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The slope of a chord between low and high, a constant for gradients where rounding may be a thousandth of its
    width: what a pixel that cannot move leaves of a box.  There the derivative of a quotient of two rounding errors
    is as large as it is meaningless; the chord's far end, which decides the bound, keeps its gradient."""
    sure = high - low > 1e3 * torch.finfo(low.dtype).eps * (1 + low.abs() + high.abs())
    return torch.where(sure, slope, slope.detach())


# p = ∞.


def _above_max(
    lower: Tensor, upper: Tensor, far: Tensor, index: Tensor, positive: Tensor, floor: Tensor, many: bool
) -> Side:
    """max_i z_i ≤ c + Σ_i (z_i − c)₊ for any c; here c ≥ ``floor``, the largest of the z_i's values at the nearer
    end of the box.

    Each term is convex in x_i and so below its chord, which is 0 at the nearer end and M_i − c at the farther.  As
    c falls by one unit, the chords of the coordinates with M_i > c rise by half a unit each in the middle of the
    box: c at the third largest M_i gives the line that is lowest there, the concave envelope of the distance.
    Between two M_i the line is linear in c, so the lines with c at an M_i are candidates for all of them.

    Args:
        far: (B, out, K + 1) the largest M_i in descending order, or (B, out, in) where that is less.
        index: (B, out, K) where.
        positive: (B, out, K) whether M_i is attained at the box's upper end.
        floor: (B, out).
    """
    levels = torch.maximum(far, floor.unsqueeze(2))
    if far.shape[2] == index.shape[2]:  # there is no further coordinate
        levels = torch.cat([levels, floor.unsqueeze(2)], 2)
    third = min(2, levels.shape[2] - 1)
    if not many:
        levels = levels[..., third : third + 1]
    rise = (far[..., : index.shape[2]].unsqueeze(2) - levels.unsqueeze(3)).clamp_min(0)  # (B, out, J, K)
    low, high = _rows(lower.unsqueeze(1), index), _rows(upper.unsqueeze(1), index)
    width = (high - low).unsqueeze(2)
    # At most 1, also where rounding of a tiny box says otherwise: a flatter line from the same far end is higher.
    slope = (rise / torch.where(width > 0, width, 1)).clamp_max(1)
    slope = torch.where(width > 0, slope, 0) * torch.where(positive, 1.0, -1.0).to(slope).unsqueeze(2)
    slope = _steady(slope, low.unsqueeze(2), high.unsqueeze(2))
    end = torch.where(positive, high, low).unsqueeze(2)
    consts = levels + (rise - slope * end).sum(3)
    return Side(index, slope, consts, torch.full_like(floor, third if many else 0, dtype=torch.long))


def _below_max(w: Tensor, t: Tensor, index: Tensor, moves: Tensor) -> Side:
    """max_i |t_i| ≥ ±t_j for any j.  index (B, out, J): one j a candidate; where ``moves`` is False its line is 0."""
    sign = torch.where(moves, t.gather(2, index).sign(), 0)
    consts = -sign * _rows(w, index)
    return Side(index, torch.diag_embed(sign), consts, torch.zeros_like(index[..., 0]))


def linf(lower: Tensor, upper: Tensor, w: Tensor, many: bool = False) -> tuple[Side, Side]:
    """Below and above at p = ∞.  Shapes: lower, upper (B, in), w (out, in).

    Below: the coordinate whose |x_i − w_i| is largest at the box's point nearest to w, with its sign; its least
    value on the box is the exact minimum.  Other candidates: the two that are largest in the middle of the box.
    Exact where one coordinate is the largest on the whole box and does not straddle its weight.
    """
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    t = middle.unsqueeze(1) - w
    size = t.abs()
    gap = size - radius.unsqueeze(1)  # negative where the box has x_i = w_i inside
    floor = gap.abs().amax(2)
    least, nearest = gap.clamp_min(0).max(2, keepdim=True)
    k = min(STEEPEST if many else 2, w.shape[1])
    far, index = (size + radius.unsqueeze(1)).topk(min(k + 1, w.shape[1]), 2)
    index = index[..., :k]
    above = _above_max(lower, upper, far, index, t.gather(2, index) >= 0, floor, many)
    moves = least > 0
    if many:
        central = size.topk(min(2, w.shape[1]), 2).indices
        nearest = torch.cat([nearest, central], 2)
        moves = torch.cat([moves, torch.ones_like(central, dtype=torch.bool)], 2)
    return _below_max(w, t, nearest, moves), above


# Finite p, and sorted sums: slopes on all coordinates.


def _nearest(lower: Tensor, upper: Tensor, w: Tensor) -> Tensor:
    """x − w at the box's point nearest to w: (B, out, in)."""
    return torch.minimum(torch.maximum(w, lower[:, None]), upper[:, None]) - w


def _middle(lower: Tensor, upper: Tensor, w: Tensor) -> Tensor:
    """x − w in the middle of the box: (B, out, in)."""
    return ((lower + upper) / 2)[:, None] - w


def _chords(at_lower: Tensor, at_upper: Tensor, lower: Tensor, upper: Tensor, steepest: Tensor):
    """Σ_i of the chords of convex functions of x_i that take the given values at the box's ends.

    Returns slopes (B, out, in) and the sum's constant (B, out).  ``steepest`` bounds the true slopes; a
    tiny box would otherwise turn rounding errors into large ones.
    """
    lower, upper = lower[:, None], upper[:, None]
    width = upper - lower
    slope = (at_upper - at_lower) / torch.where(width > 0, width, 1)
    slope = torch.where(width > 0, slope, 0)
    slope = _steady(torch.maximum(torch.minimum(slope, steepest), -steepest), lower, upper)
    return slope, (at_lower - slope * lower).sum(-1)


def _stack(lines: list[tuple[Tensor, Tensor]], default: Tensor | None = None) -> Side:
    slopes, consts = (torch.stack(each, 2) for each in zip(*lines))
    first = torch.zeros_like(consts[..., 0], dtype=torch.long)
    return Side(None, slopes, consts, first if default is None else default)


def _tangent(t: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """y ≥ g·(x − w) for any g with dual norm ‖g‖_q ≤ 1, 1/p + 1/q = 1 (Hölder's inequality); here y's gradient
    at x − w = t, or 0 where t is."""
    norm = torch.linalg.vector_norm(t, math.inf, -1, keepdim=True)
    safe = torch.where(norm == 0, 1, norm)
    r = t.abs() / safe  # in [0, 1], so that powers do not overflow
    root = torch.where(norm == 0, 1, (r**p).sum(-1, keepdim=True)) ** (1 / p)
    g = t.sign() * (r / root) ** (p - 1)
    return g, -(g * w).sum(-1)


def finite(lower: Tensor, upper: Tensor, w: Tensor, p: float, many: bool = False) -> tuple[Side, Side]:
    """Below and above at p < ∞.

    Below: the tangent at the box's point nearest to w.  It is the gradient at the minimiser of a convex function,
    so its least value on the box is the exact minimum.  Also: the tangent in the middle.

    Above: y = U·s^{1/p} for s = Σ_i (z_i/U)^p, U = max y.  Chords above the convex powers give s ≤ s̄(x), linear;
    the concave root is below its tangent at any s₀ > 0: U·s₀^{1/p}·(1 + (s̄ − s₀)/(p·s₀)).  s₀ = s̄ in the
    middle, at least 1/2, because some end of the box has s = 1; division by U keeps powers in [0, 1].  Also:
    s₀ = 1, and the constant U.
    """
    _, far = interval.dist(lower, upper, w, p)
    below = [_tangent(_nearest(lower, upper, w), w, p)]
    if many:
        below.append(_tangent(_middle(lower, upper, w), w, p))
    scale = torch.where(far == 0, 1, far)
    low, high = (((end[:, None] - w).abs() / scale.unsqueeze(-1)) ** p for end in (lower, upper))
    middle = ((low + high).sum(-1) / 2).clamp_min(0.25)  # far = 0: y is 0 and every factor below is finite
    slope, constant = _chords(low, high, lower, upper, (p / scale).unsqueeze(-1))

    def tangent(s: Tensor) -> tuple[Tensor, Tensor]:
        root = s ** (1 / p)
        gain = far * root / (p * s)
        return gain.unsqueeze(-1) * slope, far * root + gain * (constant - s)

    above = [tangent(middle)]
    if many:
        above += [tangent(torch.ones_like(middle)), (torch.zeros_like(slope), far)]
    return _stack(below), _stack(above)


def _ordered(t: Tensor, w: Tensor, c: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """y = Σ_j c_j·|x − w|_(j), c descending, is at least Σ_j ±c_j·(x − w)_π(j) for any order π and signs; here
    those of x − w = t."""
    index = t.abs().topk(len(c), -1).indices
    g = torch.zeros_like(t).scatter(-1, index, t.gather(-1, index).sign() * t.new_tensor(c))
    return g, -(g * w).sum(-1)


def sorted_sum(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int, many: bool = False) -> tuple[Side, Side]:
    """Below and above a sorted sum y = Σ_j c_j·z_(j), z_i = |x_i − w_i|.

    Below: the order and signs of the box's point nearest to w; every term attains its least value there, so the
    line's least value is the exact minimum.  Also: those of the middle.

    Above: y = Σ_m d_m·S_m with S_m the sum of the m largest z and d_m = c_m − c_{m+1} ≥ 0, and
    S_m ≤ m·τ + Σ_i (z_i − τ)₊ for any τ, each term convex in x_i: chords.  In the middle of the box the right side
    rises with τ by m less half the number of z's ends, least and largest values, that are above τ; so τ_m, the
    (2m+1)-th largest end, makes it least.  Exact where the box is a point.  Also: the constant max y, which is the
    default where it is lower in the middle of the box.
    """
    _, far = interval.sorted_dist(lower, upper, w, rho, k)
    c = coefficients(rho, k, w.shape[1])
    t = _nearest(lower, upper, w)
    below = [_ordered(t, w, c)]
    if many:
        below.append(_ordered(_middle(lower, upper, w), w, c))
    at_lower, at_upper = (lower[:, None] - w).abs(), (upper[:, None] - w).abs()
    ends = torch.cat([t.abs(), torch.maximum(at_lower, at_upper)], -1)
    ends = ends.topk(min(2 * len(c) + 1, ends.shape[-1]), -1).values
    taus = [ends[..., min(2 * m, ends.shape[-1] - 1)] for m in range(1, len(c) + 1)]
    low = high = base = far.new_zeros(())
    for m, tau in enumerate(taus, 1):
        d = c[m - 1] - (c[m] if m < len(c) else 0)
        low = torch.add(low, (at_lower - tau.unsqueeze(-1)).clamp_min(0), alpha=d)
        high = torch.add(high, (at_upper - tau.unsqueeze(-1)).clamp_min(0), alpha=d)
        base = torch.add(base, tau, alpha=d * m)
    middle = base + (low + high).sum(-1) / 2
    slope, constant = _chords(low, high, lower, upper, lower.new_tensor(c[0]))
    above = _stack([(slope, base + constant), (torch.zeros_like(slope), far)], (middle >= far).long())
    return _stack(below), above if many else above.chosen()


def dist(lower: Tensor, upper: Tensor, w: Tensor, p: float, many: bool = False) -> tuple[Side, Side]:
    """Below and above ‖x − w_k‖_p: ``linf`` or ``finite``."""
    return linf(lower, upper, w, many) if p == math.inf else finite(lower, upper, w, p, many)


# tanh, of each number by itself.


def _tanh_above(lower: Tensor, upper: Tensor, many: bool) -> list[tuple[Tensor, Tensor]]:
    """Slopes and constants of lines above tanh on [lower, upper].

    A tangent at d ≥ 0 is above tanh on [0, ∞), where tanh is concave; it is above on [lower, 0], where tanh minus the
    tangent is convex and not positive at 0, if it is above at ``lower``.  It is the higher there the larger d is, so
    bisection finds the least such d.  Where not even d = ``upper`` is such, the chord is above: it crosses tanh
    at most once more, at or beyond ``upper``.
    """

    def tangent(d: Tensor) -> tuple[Tensor, Tensor]:
        y = d.tanh()
        slope = 1 - y * y
        return slope, y - slope * d

    def holds(d: Tensor) -> Tensor:
        slope, constant = tangent(d)
        return slope * lower + constant >= lower.tanh()

    low, high = lower.clamp_min(0), torch.maximum(upper, lower.clamp_min(0))
    touches = holds(high) & (upper > 0)
    for _ in range(60):
        middle = torch.where(lower >= 0, low, (low + high) / 2)
        good = holds(middle)
        low, high = torch.where(good, low, middle), torch.where(good, middle, high)
    least = torch.where(lower >= 0, lower, high)  # every tangent to a concave part will do
    width = upper - lower
    slope = _steady(((upper.tanh() - lower.tanh()) / torch.where(width > 0, width, 1)).clamp(0, 1), lower, upper)
    chord = slope, upper.tanh() - slope * upper

    def line(d: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.where(touches, t, c) for t, c in zip(tangent(d), chord))

    found = [line(torch.maximum(least, (lower + upper) / 2))]
    if many:
        found += [line(least), (torch.zeros_like(upper), upper.tanh())]
    return found


def tanh(lower: Tensor, upper: Tensor, many: bool = False) -> tuple[Side, Side]:
    """Below and above tanh of each of (B, n) numbers.  tanh is odd: the lines below are those above, mirrored.

    By default the tangent in the middle of the interval, or the nearest one that holds, or the chord.  Also: the
    steepest tangent, and the constant.
    """
    above = _tanh_above(lower, upper, many)
    below = [(slope, -constant) for slope, constant in _tanh_above(-upper, -lower, many)]
    index = torch.arange(lower.shape[1], device=lower.device).view(1, -1, 1).expand(len(lower), -1, -1)

    def side(lines: list[tuple[Tensor, Tensor]]) -> Side:
        slopes, consts = (torch.stack(each, 2) for each in zip(*lines))
        return Side(index, slopes.unsqueeze(3), consts, torch.zeros_like(lower, dtype=torch.long))

    return side(below), side(above)
