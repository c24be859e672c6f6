"""Interval bounds of layers.  Each layer type has one rule: ends of its input → ends of its output.

A rule takes (lower, upper), (N, *) each, in float32 or float64.  It computes in their dtype, with gradient.  In
evaluation mode and exact arithmetic, its result (lower′, upper′) satisfies lower′ ≤ layer(x) ≤ upper′ for every x with
lower ≤ x ≤ upper.  It leaves the ends that it is given as they are.  The caller must account for rounding.  For each
layer that is not affine, some x attains each end.  Gowal et al. (arXiv 1810.12715) propagate the same intervals.

Training, the rounding pass and the certificates of ONNX files use these rules.  Exact radii do not: their steps
(``certificates.exact.steps``) round outward at every operation and use NumPy.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .layers.activations import MaxMin, ParamRamp
from .layers.distance import LinfDistConv2d, LinfDistLinear
from .layers.facts import RANDOM, TRAINED
from .layers.noise import DRAWS
from .layers.potential import Potential, PotentialConv2d, PotentialLinear
from .layers.reparametrised import MATERIALISE
from .layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from .layers.sort import SortDistLinear
from .refusal import Refusal, rule_of

Ends = tuple[Tensor, Tensor]
Rule = Callable[[nn.Module, Ends], Ends]


def distances(layer: nn.Module, ends: Ends, p: float | None = None) -> Ends:
    """Returns the ends of a distance layer without its bias.

    Args:
        ends: (rows, in) each; for a convolution (N, C, H, W) each.
        p: the exponent; by default that of the layer.
    """
    weight, p = layer.weight.to(ends[0].dtype), layer.p if p is None else p
    if isinstance(layer, LinfDistConv2d):
        return torch.ops.linf.box_conv2d(*ends, weight, p, *layer.geometry)
    if not isinstance(layer, SortDistLinear):
        return torch.ops.linf.box_dist(*ends, weight, p)
    if layer.rho == 1:  # the sum then has only its first term
        return torch.ops.linf.box_dist(*ends, weight, math.inf)
    return torch.ops.linf.box_sorted_dist(*ends, weight, layer.rho, layer.k)


def biased(layer: nn.Module, ends: Ends) -> Ends:
    """Returns the ends plus the bias of the layer, if it has one."""
    return ends if layer.bias is None else tuple(ops.shift(end, layer.bias.to(end.dtype)) for end in ends)


def _distance(layer: nn.Module, ends: Ends) -> Ends:
    if isinstance(layer, LinfDistConv2d):
        return biased(layer, distances(layer, ends))
    rows = tuple(a.reshape(-1, a.shape[-1]) for a in ends)
    return tuple(a.reshape(*ends[0].shape[:-1], a.shape[-1]) for a in biased(layer, distances(layer, rows)))


_TRANSPOSED = {nn.ConvTranspose1d: F.conv_transpose1d, nn.ConvTranspose2d: F.conv_transpose2d}


def apply_affine(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Applies a linear layer or a convolution to x with the given weight and bias instead of its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    if type(layer) in _TRANSPOSED:
        convolve = _TRANSPOSED[type(layer)]
        return convolve(
            x, weight, bias, layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        )
    return layer._conv_forward(x, weight, bias)


def affine(layer: nn.Module, ends: Ends) -> Ends:
    """Returns W·middle + b ± |W|·radius: the rule of linear layers and of convolutions of any kind."""
    lower, upper = ends
    weight = layer.weight.to(lower.dtype)
    bias = None if layer.bias is None else layer.bias.to(lower.dtype)
    middle = apply_affine(layer, (lower + upper) / 2, weight, bias)
    radius = apply_affine(layer, (upper - lower) / 2, weight.abs(), None)
    return middle - radius, middle + radius


def _rising(layer: nn.Module, ends: Ends) -> Ends:
    """The rule of a layer whose outputs do not fall when an input rises."""
    return layer(ends[0]), layer(ends[1])


def _shifted(offset: Tensor, sign: float, scale: float, ends: Ends) -> Ends:
    return tuple(ops.shift(end, offset.to(end.dtype), sign, scale) for end in ends)


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, ends: Ends) -> Ends:
    """Returns middle ± radius, scaled by each channel.  What would normalise by a batch is refused."""
    if layer.training or layer.running_mean is None:
        raise TypeError(f"there is no interval rule for {type(layer).__name__} that normalises by its batch")
    lower, upper = ends
    dtype, shape = lower.dtype, (-1, *[1] * (lower.dim() - 2))
    scale = (layer.running_var.to(dtype) + layer.eps).rsqrt()
    scale = scale if layer.weight is None else layer.weight.to(dtype) * scale
    offset = -layer.running_mean.to(dtype) * scale
    offset = offset if layer.bias is None else offset + layer.bias.to(dtype)
    middle = (lower + upper) / 2 * scale.view(shape) + offset.view(shape)
    radius = (upper - lower) / 2 * scale.abs().view(shape)
    return middle - radius, middle + radius


def _potential(layer: Potential, ends: Ends) -> Ends:
    """Returns the interval of x minus that of Wᵀ·relu(W·x + b), as if both were independent."""
    lower, upper = ends
    weight = layer.weight.to(lower.dtype)
    bias = None if layer.bias is None else layer.bias.to(lower.dtype)
    middle, radius = layer.into((lower + upper) / 2, weight, bias), layer.into((upper - lower) / 2, weight.abs(), None)
    low, high = F.relu(middle - radius), F.relu(middle + radius)
    middle, radius = layer.back((low + high) / 2, weight), layer.back((high - low) / 2, weight.abs())
    return lower - (middle + radius), upper - (middle - radius)


INTERVALS: dict[type[nn.Module], Rule | Refusal] = {
    Normalize: lambda layer, ends: _shifted(layer.mean, -1.0, layer.scale, ends),
    CenterCrop: _rising,
    nn.Flatten: _rising,
    nn.Identity: _rising,
    LinfDistLinear: _distance,
    LinfDistConv2d: _distance,
    SortDistLinear: _distance,
    MeanShift: lambda layer, ends: _shifted(layer.running_mean, -1.0, 1.0, ends),
    Negate: lambda _, ends: (-ends[1], -ends[0]),
    nn.Linear: affine,
    nn.Conv2d: affine,
    nn.ReLU: lambda _, ends: (F.relu(ends[0]), F.relu(ends[1])),  # the layer itself may work in place
    nn.Tanh: _rising,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    ParamRamp: _rising,
    MaxMin: _rising,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def interval(layer: nn.Module, ends: Ends) -> Ends:
    """Returns the ends of the outputs of one layer.  Raises TypeError if it has no rule."""
    return rule_of(INTERVALS, layer, "interval rule")(layer, ends)
