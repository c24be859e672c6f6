"""Surrogates: copies of a net whose gradients tell an attack more than those of the net itself.

At p = ∞ the gradient of a distance reaches one coordinate, and a clipped pixel or an idle ReLU passes none.  An attack
then stands still, although a point that breaks the net may be near.  So gradient attacks climb along the net, and then
along each surrogate that applies to it.  A point counts only if the net itself misclassifies it.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linf_plugin.layers.activations import ParamRamp
from linf_plugin.layers.base import distance_layers

LEAK = 0.1  # the part of a gradient that passes where a value is cut


class _LeakyClip(torch.autograd.Function):
    """min(max(x, low), high), with a gradient that leaks where x lies outside."""

    @staticmethod
    def forward(ctx, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        ctx.save_for_backward((low < x) & (x < high))
        return torch.minimum(torch.maximum(x, low), high)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return torch.where(inside, grad, LEAK * grad), None, None


class LeakyClip(nn.Module):
    """min(max(x, low), high).  Its values are exact.  Its gradient is 1 for low < x < high, and ``LEAK`` elsewhere.

    So the gradient differs from that of the function: Athalye et al. (arXiv 1802.00420), section 4.1.

    Args:
        low, high: numbers, or tensors (C,) with one for each channel.

    Shape: (N, C, *) → the same.
    """

    def __init__(self, low: float | Tensor = 0.0, high: float | Tensor = math.inf):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (self.low, self.high))
        channels = [1] * (x.dim() - 2)
        return _LeakyClip.apply(x, *(end.view(-1, *channels) if end.dim() else end for end in (low, high)))


LEAKY: dict[type[nn.Module], Callable] = {  # exact type of a layer → (layer → the layer that takes its place)
    nn.ReLU: lambda layer: LeakyClip(),
    nn.ReLU6: lambda layer: LeakyClip(0.0, 6.0),
    nn.Hardtanh: lambda layer: LeakyClip(layer.min_val, layer.max_val),
    ParamRamp: lambda layer: LeakyClip(0.0, layer.top),
}


@dataclass(frozen=True)
class Surrogate:
    """A kind of copy, in which layers of ``LEAKY`` are replaced.

    p: the exponent of the distance layers that have a larger one; None keeps theirs.
    """

    p: float | None = None

    def applies(self, model: nn.Module) -> bool:
        """Returns whether the model has a distance layer with a larger exponent; for None, a layer to replace."""
        if self.p is not None:
            return any(layer.p > self.p for layer in distance_layers(model))
        return any(type(layer) in LEAKY for layer in model.modules())

    def of(self, model: nn.Module) -> nn.Module:
        """Returns the copy; the model stays as it is."""
        model = copied(model)
        for layer in distance_layers(model) if self.p is not None else ():
            layer.p = min(layer.p, self.p)
        return _replaced(model)


SURROGATES = {"leaky": Surrogate(), "p16": Surrogate(p=16.0), "p64": Surrogate(p=64.0)}


def _replaced(module: nn.Module) -> nn.Module:
    if type(module) in LEAKY:
        return LEAKY[type(module)](module)
    for name, child in list(module._modules.items()):  # named_children names a layer that stands twice only once
        if child is not None:
            setattr(module, name, _replaced(child))
    return module


def copied(model: nn.Module) -> nn.Module:
    """Returns a copy whose weights get no gradient, so that attacks leave the gradients of the model as they are."""
    return copy.deepcopy(model).requires_grad_(False)
