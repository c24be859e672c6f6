"""Lines below and above a distance y = ‖x − w_k‖_p, or a sorted sum, over a box lower ≤ x ≤ upper.

A side has a few candidate lines for each neuron.  Each candidate holds on the whole box, so every convex combination of
them holds too.  CROWN takes the default candidate; α-CROWN looks for the best weights.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.reference import coefficients
from . import interval

STEEPEST = 5  # p = ∞: a line above has slopes on at most so many coordinates


class Side(NamedTuple):
    """J candidate lines on one side of each distance: slopes·x[index] + consts.

    Attributes:
        index: (B, out, K), the coordinates that have slopes; None if all have, K = in.
        slopes: (B, out, J, K).
        consts: (B, out, J).
        default: (B, out), the candidate to take if no weights are given.
    """

    index: Tensor | None
    slopes: Tensor
    consts: Tensor
    default: Tensor

    def chosen(self) -> "Side":
        """Returns the side with the default as its only candidate."""
        if self.slopes.shape[2] == 1:
            return self
        at = self.default.unsqueeze(2)
        slopes = self.slopes.gather(2, at.unsqueeze(3).expand(-1, -1, 1, self.slopes.shape[3]))
        return Side(self.index, slopes, self.consts.gather(2, at), torch.zeros_like(self.default))


def _rows(a: Tensor, index: Tensor) -> Tensor:
    """Returns the values of a, (B, 1, in) or (out, in), at ``index``: both (B, out, K)."""
    return a.expand(*index.shape[:2], a.shape[-1]).gather(2, index)


def steady(slope: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns the slope of a chord between low and high, as a constant for gradients where the chord is too narrow.

    It is too narrow if rounding may be a thousandth of its width, as for a pixel that cannot move.  The slope is then a
    quotient of two rounding errors, whose derivative is large and has no meaning.  The chord's far end, which decides
    the bound, keeps its gradient.
    """
    sure = high - low > 1e3 * torch.finfo(low.dtype).eps * (1 + low.abs() + high.abs())
    return torch.where(sure, slope, slope.detach())


# p = ∞.


def above_max(
    lower: Tensor, upper: Tensor, far: Tensor, index: Tensor, positive: Tensor, floor: Tensor, many: bool
) -> Side:
    """Returns lines above at p = ∞, from max_i z_i ≤ c + Σ_i (z_i − c)₊ for any c.

    Here c ≥ ``floor``, the largest value of a z_i at its nearer end of the box.  Each term is convex in x_i.  So it is
    below its chord, which is 0 at the nearer end and M_i − c at the farther end.  If c falls by one unit, then in the
    middle of the box each chord with M_i > c rises by half a unit.  So c at the third largest M_i gives the line that
    is lowest there, where it attains the concave envelope of the distance.  Between two M_i the line is linear in c,
    so the lines with c at an M_i are candidates for all others.

    Args:
        far: (B, out, K + 1), the largest M_i in descending order; (B, out, in) if K = in.
        index: (B, out, K), the coordinates of the K largest M_i.
        positive: (B, out, K), whether M_i is attained at the box's upper end.
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
    # The slope is at most 1, also where rounding of a tiny box gives more: a flatter line from the far end is higher.
    slope = (rise / torch.where(width > 0, width, 1)).clamp_max(1)
    slope = torch.where(width > 0, slope, 0) * torch.where(positive, 1.0, -1.0).to(slope).unsqueeze(2)
    slope = steady(slope, low.unsqueeze(2), high.unsqueeze(2))
    end = torch.where(positive, high, low).unsqueeze(2)
    consts = levels + (rise - slope * end).sum(3)
    return Side(index, slope, consts, torch.full_like(floor, third if many else 0, dtype=torch.long))


def _below_max(w: Tensor, t: Tensor, index: Tensor, moves: Tensor) -> Side:
    """Returns lines below, from max_i |t_i| ≥ ±t_j for any j.

    ``index`` (B, out, J) has the j of each candidate.  Where ``moves`` is False the candidate's line is 0.
    """
    sign = torch.where(moves, t.gather(2, index).sign(), 0)
    consts = -sign * _rows(w, index)
    return Side(index, torch.diag_embed(sign), consts, torch.zeros_like(index[..., 0]))


def linf(lower: Tensor, upper: Tensor, w: Tensor, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above at p = ∞.  Shapes: lower, upper (B, in), w (out, in).

    Below: the coordinate whose |x_i − w_i| is largest at the box's point nearest to w, with its sign.  The line's least
    value on the box is the exact minimum.  Other candidates: the two coordinates that are largest in the middle of the
    box.  The lines are exact if one coordinate is the largest on the whole box and its interval does not contain its
    weight.
    """
    middle, radius = (lower + upper) / 2, (upper - lower) / 2
    t = middle.unsqueeze(1) - w
    size = t.abs()
    gap = size - radius.unsqueeze(1)  # negative where x_i = w_i lies inside the box
    floor = gap.abs().amax(2)
    least, nearest = gap.clamp_min(0).max(2, keepdim=True)
    k = min(STEEPEST if many else 2, w.shape[1])
    far, index = (size + radius.unsqueeze(1)).topk(min(k + 1, w.shape[1]), 2)
    index = index[..., :k]
    above = above_max(lower, upper, far, index, t.gather(2, index) >= 0, floor, many)
    moves = least > 0
    if many:
        central = size.topk(min(2, w.shape[1]), 2).indices
        nearest = torch.cat([nearest, central], 2)
        moves = torch.cat([moves, torch.ones_like(central, dtype=torch.bool)], 2)
    return _below_max(w, t, nearest, moves), above


