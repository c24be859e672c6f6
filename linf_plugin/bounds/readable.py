"""Nets rewritten so that auto_LiRPA bounds them correctly."""

import copy

import torch
from torch import nn

from ..arguments import check_forward


def readable(model: nn.Module) -> nn.Module:
    """Returns a copy that computes the same, in which every ``nn.Conv2d`` has one group and dilation 1.

    Its kernels have zeros between the weights and for the channels of other groups.  Both versions of auto_LiRPA give
    wrong CROWN bounds of grouped convolutions in sequence, and 0.3 fails on unequal dilations.

    Raises:
        RuntimeError, TypeError: a layer that has to be rewritten has forward hooks, or a forward of its own.
    """
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.Conv2d and (layer.groups > 1 or layer.dilation != (1, 1)):
                check_forward(f"layer {name!r} (Conv2d)", layer)
                setattr(parent, name, plain_convolution(layer))
    return model


@torch.no_grad()
def plain_convolution(layer: nn.Conv2d) -> nn.Conv2d:
    """Returns a convolution of one group and dilation 1 that computes the same as the layer."""
    (height, width), (down, right) = layer.kernel_size, layer.dilation
    kernel = ((height - 1) * down + 1, (width - 1) * right + 1)
    plain = (
        nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            kernel,
            layer.stride,
            layer.padding,
            bias=layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        .train(layer.training)
        .requires_grad_(False)
    )
    plain.weight.zero_()
    of_group, groups = layer.in_channels // layer.groups, layer.weight.chunk(layer.groups)
    for i, (to, weight) in enumerate(zip(plain.weight.chunk(layer.groups), groups)):
        to[:, i * of_group : (i + 1) * of_group, ::down, ::right] = weight
    if layer.bias is not None:
        plain.bias.copy_(layer.bias)
    return plain
