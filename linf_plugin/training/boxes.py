"""Boxes through a net while it is trained: between which ends its layers stay while the input does.

At p = ∞ and with the means as they are in this batch the ends are those of interval bounds.  At finite p they are
a heuristic: an ℓp layer moves its outputs further than it will at p = ∞, so the ends there are its value, moved as
far as the distance at p = ∞ moves.
"""

import math

import torch
from torch import Tensor, nn

from ..intervals import biased, distances, interval
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.lipschitz import flat_layers
from ..layers.shifts import MeanShift
from ..layers.sort import SortDistLinear

Box = tuple[Tensor, Tensor, Tensor]  # a value, and the ends between which it stays


def _distance(layer: LinfDistLinear | LinfDistConv2d, box: Box) -> Box:
    """Ends at p = ∞; at a finite p the value, moved as far as the value at p = ∞ can move."""
    value, lower, upper = box
    conv = () if isinstance(layer, LinfDistLinear) else (layer.stride, layer.padding, layer.dilation, layer.groups)
    dist = torch.ops.linf.dist_conv2d if conv else torch.ops.linf.dist
    y = dist(value, layer.weight, layer.p, *conv)
    near, far = distances(layer, (lower, upper), math.inf)
    if layer.p != math.inf:
        centre = dist(value, layer.weight, math.inf, *conv)
        near, far = y - (centre - near), y + (far - centre)
    return biased(layer, (y, near, far))


def _mean_shift(layer: MeanShift, box: Box) -> Box:
    """All three move by the mean of the value, so the mean is that of clean inputs."""
    shifted = layer(box[0])
    by = box[0] - shifted
    return shifted, box[1] - by, box[2] - by


def _through(layer: nn.Module, box: Box) -> Box:
    if isinstance(layer, (LinfDistLinear, LinfDistConv2d)):
        return _distance(layer, box)
    if isinstance(layer, MeanShift):
        return _mean_shift(layer, box)
    if isinstance(layer, SortDistLinear) and layer.training:
        raise TypeError("there are no boxes for SortDistLinear in training, where its inputs are dropped at random")
    return layer(box[0]), *interval(layer, box[1:])


def propagate(model: nn.Module, x: Tensor, eps: float) -> Box:
    """(value, lower, upper) of the model's outputs, in its training or evaluation mode, while x stays within eps and
    the pixel range; with gradient.

    Args:
        model: a ``Sequential`` of layers with a rule in ``intervals.INTERVALS``.
        x: (N, C, H, W), pixels in [0, 1].
        eps: ℓ∞ radius in the pixel range.

    In evaluation mode at p = ∞, lower ≤ model(x') ≤ upper for every pixel image x' with ‖x' − x‖∞ ≤ eps, up to the
    rounding of float32: intervals of each layer, which Gowal et al. (arXiv 1810.12715) train on.  Else a heuristic.

    Raises:
        TypeError: a layer has no rule.
    """
    box = (x, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    for layer in flat_layers(model):
        box = _through(layer, box)
    return box


def worst_margins(model: nn.Module, x: Tensor, labels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The logits, and upper bounds of z_j − z_y by ``propagate``, as far as that bounds: (N, classes) twice, the
    second 0 at the label."""
    logits, lower, upper = propagate(model, x, eps)
    label = labels.unsqueeze(1)
    return logits, (upper - lower.gather(1, label)).scatter(1, label, 0.0)