# Finite p, and sorted sums: slopes on all coordinates.


def _nearest(lower: Tensor, upper: Tensor, w: Tensor) -> Tensor:
    """Returns x − w at the box's point nearest to w, (B, out, in)."""
    return torch.minimum(torch.maximum(w, lower[:, None]), upper[:, None]) - w


def _middle(lower: Tensor, upper: Tensor, w: Tensor) -> Tensor:
    """Returns x − w in the middle of the box, (B, out, in)."""
    return ((lower + upper) / 2)[:, None] - w


def _chords(at_lower: Tensor, at_upper: Tensor, lower: Tensor, upper: Tensor, steepest: Tensor):
    """Returns the sum over i of chords of convex functions of x_i, which have the given values at the box's ends.

    The sum is given by its slopes (B, out, in) and its constant (B, out).  ``steepest`` bounds the true slopes.
    Without it, a tiny box would turn rounding errors into large slopes.
    """
    lower, upper = lower[:, None], upper[:, None]
    width = upper - lower
    slope = (at_upper - at_lower) / torch.where(width > 0, width, 1)
    slope = torch.where(width > 0, slope, 0)
    slope = steady(torch.maximum(torch.minimum(slope, steepest), -steepest), lower, upper)
    return slope, (at_lower - slope * lower).sum(-1)


def _stack(lines: list[tuple[Tensor, Tensor]], default: Tensor | None = None) -> Side:
    slopes, consts = (torch.stack(each, 2) for each in zip(*lines))
    first = torch.zeros_like(consts[..., 0], dtype=torch.long)
    return Side(None, slopes, consts, first if default is None else default)


