"""Lipschitz bounds of layers and of nets, each in a named norm."""

import math
from typing import TypeGuard

from torch import nn

from ..arguments import check_forward
from ..moved import warn_once
from ..norms import check_norm
from .base import Distance
from .facts import FACTS
from .shifts import CenterCrop, MeanShift, Negate, Normalize


def is_plain(model: nn.Module) -> TypeGuard[nn.Sequential]:
    """Returns whether the model is a ``Sequential`` that only applies its layers one after the other."""
    return isinstance(model, nn.Sequential) and getattr(model.forward, "__func__", None) is nn.Sequential.forward


def flat_layers(model: nn.Module) -> list[nn.Module]:
    """Returns the layers of nested ``Sequential``s in the order in which they are applied.

    For any other module it returns the module as the only layer.

    Raises:
        TypeError: a ``Sequential`` has a forward of its own, so it need not be the composition of its layers.
    """
    if not isinstance(model, nn.Sequential):
        return [model]
    if not is_plain(model):
        raise TypeError(f"{type(model).__name__} has a forward of its own: it need not apply its layers in order")
    return [layer for child in model for layer in flat_layers(child)]


def lipschitz_bound(module: nn.Module, norm: float | str | None = None) -> float:
    """Returns a Lipschitz bound L of a layer or net f: ‖f(x′) − f(x)‖ ≤ L·‖x′ − x‖, in the given norm on both sides.

    The bound of a ``Sequential`` is the product of the bounds of its layers.  ``facts.FACTS`` has the rules of our
    layer types and of some of PyTorch's.  Any other module must have a method ``lipschitz_in(norm)`` that returns its
    bound in that norm, or raises TypeError if it knows none.  A plain number, such as an attribute ``lipschitz``, does
    not name its norm, so it is not read.

    Args:
        module: the layer or net; the bound holds for its present mode, training or evaluation.
        norm: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.  Leaving it out means ℓ∞ and is deprecated.

    Raises:
        TypeError: no bound in this norm is known for a layer, or an object has another forward than its class.
        ValueError: the norm is unknown.
        RuntimeError: the module has forward hooks, which may change what it computes.
    """
    if norm is None:
        warn_once("lipschitz_bound(module)", "lipschitz_bound(module, math.inf), with the norm")
        norm = math.inf
    return _bound(module, check_norm(norm))


def _bound(module: nn.Module, norm: float) -> float:
    check_forward(f"the {type(module).__name__}", module)
    if type(module) in FACTS:
        return FACTS[type(module)].lipschitz(module, norm)
    if is_plain(module):
        return math.prod(_bound(layer, norm) for layer in module)
    if not callable(stated := getattr(module, "lipschitz_in", None)):
        raise TypeError(
            f"no Lipschitz bound is known for {type(module).__name__}: give it a method lipschitz_in(norm) that "
            "returns its bound in that norm"
        )
    return float(stated(norm))


def _former_attribute(layer: nn.Module) -> float:
    """The same as ``lipschitz_bound(layer, math.inf)``.  Deprecated, because the attribute does not name its norm."""
    warn_once("the attribute lipschitz", "lipschitz_bound(module, math.inf), with the norm")
    return lipschitz_bound(layer, math.inf)


for _kind in (Distance, MeanShift, Normalize, CenterCrop, Negate):
    _kind.lipschitz = property(_former_attribute)
