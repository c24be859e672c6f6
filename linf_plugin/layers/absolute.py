"""How far a linear map stretches in ℓ2 if all its weights are replaced by their absolute values."""

import copy
import math

import torch
from torch import Tensor, nn

from ..spectral.outward import back, read, up
from .lipschitz import lipschitz_bound

STEPS, CHECKED = 60, 5  # of the power iteration, and after how many steps its bound is computed
NEAR = 1 + 2.0**-20  # the iteration ends at a bound that is lower by less than this than the one before


@torch.no_grad()
def absolute_norm(layer: nn.Linear | nn.Conv2d) -> float:
    """Returns an upper bound of ‖|W|‖₂, for images of every size.

    Let a convolution pad with zeros and have the stride s.  Take the s² images of the pixels that are the same modulo s
    in both axes.  A tap of a kernel reads one of them, moves it, and leaves some pixels out, so it stretches nothing.
    Hence the norms of the output channels are at most M times those of these images of the input channels, where M adds
    up |K(t)| over the taps t that read the same image, and the bound is ‖M‖₂.  Groups are bounded apart.

    For any v > 0, ‖M‖₂² = ‖MᵀM‖₂ ≤ max_i (MᵀM·v)_i / v_i (Collatz–Wielandt, as in ``gershgorin``).  v comes from power
    iteration.  All numbers are at least 0, so rounding is relative.

    A convolution with other padding has the bound of ``lipschitz_bound``.

    Raises:
        TypeError, ValueError, RuntimeError: as ``lipschitz_bound``.
    """
    if isinstance(layer, nn.Linear):
        return _bound(layer.weight, (1, 1), (1, 1), 1)
    if layer.padding_mode != "zeros":
        absolute = copy.deepcopy(layer).double()
        absolute.weight = nn.Parameter(layer.weight.detach().double().abs(), requires_grad=False)
        return lipschitz_bound(absolute, 2)
    return _bound(layer.weight, layer.stride, layer.dilation, layer.groups)


def _bound(weight: Tensor, stride: tuple[int, int], dilation: tuple[int, int], groups: int) -> float:
    if not weight.numel():
        return 0.0
    w, exponent = read(weight)
    taps = w.abs().reshape(*w.shape[:2], *(w.shape[2:] or (1, 1)))
    for dim, s, d in zip((2, 3), stride, dilation):
        phases = torch.arange(taps.shape[dim], device=w.device) * d % s
        size = [s if k == dim else n for k, n in enumerate(taps.shape)]
        taps = taps.new_zeros(size).index_add_(dim, phases, taps)
    square = max(_squared(part.flatten(1), math.prod(w.shape[2:])) for part in taps.chunk(groups))
    return back(up(math.sqrt(square), 1), exponent)


def _squared(m: Tensor, added: int) -> float:
    """Returns an upper bound of ‖M‖₂² for a matrix whose entries are sums of at most ``added`` numbers ≥ 0."""
    roundings, best, v = 2 * added + sum(m.shape) + 2, float("inf"), m.new_ones(m.shape[1])
    for step in range(STEPS + 1):
        above = m.mT @ (m @ v)
        if step % CHECKED == 0:
            before, best = best, min(best, up(above / v, roundings).max().item())
            if best * NEAR >= before or best == 0:
                break
        v = (above / above.max()).clamp_min(2.0**-60)
    return best
