"""By how much a layer can enlarge a change of its input: one rule a kind of layer, (layer, norm) → Lipschitz bound.

A bound L of a layer f in a norm: ‖f(x′) − f(x)‖ ≤ L·‖x′ − x‖, the same norm on both sides, where all values of one
sample are one vector.  The layer is in the mode in which it is.
"""

import math

from torch import nn

from ..norms import SYMBOLS
from .base import Distance
from .shifts import Normalize
from .sort import SortDistLinear


def keeps(layer: nn.Module, norm: float) -> float:
    """1 in every norm: each value is moved to another place, shifted, negated, or goes through a function whose
    slopes lie in [−1, 1]; some are left out."""
    return 1.0


def scales(layer: Normalize, norm: float) -> float:
    """The scale, in every norm."""
    return layer.scale


def distance(layer: Distance, norm: float) -> float:
    """1 in ℓ∞ at p = ∞.  A finite p allows n^{1/p} for n coordinates: ‖t‖_p ≤ n^{1/p}·‖t‖_∞."""
    _only_linf(layer, norm, "one coordinate of the input can move all outputs by as much as it moves itself")
    fan_in = math.prod(layer.weight.shape[1:])
    return 1.0 if layer.p == math.inf or fan_in == 0 else fan_in ** (1 / layer.p)


def sorted_sum(layer: SortDistLinear, norm: float) -> float:
    """1 in ℓ∞ in evaluation mode, whatever p is: c descends, so y_k is the largest Σ_j c_j·|t_π(j)| over permutations
    π, and Σ c ≤ 1.  In training mode, for any one subset of the inputs, as ``distance``."""
    bound = distance(layer, norm)
    return bound if layer.training else 1.0


def linear(layer: nn.Linear, norm: float) -> float:
    """The operator norm of the weight: the largest ℓ1 norm of a row in ℓ∞, of a column in ℓ1."""
    if norm == 2:
        raise TypeError(f"no ℓ2 Lipschitz bound is known for {type(layer).__name__}")
    axis = 1 if norm == math.inf else 0
    sums = layer.weight.detach().double().abs().sum(axis)
    return float(sums.max()) if sums.numel() else 0.0


def convolution(layer: nn.Conv2d, norm: float) -> float:
    """The largest ℓ1 norm of a kernel, in ℓ∞: each output is a sum over one window, which is a row of the map."""
    _only_linf(layer, norm, "a pixel is in several windows")
    return float(layer.weight.detach().double().abs().flatten(1).sum(1).max())


def _only_linf(layer: nn.Module, norm: float, reason: str) -> None:
    if norm != math.inf:
        raise TypeError(f"no {SYMBOLS[norm]} Lipschitz bound is known for {type(layer).__name__}: {reason}")
