"""Constants folded into the product before them, as one product: fewer operations for auto_LiRPA."""

import copy

import torch
from torch import nn

from ..graphs.fusion import PRODUCTS, per_channel
from ..graphs.operations import Affine


def can_fold(product: nn.Module, module: Affine) -> bool:
    """Returns whether this is a product, and all constants of the operation are one number for each of its outputs."""
    return isinstance(product, PRODUCTS) and all(
        per_channel(product, a) is not None for a in (module.factor, module.centre, module.offset)
    )


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
