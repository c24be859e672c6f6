"""Lipschitz bounds: how much a layer can enlarge a change of its input.  Each rule maps (layer, norm) to a bound.

L is a bound of a layer f in a norm if ‖f(x′) − f(x)‖ ≤ L·‖x′ − x‖, with the same norm on both sides.  All values of one
sample count as one vector.  A bound holds for the present mode of the layer, training or evaluation.
"""

import math

from torch import nn

from ..norms import SYMBOLS
from .base import Distance
from .shifts import Normalize
from .sort import SortDistLinear


def keeps(layer: nn.Module, norm: float) -> float:
    """Returns 1 in every norm.

    The layer only moves values to other places, shifts them, negates them, leaves some out, or applies a function whose
    slopes lie in [−1, 1].
    """
    return 1.0


def scales(layer: Normalize, norm: float) -> float:
    """Returns the scale of the layer, in every norm."""
    return layer.scale


def distance(layer: Distance, norm: float) -> float:
    """Returns 1 in ℓ∞ at p = ∞, and n^{1/p} at a finite p for n coordinates, because ‖t‖_p ≤ n^{1/p}·‖t‖_∞."""
    _only_linf(layer, norm, "a change of one input coordinate can change all outputs by the same amount")
    fan_in = math.prod(layer.weight.shape[1:])
    return 1.0 if layer.p == math.inf or fan_in == 0 else fan_in ** (1 / layer.p)


def sorted_sum(layer: SortDistLinear, norm: float) -> float:
    """Returns 1 in ℓ∞ in evaluation mode, for every p, and in training mode the bound of ``distance``.

    Evaluation: c descends, so y_k is the largest Σ_j c_j·|t_π(j)| over permutations π, and Σ c ≤ 1.  Training: the
    bound holds for each fixed subset of the inputs.
    """
    bound = distance(layer, norm)
    return bound if layer.training else 1.0


def linear(layer: nn.Linear, norm: float) -> float:
    """Returns the operator norm of the weight: the largest ℓ1 norm of a row in ℓ∞, of a column in ℓ1."""
    if norm == 2:
        raise TypeError(f"no ℓ2 Lipschitz bound is known for {type(layer).__name__}")
    axis = 1 if norm == math.inf else 0
    sums = layer.weight.detach().double().abs().sum(axis)
    return float(sums.max()) if sums.numel() else 0.0


def convolution(layer: nn.Conv2d, norm: float) -> float:
    """Returns the largest ℓ1 norm of a kernel, in ℓ∞: each output is a sum over one window, so a kernel is a row of the
    linear map."""
    _only_linf(layer, norm, "a pixel lies in several windows")
    return float(layer.weight.detach().double().abs().flatten(1).sum(1).max())


def batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, norm: float) -> float:
    """Returns the largest |scale| of a channel, in every norm, in evaluation mode."""
    if layer.training or layer.running_var is None:
        raise TypeError(f"no Lipschitz bound is known for {type(layer).__name__} that normalises by its batch")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    return float((scale if layer.weight is None else scale * layer.weight.detach().double().abs()).max())


def in_evaluation(layer: nn.Module, norm: float) -> float:
    """Returns 1 in every norm, in evaluation mode."""
    if layer.training:
        raise TypeError(f"no Lipschitz bound is known for {type(layer).__name__} in training mode")
    return 1.0


def _only_linf(layer: nn.Module, norm: float, reason: str) -> None:
    if norm != math.inf:
        raise TypeError(f"no {SYMBOLS[norm]} Lipschitz bound is known for {type(layer).__name__}: {reason}")
