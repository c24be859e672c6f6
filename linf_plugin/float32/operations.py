"""How far float32 moves the value of each operation of a graph.  docs/math.md, "A graph", has the proofs."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..graphs.ends import ends
from ..graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Multiply,
    Scale,
    Shift,
    Slope,
    Softplus,
)
from .program import LARGEST, SMALLEST
from .rules import OUTWARD, UNIT, Reach, affine, gamma

SIGMOID_UNITS = 8  # assumed: a sigmoid is off by at most 8 units of 1
ELU_UNITS = 8  # assumed: alpha·(eˣ − 1) is off by at most 8 units of alpha
SOFTPLUS_UNITS = 16  # assumed: below its threshold, a softplus is off by at most 16 units of itself plus 1/beta


def _ends(module: nn.Module, *inputs: Reach) -> tuple[Tensor, Tensor]:
    return ends(module, *(x[:2] for x in inputs))


def _moved(module: nn.Module, *inputs: Reach) -> Reach:
    """The rule of operations that only move numbers, and of maxima: |max x̂ − max x| ≤ max |x̂ − x|."""
    if isinstance(module, Largest):
        error = module.gather(*(x.error for x in inputs)).amax(-1)
    else:
        error = module(*(x.error for x in inputs))
    return Reach(*_ends(module, *inputs), error)


def _average(module: Average, *inputs: Reach) -> Reach:
    """Each term passes the sum, the division, or the product with a rounded 1/divisor."""
    y = Reach(*_ends(module, *inputs), module(*(x.error for x in inputs)) * OUTWARD)
    total = module.gather(*(x.largest for x in inputs)).sum(-1)
    amount = gamma(module.terms + 3) * total / module.divisor + 4 * (module.terms + 2) * SMALLEST
    return y.rounded(torch.where(total < LARGEST, amount, torch.inf))


def _add(module: Add, x: Reach, y: Reach) -> Reach:
    """The sum is rounded once.  If it is one sum with the product before it, its terms pass ``fused`` roundings."""
    found = Reach(*_ends(module, x, y), (x.error + y.error) * OUTWARD)
    amount = UNIT * found.largest
    if module.fused:
        amount = torch.maximum(amount, gamma(module.fused) * (x.largest + y.largest))
    return found.rounded(amount + 4 * SMALLEST)


def _multiply(module: Multiply, x: Reach, y: Reach) -> Reach:
    """|x̂·ŷ − x·y| ≤ |x̂ − x|·|ŷ| + |x|·|ŷ − y|."""
    moved = (x.error * y.largest + x.largest * y.error) * OUTWARD
    found = Reach(*_ends(module, x, y), moved)
    return found.rounded(UNIT * found.largest + (x.largest + y.largest + 4) * 2 * SMALLEST)


def _elementwise(module: Affine, x: Reach) -> Reach:
    """Each of factor·x, factor·centre and offset passes at most ``roundings`` roundings, or ``fused`` ones."""
    factor = module.factor.abs()
    y = Reach(*_ends(module, x), factor * x.error * OUTWARD)
    if module.roundings == 0:
        return y
    parts = factor * (x.largest + module.centre.abs()) + module.offset.abs()
    alone = UNIT * y.largest if module.roundings == 1 else gamma(module.roundings) * parts
    amount = alone if module.fused == 0 else torch.maximum(alone, gamma(module.fused) * parts)
    flushed = (factor + 1 + module.last) * (x.largest + module.centre.abs() + 4) + module.offset.abs()
    limit = torch.maximum(torch.maximum(parts, factor.expand_as(parts)), x.largest + module.centre.abs())
    return y.rounded(torch.where(limit < LARGEST, amount + 8 * flushed * SMALLEST, torch.inf))


def _clamp(module: Clamp, x: Reach) -> Reach:
    found = _ends(module, x)
    return Reach(*found, torch.minimum(x.error, found[1] - found[0]))


def _slope(module: Slope, x: Reach) -> Reach:
    """x is kept where it is not negative; else it is multiplied once."""
    slope = module.slope
    y = Reach(*_ends(module, x), x.error * slope.clamp_min(1) * OUTWARD)
    below = (-x.lower).clamp_min(0)
    return y.rounded(torch.where(below > 0, UNIT * slope * below + 2 * (slope + below + 4) * SMALLEST, 0.0))


def _elu(module: Elu, x: Reach) -> Reach:
    """The slope is at most 1, because alpha is."""
    y = Reach(*_ends(module, x), x.error)
    return y.rounded(torch.where(x.lower < 0, ELU_UNITS * UNIT * module.alpha + 4 * SMALLEST, 0.0))


def _sigmoid(module: nn.Sigmoid, x: Reach) -> Reach:
    y = Reach(*_ends(module, x), x.error * 0.25 * OUTWARD)
    return y.rounded(torch.full_like(y.error, SIGMOID_UNITS * UNIT))


def _softplus(module: Softplus, x: Reach) -> Reach:
    """Above the threshold the program returns x, which is below the exact value by less than e^−threshold/beta."""
    y = Reach(*_ends(module, x), x.error)
    left_out = math.exp(-module.threshold + 0.01) / module.beta  # also if beta·x is rounded to the threshold
    return y.rounded(SOFTPLUS_UNITS * UNIT * (y.largest + 1 / module.beta) + left_out)


OF_OPERATIONS: dict[type[nn.Module], Callable[..., Reach]] = {
    Gather: _moved,
    Average: _average,
    Largest: _moved,
    Add: _add,
    Multiply: _multiply,
    Affine: _elementwise,
    Shift: _elementwise,
    Scale: _elementwise,
    Clamp: _clamp,
    Slope: _slope,
    Elu: _elu,
    Softplus: _softplus,
    nn.Sigmoid: _sigmoid,
    nn.Conv1d: affine,
    nn.ConvTranspose1d: affine,
    nn.ConvTranspose2d: affine,
}
