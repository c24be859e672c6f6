"""How much layers without weights stretch in ℓ2, so that the bounds of a chain of layers can be multiplied."""

import math

from torch import nn

from ..refusal import Refusal, rule_of
from .outward import up


def keeps(layer: nn.Module) -> float:
    """Returns 1: the layer moves values, leaves some out, or applies a function with slopes in [−1, 1] to each."""
    return 1.0


def evaluated(layer: nn.Module) -> float:
    """Returns 1 in evaluation mode.  Raises TypeError in training mode."""
    if layer.training:
        raise TypeError(f"{type(layer).__name__} is in training mode")
    return 1.0


def leaky(layer: nn.LeakyReLU) -> float:
    """Returns the largest slope."""
    return max(1.0, abs(layer.negative_slope))


def exponential(layer: nn.ELU) -> float:
    """Returns the largest slope."""
    return max(1.0, abs(layer.alpha))


def average(layer: nn.AvgPool2d) -> float:
    """Returns √(w·c)/divisor for windows of w pixels, where a pixel lies in at most c windows.

    By Schur's test ‖A‖₂² is at most the largest absolute row sum, w/divisor, times the largest column sum, c/divisor.
    """
    windows, kernel = _overlap(layer)
    varies = (layer.ceil_mode or not layer.count_include_pad) and layer.divisor_override is None
    if varies and (layer.ceil_mode or _pair(layer.padding) != (0, 0)):
        raise TypeError("AvgPool2d divides by the number of pixels that a window has, which varies")
    return up(math.sqrt(kernel * windows) / (layer.divisor_override or kernel), 2)


def maximum(layer: nn.MaxPool2d) -> float:
    """Returns √c, where a pixel lies in at most c windows: a maximum changes by at most the change of its window."""
    if _pair(layer.dilation) != (1, 1) or layer.return_indices:
        raise TypeError("MaxPool2d has dilated windows or returns indices")
    windows, _ = _overlap(layer)
    return 1.0 if windows == 1 else up(math.sqrt(windows), 1)


def _overlap(layer: nn.Module) -> tuple[int, int]:
    """Returns in how many windows a pixel can lie, ⌈k/s⌉ in each axis, and how many pixels a window has."""
    kernel, stride = _pair(layer.kernel_size), _pair(layer.stride)
    return math.prod(-(-k // s) for k, s in zip(kernel, stride)), math.prod(kernel)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


FOLD = Refusal("fold it into the layer before it, by linf_plugin.fold_batch_norm")
STRETCHES = {  # layer type → layer → its Lipschitz constant in ℓ2; TypeError if it has none that holds
    nn.Identity: keeps,
    nn.Flatten: keeps,
    nn.Unflatten: keeps,
    nn.ReLU: keeps,
    nn.ReLU6: keeps,
    nn.Tanh: keeps,
    nn.Hardtanh: keeps,
    nn.Sigmoid: keeps,
    nn.LeakyReLU: leaky,
    nn.ELU: exponential,
    nn.Dropout: evaluated,
    nn.Dropout2d: evaluated,
    nn.AvgPool2d: average,
    nn.MaxPool2d: maximum,
    nn.BatchNorm1d: FOLD,
    nn.BatchNorm2d: FOLD,
}


def stretch(layer: nn.Module) -> float:
    """Returns a Lipschitz constant of a layer without weights, in ℓ2.

    Raises:
        TypeError: none is known; the message says why.
    """
    return rule_of(STRETCHES, layer, "ℓ2 Lipschitz constant")(layer)