def _tangent(t: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Returns a line below ‖x − w‖_p, which is its tangent at x − w = t.

    ‖x − w‖_p ≥ g·(x − w) for any g with dual norm ‖g‖_q ≤ 1, 1/p + 1/q = 1 (Hölder's inequality).  Here g is the
    gradient at t, or 0 where t is 0.
    """
    norm = torch.linalg.vector_norm(t, math.inf, -1, keepdim=True)
    safe = torch.where(norm == 0, 1, norm)
    r = t.abs() / safe  # in [0, 1], so that powers do not overflow
    root = torch.where(norm == 0, 1, (r**p).sum(-1, keepdim=True)) ** (1 / p)
    g = t.sign() * (r / root) ** (p - 1)
    return g, -(g * w).sum(-1)


def finite(lower: Tensor, upper: Tensor, w: Tensor, p: float, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above at p < ∞.

    Below: the tangent at the box's point nearest to w.  This point minimises a convex function over the box, so the
    tangent's least value on the box is the exact minimum.  Other candidate: the tangent in the middle.

    Above: y = U·s^{1/p} for s = Σ_i (z_i/U)^p, U = max y.  Chords above the convex powers give s ≤ s̄(x), which is
    linear.  The concave root is below its tangent at any s₀ > 0: U·s₀^{1/p}·(1 + (s̄ − s₀)/(p·s₀)).  The default s₀ is
    s̄ in the middle of the box, which is at least 1/2, because some corner of the box has s = 1.  The division by U
    keeps powers in [0, 1].  Other candidates: s₀ = 1, and the constant U.
    """
    _, far = interval.dist(lower, upper, w, p)
    below = [_tangent(_nearest(lower, upper, w), w, p)]
    if many:
        below.append(_tangent(_middle(lower, upper, w), w, p))
    scale = torch.where(far == 0, 1, far)
    low, high = (((end[:, None] - w).abs() / scale.unsqueeze(-1)) ** p for end in (lower, upper))
    middle = ((low + high).sum(-1) / 2).clamp_min(0.25)  # if far = 0, y is 0 and every factor below is finite
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
    """Returns a line below the sorted sum y = Σ_j c_j·|x − w|_(j) with descending c.

    y ≥ Σ_j ±c_j·(x − w)_π(j) for any order π and any signs; here they are those of x − w = t.
    """
    index = t.abs().topk(len(c), -1).indices
    g = torch.zeros_like(t).scatter(-1, index, t.gather(-1, index).sign() * t.new_tensor(c))
    return g, -(g * w).sum(-1)


def sorted_sum(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above a sorted sum y = Σ_j c_j·z_(j), z_i = |x_i − w_i|.

    Below: the order and signs of the box's point nearest to w.  Every term attains its least value there, so the line's
    least value is the exact minimum.  Other candidate: the order and signs of the middle.

    Above: y = Σ_m d_m·S_m, where S_m is the sum of the m largest z and d_m = c_m − c_{m+1} ≥ 0.  For any τ,
    S_m ≤ m·τ + Σ_i (z_i − τ)₊.  Each term is convex in x_i, so it is below its chord.  The ends of z_i are its least
    and its largest value.  In the middle of the box the right side rises with τ by m minus half the number of ends
    above τ.  So τ_m, the (2m+1)-th largest end, makes it least.  The line is exact if the box is a point.  Other
    candidate: the constant max y, which is the default where it is lower in the middle of the box.
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
    """Returns lines below and above ‖x − w_k‖_p: ``linf`` or ``finite``."""
    return linf(lower, upper, w, many) if p == math.inf else finite(lower, upper, w, p, many)


# tanh, for each number by itself.


def _tanh_above(lower: Tensor, upper: Tensor, many: bool) -> list[tuple[Tensor, Tensor]]:
    """Returns slopes and constants of lines above tanh on [lower, upper].

    A tangent at d ≥ 0 is above tanh on [0, ∞), where tanh is concave.  On [lower, 0], tanh minus the tangent is convex,
    and it is not positive at 0.  So the tangent is above tanh there too if it is above tanh at ``lower``.  Its value at
    ``lower`` rises with d, so bisection finds the least such d.  If not even d = ``upper`` is such, the chord is above
    tanh: it crosses tanh at most once more, at or beyond ``upper``.
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
    least = torch.where(lower >= 0, lower, high)  # where tanh is concave, every tangent holds
    width = upper - lower
    slope = steady(((upper.tanh() - lower.tanh()) / torch.where(width > 0, width, 1)).clamp(0, 1), lower, upper)
    chord = slope, upper.tanh() - slope * upper

    def line(d: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.where(touches, t, c) for t, c in zip(tangent(d), chord))

    found = [line(torch.maximum(least, (lower + upper) / 2))]
    if many:
        found += [line(least), (torch.zeros_like(upper), upper.tanh())]
    return found


def tanh(lower: Tensor, upper: Tensor, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above tanh of each of (B, n) numbers.

    tanh is odd, so the lines below are those above, mirrored.  The default is the tangent in the middle of the
    interval, or the nearest tangent that holds, or the chord.  Other candidates: the steepest tangent that holds, and
    the constant.
    """
    above = _tanh_above(lower, upper, many)
    below = [(slope, -constant) for slope, constant in _tanh_above(-upper, -lower, many)]
    index = torch.arange(lower.shape[1], device=lower.device).view(1, -1, 1).expand(len(lower), -1, -1)

    def side(lines: list[tuple[Tensor, Tensor]]) -> Side:
        slopes, consts = (torch.stack(each, 2) for each in zip(*lines))
        return Side(index, slopes.unsqueeze(3), consts, torch.zeros_like(lower, dtype=torch.long))

    return side(below), side(above)
