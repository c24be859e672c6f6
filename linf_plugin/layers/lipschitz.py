"""Lipschitz bounds of layers and of nets."""

import math

from torch import nn

from ..arguments import check_forward


def _row_norm(layer: nn.Module) -> float:
    """The ∞ → ∞ operator norm of a linear map given by the rows of its weight: the largest ℓ1 norm."""
    return float(layer.weight.detach().double().abs().flatten(1).sum(1).max())


# ℓ∞ Lipschitz bounds of stock layers.
STOCK_LIPSCHITZ = {
    nn.Linear: _row_norm,
    nn.Conv2d: _row_norm,
    nn.ReLU: lambda _: 1.0,
    nn.Tanh: lambda _: 1.0,
    nn.Flatten: lambda _: 1.0,
    nn.Identity: lambda _: 1.0,
}


def flat_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of nested ``Sequential``s in the order of their application; of any other module, itself.

    Raises:
        TypeError: a ``Sequential`` has a forward of its own, so that it is not the composition of its layers.
    """
    if not isinstance(model, nn.Sequential):
        return [model]
    if getattr(model.forward, "__func__", None) is not nn.Sequential.forward:
        raise TypeError(f"{type(model).__name__} has a forward of its own: it is not one layer after the other")
    return [layer for child in model for layer in flat_layers(child)]


def lipschitz_bound(module: nn.Module) -> float:
    """An ℓ∞ → ℓ∞ Lipschitz bound of a layer, or of a ``Sequential``: the product of its layers' bounds.

    Raises:
        TypeError: a layer, or a ``Sequential`` with a forward of its own, states no ``lipschitz`` and is not a stock
            layer with a known bound; or an object has another forward than its class.
        RuntimeError: it has forward hooks, which may change what it computes.
    """
    check_forward(f"the {type(module).__name__}", module)
    if type(module) in STOCK_LIPSCHITZ:
        return STOCK_LIPSCHITZ[type(module)](module)
    if isinstance(module, nn.Sequential) and getattr(module.forward, "__func__", None) is nn.Sequential.forward:
        return math.prod(lipschitz_bound(layer) for layer in module)
    if not hasattr(module, "lipschitz"):
        raise TypeError(f"no Lipschitz bound is known for {type(module).__name__}; give it an attribute lipschitz")
    return float(module.lipschitz)
