"""Sends boxes through a net in training: if the input stays in a box, in which box does each layer's output stay?

At p = ∞, with the means fixed at those of the batch, the ends are interval bounds.  At finite p they are a heuristic.
An ℓp layer moves its outputs farther than it will at p = ∞.  So its ends are its value, moved as far as the distance
at p = ∞ can move.
"""

import math

import torch
from torch import Tensor, nn

from ..intervals import biased, distances, interval
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.lipschitz import flat_layers
from ..layers.shifts import MeanShift
from ..layers.sort import SortDistLinear

Box = tuple[Tensor, Tensor, Tensor]  # a value, and the lower and the upper end between which it stays


def _distance(layer: LinfDistLinear | LinfDistConv2d, box: Box) -> Box:
    """Returns the interval ends at p = ∞; at finite p, the value moved as far as the value at p = ∞ can move."""
    value, lower, upper = box
    conv = () if isinstance(layer, LinfDistLinear) else layer.geometry
    dist = torch.ops.linf.dist_conv2d if conv else torch.ops.linf.dist
    y = dist(value, layer.weight, layer.p, *conv)
    near, far = distances(layer, (lower, upper), math.inf)
    if layer.p != math.inf:
        centre = dist(value, layer.weight, math.inf, *conv)
        near, far = y - (centre - near), y + (far - centre)
    return biased(layer, (y, near, far))


def _mean_shift(layer: MeanShift, box: Box) -> Box:
    """Subtracts the mean of the values from all three tensors, so that the mean is that of clean inputs."""
    shifted = layer(box[0])
    by = box[0] - shifted
    return shifted, box[1] - by, box[2] - by


def _through(layer: nn.Module, box: Box) -> Box:
    if isinstance(layer, (LinfDistLinear, LinfDistConv2d)):
        return _distance(layer, box)
    if isinstance(layer, MeanShift):
        return _mean_shift(layer, box)
    if isinstance(layer, SortDistLinear) and layer.training:
        raise TypeError("there is no rule for SortDistLinear in training mode: its inputs are dropped at random")
    return layer(box[0]), *interval(layer, box[1:])


def propagate(model: nn.Module, x: Tensor, eps: float) -> Box:
    """Returns (value, lower, upper) of the model's outputs while x stays within eps and within the pixel range.

    All three have a gradient.  In evaluation mode at p = ∞, lower ≤ model(x') ≤ upper for every image x' with pixels in
    [0, 1] and ‖x' − x‖∞ ≤ eps, up to the rounding of float32.  These are the intervals of each layer, on which Gowal et
    al. (arXiv 1810.12715) train.  In training mode or at finite p, lower and upper are a heuristic.

    Args:
        model: a ``Sequential`` of layers with a rule in ``intervals.INTERVALS``, in training or evaluation mode.
        x: (N, C, H, W), pixels in [0, 1].
        eps: ℓ∞ radius in the pixel range.

    Raises:
        TypeError: a layer has no rule.
    """
    box = (x, (x - eps).clamp_min(0), (x + eps).clamp_max(1))
    for layer in flat_layers(model):
        box = _through(layer, box)
    return box


def worst_margins(model: nn.Module, x: Tensor, labels: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Returns the logits and upper bounds of z_j − z_y, both (N, classes).  The bounds are 0 at the label.

    They follow from ``propagate`` and are bounds or a heuristic in the same cases.
    """
    logits, lower, upper = propagate(model, x, eps)
    label = labels.unsqueeze(1)
    return logits, (upper - lower.gather(1, label)).scatter(1, label, 0.0)
