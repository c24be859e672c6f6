"""Interval bounds of operations: ends of the inputs → ends of the output, as ``intervals`` has them for layers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..intervals import INTERVALS, Ends, affine, interval
from ..refusal import rule_of
from .operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Scale,
    Shift,
    Slope,
    Softplus,
)


def _rising(module: nn.Module, *inputs: Ends) -> Ends:
    """The rule of an operation that does not fall when an input rises."""
    return module(*(lower for lower, _ in inputs)), module(*(upper for _, upper in inputs))


def _elementwise(module: Affine, x: Ends) -> Ends:
    ends = [module(end) for end in x]
    return torch.minimum(*ends), torch.maximum(*ends)


def _add(module: Add, x: Ends, y: Ends) -> Ends:
    (low, high), (least, most) = x, y
    return (low + least, high + most) if module.sign > 0 else (low - most, high - least)


def _multiply(module: Multiply, x: Ends, y: Ends) -> Ends:
    corners = torch.stack([a * b for a in x for b in y])
    return corners.amin(0), corners.amax(0)


ENDS: dict[type[nn.Module], Callable[..., Ends]] = {
    Gather: _rising,
    Average: _rising,
    Largest: _rising,
    Add: _add,
    Multiply: _multiply,
    Affine: _elementwise,
    Shift: _elementwise,
    Scale: _elementwise,
    Clamp: _rising,
    Limit: _rising,
    Slope: _rising,
    Elu: _rising,
    Softplus: _rising,
    nn.Sigmoid: _rising,
    nn.Conv1d: affine,
    nn.ConvTranspose1d: affine,
    nn.ConvTranspose2d: affine,
}


def ends(module: nn.Module, *inputs: tuple[Tensor, Tensor]) -> Ends:
    """Returns the ends of the output of a layer or an operation.

    Args:
        module: a layer with a rule in ``INTERVALS``, or an operation.
        inputs: (lower, upper) of each input, (N, *) each.

    Returns:
        (lower, upper) with lower ≤ module(…) ≤ upper in exact arithmetic, for inputs between their ends.

    Raises:
        TypeError: there is no rule for the type of the module.
    """
    if type(module) in INTERVALS:
        (x,) = inputs
        return interval(module, x)
    return rule_of(ENDS, module, "interval rule")(module, *inputs)
