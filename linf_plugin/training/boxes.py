"""Boxes through a net while it is trained: between which ends its layers stay while the input does.

At p = ∞ and with the means as they are in this batch the ends are those of interval bounds.  At finite p they are
a heuristic: an ℓp layer moves its outputs further than it will at p = ∞, so the ends there are its value, moved as
far as the distance at p = ∞ moves.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .. import ops
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.lipschitz import flat_layers
from ..layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ..layers.sort import SortDistLinear

Box = tuple[Tensor, Tensor, Tensor]  # a value, and the ends between which it stays


def _distance(layer: LinfDistLinear | LinfDistConv2d, box: Box) -> Box:
    value, lower, upper = box
    conv = () if isinstance(layer, LinfDistLinear) else layer.geometry
    dist, box_dist = (
        (torch.ops.linf.dist_conv2d, torch.ops.linf.box_conv2d)
        if conv
        else (torch.ops.linf.dist, torch.ops.linf.box_dist)
    )
    y = dist(value, layer.weight, layer.p, *conv)
    near, far = box_dist(lower, upper, layer.weight, math.inf, *conv)
    if layer.p != math.inf:
        centre = dist(value, layer.weight, math.inf, *conv)
        near, far = y - (centre - near), y + (far - centre)
    return _with_bias(layer, (y, near, far))


def _sorted_distance(layer: SortDistLinear, box: Box) -> Box:
    if layer.training:
        raise TypeError("boxes have no rule for SortDistLinear in training, where its inputs are dropped at random")
    ends = torch.ops.linf.box_sorted_dist(box[1], box[2], layer.weight, layer.rho, layer.k)
    return layer(box[0]), *_with_bias(layer, ends)


def _with_bias(layer: nn.Module, ends: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ends if layer.bias is None else tuple(ops.shift(end, layer.bias) for end in ends)


def _mean_shift(layer: MeanShift, box: Box) -> Box:
    """All three move by the mean of the value, so the mean is that of clean inputs."""
    shifted = layer(box[0])
    by = box[0] - shifted
    return shifted, box[1] - by, box[2] - by


def _rising(layer: nn.Module, box: Box) -> Box:
    return tuple(layer(end) for end in box)


RULES: dict[type, Callable[[nn.Module, Box], Box]] = {
    LinfDistLinear: _distance,
    LinfDistConv2d: _distance,
    SortDistLinear: _sorted_distance,
    MeanShift: _mean_shift,
    Negate: lambda _, box: (-box[0], -box[2], -box[1]),
    **dict.fromkeys((Normalize, CenterCrop, nn.Flatten, nn.Identity, nn.ReLU, nn.Tanh), _rising),
}


def propagate(model: nn.Module, x: Tensor, eps: float) -> Box:
    """(value, lower, upper) of the model's outputs, in its training or evaluation mode, while x stays within eps and
    the pixel range; with gradient.

    Args:
        model: a ``Sequential`` of layers of ``RULES``.
        x: (N, C, H, W), pixels in [0, 1].
        eps: ℓ∞ radius in the pixel range.

    In evaluation mode at p = ∞, lower ≤ model(x') ≤ upper for every pixel image x' with ‖x' − x‖∞ ≤ eps, up to the
    rounding of float32: intervals of each layer, which Gowal et al. (arXiv 1810.12715) train on.  Else a heuristic.

    Raises:
        TypeError: a layer has no rule.
    """
    box = (x, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    for layer in flat_layers(model):
        if type(layer) not in RULES:
            known = ", ".join(kind.__name__ for kind in RULES)
            raise TypeError(f"boxes have no rule for {type(layer).__name__}, only for {known}")
        box = RULES[type(layer)](layer, box)
    return box


def worst_margins(model: nn.Module, x: Tensor, labels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The logits, and upper bounds of z_j − z_y by ``propagate``, as far as that bounds: (N, classes) twice, the
    second 0 at the label."""
    logits, lower, upper = propagate(model, x, eps)
    label = labels.unsqueeze(1)
    return logits, (upper - lower.gather(1, label)).scatter(1, label, 0.0)
