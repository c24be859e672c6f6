"""The noise that stands for rounding in bounds of the exact net."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import arguments
from ..graphs.graph import Node, expanded, last_uses
from ..graphs.operations import Affine, Clamp, Gather, Largest, Limit, Multiply, Slope, Softplus
from ..layers.activations import MaxMin, ParamRamp
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.facts import FACTS
from ..layers.shifts import Normalize
from ..layers.sort import SortDistLinear
from ..norms import DOUBLE_UNITS
from .program import SMALLEST
from .reach import nodes, rule
from .rules import Reach, gamma, rows, samples

LEAST_SIZE = 2.0**-20  # auto_LiRPA's own rules widen even the smallest interval by 1e-8
MOST_JOINS = 16  # the most sums of coefficients for each number of the input
MOST_SLOPES = 5  # the most slopes of one line of a distance at p = ∞


def _float64_allowance(layer: nn.Module, inputs: list[Reach], y: Reach, joins: int) -> Tensor:
    """Returns (N,): how far float64 rounding can move a linear bound of this layer.  It is κ in docs/math.md."""
    terms, p, outputs = 1, 0.0, y.error[:1].numel() + joins
    size = sum(rows(x.largest).amax(1) for x in inputs) + rows(y.largest).amax(1) + LEAST_SIZE
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
    elif isinstance(layer, Largest):
        terms = min(layer.gather.index.shape[-1], MOST_SLOPES)
    elif isinstance(layer, MaxMin):
        terms = 2
    elif isinstance(layer, Multiply):  # a product of two ends that are far from the value
        size = size + math.prod(rows(x.largest).amax(1) for x in inputs)
    elif isinstance(layer, Clamp):
        size = size + sum(abs(end) for end in (layer.low, layer.high) if math.isfinite(end))
    elif isinstance(layer, (Limit, ParamRamp)):
        size = size + (layer.end if isinstance(layer, Limit) else layer.top).abs().max()
    elif isinstance(layer, Slope):
        size = size * layer.slope.clamp_min(1).max()
    elif isinstance(layer, Softplus):
        size = size * max(1.0, layer.beta) + 1 / layer.beta
    gamma(4 * outputs)  # raises if the layer is too wide: a bound sums this many products with a layer's bias
    return DOUBLE_UNITS * (terms + outputs + 8) * (terms + p + 8) * size


def _joins(parts: list[Node]) -> int:
    """Returns how many sums one coefficient passes where ways through the graph meet, at most: 0 in a sequence."""
    users: dict[int, int] = {}
    for node in parts:
        for value in node.inputs:
            users[value] = users.get(value, 0) + 1
    meets = sum(count - 1 for count in users.values())
    for node in parts:
        index = getattr(getattr(node.module, "gather", node.module), "index", None)
        if index is not None and (index >= 0).any():
            meets += int(index[index >= 0].bincount().max()) - 1
    return meets


class Noise(NamedTuple):
    """The noise of one layer.

    Attributes:
        amount: (N, *), how far the output can be from the exact one, by float32 and by the evaluation of a bound in
            float64.
        limit: (N,), the largest |bound| of that output for which ``amount`` is enough.
    """

    amount: Tensor
    limit: Tensor


def computes(module: nn.Module) -> bool:
    """Returns whether a layer or an operation does more than to move numbers and to change their signs."""
    if isinstance(module, Affine):
        return module.roundings > 0 or module.fused > 0  # a change of sign that is folded has the noise of its product
    return FACTS[type(module)].computes if type(module) in FACTS else not isinstance(module, Gather)


@torch.no_grad()
def noise(model: nn.Module, lower: Tensor, upper: Tensor) -> list[Noise | None]:
    """Returns the noise of each layer, or None for a layer that only moves or negates values.

    Consider the exact net with this noise after each layer.  Bounds of it, computed in float64, hold for the float32
    net.  The arguments and the errors raised are those of ``reach``.
    """
    arguments.check_box(lower, upper)
    parts = expanded(nodes(model))
    values, amounts, joins, last = [Reach(lower, upper, torch.zeros_like(lower))], [], _joins(parts), last_uses(parts)
    if joins > MOST_JOINS * lower[:1].numel():
        raise ValueError(f"coefficients meet in {joins} sums, too many for an input of {lower[:1].numel()} numbers")
    for i, (module, inputs, _) in enumerate(parts):
        given = [values[j] for j in inputs]
        y = rule(module)(module, *given)
        if computes(module):
            amount = y.error * (1 + 2.0**-10) + samples(_float64_allowance(module, given, y, joins), y.error)
            amounts.append(Noise(amount + 2 * SMALLEST, 2 * rows(y.largest).amax(1) + LEAST_SIZE))
        else:
            amounts.append(None)
        values.append(y._replace(error=torch.zeros_like(y.error)))
        for j in inputs:
            if last[j] == i:
                values[j] = None  # nobody reads it again
    return amounts
