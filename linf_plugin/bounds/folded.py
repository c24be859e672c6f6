"""Constants folded into the product before them, as one product: fewer operations for auto_LiRPA."""

import copy

import torch
from torch import Tensor, nn

from ..graphs.operations import Affine


def per_channel(product: nn.Module, a: Tensor) -> Tensor | None:
    """Returns a constant of an operation behind a product as one number for each output; None if it is none."""
    out = product.out_features if isinstance(product, nn.Linear) else product.out_channels
    if a.numel() == 1:
        return a.reshape(1).expand(out)
    if isinstance(product, nn.Linear):
        return a.reshape(out) if a.numel() == out and a.shape[-1] == out else None
    dims = product.weight.dim() - 2
    return a.reshape(out) if tuple(a.shape) == (out, *[1] * dims) else None


def can_fold(product: nn.Module, module: Affine) -> bool:
    """Returns whether all constants of the operation are one number for each output of the product."""
    return all(per_channel(product, a) is not None for a in (module.factor, module.centre, module.offset))


@torch.no_grad()
def folded(product: nn.Module, affines: list[Affine]) -> nn.Module:
    """Returns one product that computes in exact arithmetic what the product and the operations behind it compute."""
    if not affines:
        return product
    weight, bias = product.weight, product.bias
    out = product.out_features if isinstance(product, nn.Linear) else product.out_channels
    bias = weight.new_zeros(out) if bias is None else bias
    for module in affines:
        factor, centre, offset = (per_channel(product, a) for a in (module.factor, module.centre, module.offset))
        bias = factor * (bias - centre) + offset
        if getattr(product, "transposed", False):  # (in, out/groups, *)
            each = weight.unflatten(0, (product.groups, -1))
            scale = factor.view(product.groups, 1, -1, *[1] * (weight.dim() - 2))
            weight = (each * scale).flatten(0, 1)
        else:
            weight = weight * factor.view(-1, *[1] * (weight.dim() - 1))
    found = copy.copy(product)
    found._parameters = {
        "weight": nn.Parameter(weight, requires_grad=False),
        "bias": nn.Parameter(bias, requires_grad=False),
    }
    return found
