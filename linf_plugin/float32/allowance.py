"""The noise that stands for rounding in bounds of the exact net."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import arguments
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.facts import FACTS
from ..layers.shifts import Normalize
from ..layers.sort import SortDistLinear
from ..norms import DOUBLE_UNITS
from .program import SMALLEST
from .reach import ROUNDING, Reach, gamma, layers, samples

LEAST_SIZE = 2.0**-20  # auto_LiRPA's own rules widen even the smallest interval by 1e-8
MOST_SLOPES = 5  # the most slopes of one line of a distance at p = ∞


def _float64_allowance(layer: nn.Module, x: Reach, y: Reach) -> Tensor:
    """Returns (N,): how far float64 rounding can move a linear bound of this layer.  It is κ in docs/math.md."""
    terms, p, outputs = 1, 0.0, y.error[:1].numel()
    size = x.largest.flatten(1).amax(1) + y.largest.flatten(1).amax(1) + LEAST_SIZE
    if isinstance(layer, (LinfDistLinear, LinfDistConv2d, SortDistLinear)):
        terms, size = math.prod(layer.weight.shape[1:]), size + layer.weight.abs().max()
        if layer.bias is not None:  # with a bias, the distance can be larger than the output
            size = size + layer.bias.abs().max()
        if isinstance(layer, SortDistLinear):
            pass  # its lines have slopes on all coordinates, and it computes no powers
        elif layer.p == math.inf:
            terms = min(terms, MOST_SLOPES)
        else:
            p = layer.p
    elif isinstance(layer, Normalize):
        size = size * max(1.0, layer.scale)
    gamma(4 * outputs)  # raises if the layer is too wide: a bound sums this many products with a layer's bias
    return DOUBLE_UNITS * (terms + outputs + 8) * (terms + p + 8) * size


class Noise(NamedTuple):
    """The noise of one layer.

    Attributes:
        amount: (N, *), how far the output can be from the exact one, by float32 and by the evaluation of a bound in
            float64.
        limit: (N,), the largest |bound| of that output for which ``amount`` is enough.
    """

    amount: Tensor
    limit: Tensor


@torch.no_grad()
def noise(model: nn.Module, lower: Tensor, upper: Tensor) -> list[Noise | None]:
    """Returns the noise of each layer, or None for a layer that only moves values.

    Consider the exact net with this noise after each layer.  Bounds of it, computed in float64, hold for the float32
    net.  The arguments and the errors raised are those of ``reach``.
    """
    arguments.check_box(lower, upper)
    x, amounts = Reach(lower, upper, torch.zeros_like(lower)), []
    for layer in layers(model):
        y = ROUNDING[type(layer)](layer, x)
        amount = y.error * (1 + 2.0**-10) + samples(_float64_allowance(layer, x, y), y.error) + 2 * SMALLEST
        limit = 2 * y.largest.flatten(1).amax(1) + LEAST_SIZE
        amounts.append(Noise(amount, limit) if FACTS[type(layer)].computes else None)
        x = y._replace(error=torch.zeros_like(y.error))
    return amounts
