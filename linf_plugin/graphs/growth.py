"""Lipschitz bounds of graphs from ℓ∞ to ℓ∞: how far each value moves if the input moves by at most one."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from ..layers.facts import FACTS
from ..layers.lipschitz import lipschitz_bound
from ..refusal import rule_of
from .operations import Add, Affine, Average, Clamp, Elu, Gather, Largest, Limit, Scale, Shift, Slope, Softplus


def _largest(module: nn.Module, *inputs: float) -> float:
    return max(inputs)


def _average(module: Average, *inputs: float) -> float:
    terms = (module.gather.index >= 0).sum(-1)
    return (terms / module.divisor).max().item() * max(inputs) if terms.numel() else 0.0


def _affine(module: Affine, x: float) -> float:
    return module.factor.abs().max().item() * x if module.factor.numel() else 0.0


def _slope(module: Slope, x: float) -> float:
    return max(1.0, module.slope.max().item()) * x


def _convolution(module: nn.Conv1d, x: float) -> float:
    return module.weight.abs().flatten(1).sum(1).max().item() * x


def _transposed(module: nn.ConvTranspose2d, x: float) -> float:
    inputs, groups = module.weight, module.groups
    each = inputs.abs().unflatten(0, (groups, -1)).transpose(1, 2).flatten(2).sum(2)  # of each output channel
    return each.max().item() * x


# value of a module → the bound, from the bounds of its inputs.
GROWTH: dict[type[nn.Module], Callable[..., float]] = {
    Gather: _largest,
    Average: _average,
    Largest: _largest,
    Add: lambda module, x, y: x + y,
    Affine: _affine,
    Shift: _largest,
    Scale: _affine,
    Clamp: _largest,
    Limit: _largest,
    Slope: _slope,
    Elu: _largest,
    Softplus: _largest,
    nn.Sigmoid: lambda module, x: x / 4,
    nn.Conv1d: _convolution,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
}


@torch.no_grad()
def growth(nodes: Iterable[tuple[nn.Module, tuple[int, ...], str]]) -> float:
    """Returns L with ‖f(x′) − f(x)‖_∞ ≤ L·‖x′ − x‖_∞ for the net f of these nodes of a graph.

    The bound of a sum is the sum of the bounds of its terms, and that of joined values is the largest one.

    Raises:
        TypeError: an operation has no rule: no number bounds a product of two values.
    """
    bounds = [1.0]
    for module, inputs, _ in nodes:
        given = [bounds[i] for i in inputs]
        if type(module) in FACTS:
            bounds.append(lipschitz_bound(module, math.inf) * given[0])
        else:
            bounds.append(rule_of(GROWTH, module, "Lipschitz bound")(module, *given))
    return bounds[-1]
