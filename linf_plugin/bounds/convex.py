"""Lines below and above convex functions over a box: the largest of some numbers, ELU and softplus."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..graphs.operations import Elu, Softplus
from .lines import STEEPEST, Side, above_max, steady


def largest(lower: Tensor, upper: Tensor, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above max_i x_i.  Shapes: lower, upper (B, neurons, k); each neuron has its own numbers.

    Below: the number whose lower end is largest.  The line's least value on the box is the exact minimum.  Other
    candidates: the two numbers that are largest in the middle of the box.  Above: the lines of ``lines.linf``, whose
    proof only uses that each term rises from its lower end to its upper end.
    """
    shape, count = lower.shape[:2], lower.shape[2]
    low, high = (end.reshape(-1, count) for end in (lower, upper))
    floor, best = low.max(1, keepdim=True)
    slopes_on = min(STEEPEST if many else 2, count)
    far, index = high.unsqueeze(1).topk(min(slopes_on + 1, count), 2)
    index = index[..., :slopes_on]
    above = above_max(low, high, far, index, torch.ones_like(index, dtype=torch.bool), floor, many)
    if many:
        best = torch.cat([best, (low + high).topk(min(2, count), 1).indices], 1)
    slopes = torch.eye(best.shape[1], dtype=low.dtype, device=low.device).expand(len(best), 1, -1, -1)
    below = Side(best.unsqueeze(1), slopes, torch.zeros_like(best.unsqueeze(1), dtype=low.dtype), best[:, :1] * 0)
    return tuple(Side(*(a.reshape(*shape, *a.shape[2:]) for a in side)) for side in (below, above))


Function = Callable[[Tensor], Tensor]


def _convex(lower: Tensor, upper: Tensor, f: Function, slope: Function, many: bool) -> tuple[Side, Side]:
    """Returns lines below and above a convex function of each of (B, n) numbers, whose slopes lie in [0, 1].

    Below: the tangent in the middle of the interval; other candidates: the tangents at its ends.  Above: the chord.
    """

    def tangent(at: Tensor) -> tuple[Tensor, Tensor]:
        return slope(at), f(at) - slope(at) * at

    width = upper - lower
    chord = ((f(upper) - f(lower)) / torch.where(width > 0, width, 1)).clamp(0, 1)
    chord = steady(torch.where(width > 0, chord, 0), lower, upper)
    above = [(chord, torch.maximum(f(lower) - chord * lower, f(upper) - chord * upper))]
    below = [tangent((lower + upper) / 2)]
    if many:
        below += [tangent(lower), tangent(upper)]
    index = torch.arange(lower.shape[1], device=lower.device).view(1, -1, 1).expand(len(lower), -1, -1)

    def side(lines: list[tuple[Tensor, Tensor]]) -> Side:
        slopes, consts = (torch.stack(each, 2) for each in zip(*lines))
        return Side(index, slopes.unsqueeze(3), consts, torch.zeros_like(lower, dtype=torch.long))

    return side(below), side(above)


def elu(lower: Tensor, upper: Tensor, alpha: float, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above ELU of each of (B, n) numbers, for 0 ≤ alpha ≤ 1."""
    return _convex(
        lower, upper, Elu(alpha), lambda x: torch.where(x >= 0, 1.0, alpha * x.clamp_max(0).exp()).to(x), many
    )


def softplus(lower: Tensor, upper: Tensor, beta: float, many: bool = False) -> tuple[Side, Side]:
    """Returns lines below and above softplus of each of (B, n) numbers."""
    return _convex(lower, upper, Softplus(beta, 20.0), lambda x: torch.sigmoid(beta * x), many)
