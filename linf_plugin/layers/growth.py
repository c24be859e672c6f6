"""Lipschitz bounds: how much a layer can enlarge a change of its input.  Each rule maps (layer, norm) to a bound.

L is a bound of a layer f in a norm if ‖f(x′) − f(x)‖ ≤ L·‖x′ − x‖, with the same norm on both sides.  All values of one
sample count as one vector.  A bound holds for the present mode of the layer, training or evaluation.
"""

import math

from torch import Tensor, nn

from ..norms import SYMBOLS
from ..spectral.bounding import bound
from ..spectral.geometry import BOUNDED_PADDINGS, Convolution
from ..spectral.structured import diagonal_circulant_bound
from .base import Distance
from .gershgorin import squared_norm
from .noise import DRAWS
from .potential import Potential, PotentialConv2d
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
    """Returns the operator norm of the weight: the largest ℓ1 norm of a row in ℓ∞, of a column in ℓ1.

    In ℓ2 it is a certified upper bound of the spectral norm.
    """
    if norm == 2:
        return bound(layer.weight).value if layer.weight.numel() else 0.0
    axis = 1 if norm == math.inf else 0
    sums = layer.weight.detach().double().abs().sum(axis)
    return float(sums.max()) if sums.numel() else 0.0


def convolution(layer: nn.Conv2d, norm: float) -> float:
    """Returns the largest ℓ1 norm of a kernel, in ℓ∞: each output is a sum over one window, so a kernel is a row of the
    linear map.  In ℓ2 it is a certified upper bound of the spectral norm, for images of every size."""
    if norm != 2:
        _only_linf(layer, norm, "a pixel lies in several windows")
        return float(layer.weight.detach().double().abs().flatten(1).sum(1).max())
    if layer.padding_mode not in BOUNDED_PADDINGS:
        raise _unknown(layer, norm, f"of padding_mode={layer.padding_mode!r}")
    found = bound(layer).value
    if layer.groups == 1 and layer.padding_mode == "zeros":  # strides and dilations only leave terms out
        found = min(found, _root_above(squared_norm(layer.weight.transpose(0, 1), found**2)))
    return found


def _root_above(square: float) -> float:
    return math.nextafter(math.sqrt(square), math.inf) if square else 0.0


def potential(layer: Potential, norm: float) -> float:
    """Returns max(1, s − 1) in ℓ2, with a certified upper bound s of ‖W‖₂², for images of every size (``Potential``).

    In ℓ∞ and ℓ1 it returns 1 + ‖|Wᵀ|·|W|‖: |(I − WᵀJW)_ij| ≤ I_ij + (|Wᵀ|·|W|)_ij for every diagonal J in [0, 1].  This
    matrix is symmetric, so both norms are the same.  For a convolution its rows add up absolute sums over the taps of
    kernels.  This bound is loose.
    """
    if norm == 2:
        square = square_above(layer)
        return 1.0 if square <= 2 else math.nextafter(square - 1, math.inf)
    sizes = layer.weight.detach().double().abs()
    sizes = sizes if sizes.dim() == 2 else sizes.flatten(2).sum(2)
    return 1 + float((sizes.t() @ sizes.sum(1)).max())


def square_above(layer: Potential) -> float:
    """Returns a certified upper bound of ‖W‖₂²: the first of two that is at most 2, or else the lower one."""
    square = squared_norm(layer.weight, 2.0)
    if square <= 2:
        return square
    value = bound(inner_map(layer)).value
    return min(square, math.nextafter(value * value, math.inf))


def inner_map(layer: Potential) -> Tensor | Convolution:
    """Returns the linear map W of a layer x − Wᵀ·relu(W·x + b)."""
    convolved = isinstance(layer, PotentialConv2d)
    return Convolution(layer.weight, padding=layer.padding) if convolved else layer.weight


def excess(layer: Potential | nn.Linear | nn.Conv2d) -> float:
    """Returns the factor by which the weight must be divided for a certified ℓ2 bound of 1; below 1 it may grow."""
    if isinstance(layer, Potential):
        return math.sqrt(square_above(layer) / 2)
    return convolution(layer, 2.0) if isinstance(layer, nn.Conv2d) else linear(layer, 2.0)


def one_in_l2(layer: nn.Module, norm: float) -> float:
    """Returns 1 in ℓ2, in exact arithmetic: the layer computes its weights so that this holds."""
    if norm != 2:
        raise _unknown(layer, norm, "it is made for ℓ2, and is replaced after training (linf_plugin.materialise)")
    return 1.0


def diagonal_circulant(layer: nn.Module, norm: float) -> float:
    """Returns max |d|·‖C‖ in exact arithmetic, rounded up: ‖C‖ is max |FFT(c)| in ℓ2, and ‖c‖₁ in ℓ∞ and ℓ1.

    A normalised layer is divided by this number of ℓ2, so its bound is 1 there.
    """
    if layer.normalized:
        return one_in_l2(layer, norm)
    return diagonal_circulant_bound(layer.diagonal, layer.column, norm)


def normalized_rows(layer: nn.Module, norm: float) -> float:
    """Returns the operator norm of the rows that are used, as ``linear``."""
    return linear(layer.plain(), norm)


def pool(layer: nn.Module, norm: float) -> float:
    """Returns size/divisor in ℓ2, size²/divisor in ℓ∞ and 1/divisor in ℓ1: norms of a row of size² equal numbers."""
    return {2.0: layer.size, math.inf: layer.size**2, 1.0: 1.0}[norm] / layer.divisor


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


def random(layer: nn.Module, norm: float) -> float:
    """Raises TypeError: two calls at one input differ, so no bound holds."""
    raise _unknown(layer, norm, DRAWS)


def _only_linf(layer: nn.Module, norm: float, reason: str) -> None:
    if norm != math.inf:
        raise _unknown(layer, norm, reason)


def _unknown(layer: nn.Module, norm: float, reason: str) -> TypeError:
    return TypeError(f"no {SYMBOLS[norm]} Lipschitz bound is known for {type(layer).__name__}: {reason}")
