"""A net of distance layers at p = ∞, linear layers and ReLU as steps of two kinds: affine maps, and maxima.

Such a net is piecewise linear: once it is known which option attains each maximum, the rest is linear.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ...kernels import windows
from ...layers.distance import LinfDistConv2d, LinfDistLinear
from ...layers.lipschitz import flat_layers
from ...layers.shifts import MeanShift, Negate, Normalize

TINY = 1e-300  # more than underflow takes from a sum

Interval = tuple[np.ndarray, np.ndarray]


def outward(low: np.ndarray, high: np.ndarray, size: np.ndarray, terms: int = 1) -> Interval:
    """An interval computed in float64 from sums of so many products, wide enough for their rounding errors.
    size: the sum of their absolute values.  NaN where that is beyond float64."""
    error = (terms + 8) * 2.0**-50 * size + TINY
    return low - error, high + error


# Steps: what layers are made of.  Each has ``interval`` (outward) and ``evaluate`` (rational).


def interval(steps: list, low: np.ndarray, high: np.ndarray) -> Interval:
    for step in steps:
        low, high = step.interval(low, high)
    return low, high


def evaluate(steps: list, point: np.ndarray) -> list[Fraction]:
    values = [Fraction(v) for v in point.tolist()]
    for step in steps:
        values = step.evaluate(values)
    return values


@dataclass(frozen=True)
class Affine:
    """A·x + c."""

    matrix: sparse.csr_array
    offset: np.ndarray

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Columns, coefficients and offset of each output."""
        starts = self.matrix.indptr
        for a, b, c in zip(starts[:-1], starts[1:], self.offset):
            yield self.matrix.indices[a:b], self.matrix.data[a:b], c

    def interval(self, low, high):
        return _affine_interval(self.matrix, self.offset, low, high)

    def differences(self, label: int, low, high) -> Interval:
        """Of each output less that of the label."""
        chosen = np.full(len(self.offset), label)
        most = abs(self.matrix) + abs(self.matrix[chosen])
        size = most @ np.maximum(abs(low), abs(high)) + abs(self.offset) + abs(self.offset[label])
        matrix, offset = self.matrix - self.matrix[chosen], self.offset - self.offset[label]
        return _affine_interval(sparse.csr_array(matrix), offset, low, high, size)

    def evaluate(self, x):
        return [
            Fraction(float(c)) + sum(Fraction(float(a)) * x[i] for i, a in zip(columns, coefficients))
            for columns, coefficients, c in self.rows()
        ]


def _affine_interval(matrix: sparse.csr_array, offset: np.ndarray, low, high, size=None) -> Interval:
    up, down = matrix.maximum(0), matrix.minimum(0)
    if size is None:
        size = abs(matrix) @ np.maximum(abs(low), abs(high)) + abs(offset)
    return outward(up @ low + down @ high + offset, up @ high + down @ low + offset, size, matrix.shape[1] + 1)


@dataclass(frozen=True)
class Options:
    """What y_k is the maximum of: t_ki = x_{index[k,i]} − w_ki and −t_ki, side by side, as far as they ``exist``.

    index, weight: (out, in); index 0 is the constant 0, index i + 1 is x_i.
    least, most: (out, 2·in), the ends of each option over a box.
    exist: (out, 2·in) bool.
    """

    index: np.ndarray
    weight: np.ndarray
    least: np.ndarray
    most: np.ndarray
    exist: np.ndarray

    def values(self, x: np.ndarray) -> np.ndarray:
        """(out, 2·in), each option at x, in float64; −∞ for one that does not exist."""
        t = np.r_[0.0, x][self.index] - self.weight
        return np.where(self.exist, np.hstack([t, -t]), -np.inf)


@dataclass(frozen=True)
class Maximum:
    """y_k = max_i t_ki, t_ki = x_{index[k,i]} − w_ki, or of |t_ki| where ``both`` signs are options."""

    index: np.ndarray
    weight: np.ndarray
    both: bool = True

    def options(self, low, high) -> Options:
        low, high = np.r_[0.0, low][self.index], np.r_[0.0, high][self.index]
        size = np.maximum(abs(low), abs(high)) + abs(self.weight)
        low, high = outward(low - self.weight, high - self.weight, size)
        exist = np.ones((len(low), 2 * low.shape[1]), bool)
        if self.both:
            return Options(self.index, self.weight, np.hstack([low, -high]), np.hstack([high, -low]), exist)
        exist[:, low.shape[1] :] = False
        none = np.full_like(low, -np.inf)
        return Options(self.index, self.weight, np.hstack([low, none]), np.hstack([high, none]), exist)

    def interval(self, low, high):
        options = self.options(low, high)
        least = options.least.max(1)
        return np.maximum(least, 0) if self.both else least, options.most.max(1)

    def evaluate(self, x):
        x, size = [Fraction(0), *x], abs if self.both else lambda t: t
        return [
            max(size(x[i] - Fraction(w)) for i, w in zip(index, weight))
            for index, weight in zip(self.index.tolist(), self.weight.tolist())
        ]


# Layers as steps: (layer, shape of its input) → (steps, shape of its output), without the batch dimension.


def numbers(a: Tensor) -> np.ndarray:
    return a.detach().cpu().double().numpy()


def _per_channel(values, shape: tuple[int, ...]) -> np.ndarray:
    """One number a channel, or one for all, as one a coordinate: exact."""
    values = np.asarray(values, float)
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).ravel()


def _scaled(scale: float, offset: np.ndarray) -> Affine:
    return Affine(sparse.csr_array(scale * sparse.identity(len(offset), format="csr")), offset)


def _expect(layer: nn.Module, shape: tuple[int, ...], fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"x does not fit the model: {type(layer).__name__} takes {expected}, and gets {shape}")


def _normalize(layer, shape):
    """Two steps: −mean·scale would have to be rounded."""
    _expect(layer, shape, len(layer.mean) in (1, *shape[:1]), f"({len(layer.mean)}, *)")
    shift = _scaled(1.0, _per_channel(-numbers(layer.mean), shape))
    return [shift, _scaled(layer.scale, np.zeros(math.prod(shape)))], shape


def _mean_shift(layer, shape):
    _expect(layer, shape, shape[:1] == (layer.num_features,), f"({layer.num_features}, *)")
    return [_scaled(1.0, _per_channel(-numbers(layer.running_mean), shape))], shape


def _negate(layer, shape):
    return [_scaled(-1.0, np.zeros(math.prod(shape)))], shape


def _flatten(layer, shape):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(f"model: {layer} must flatten all but the batch dimension")
    return [], (math.prod(shape),)


def _relu(layer, shape):
    """max(x − 0, 0 − 0)."""
    n = math.prod(shape)
    return [Maximum(np.stack([np.arange(1, n + 1), np.zeros(n, int)], 1), np.zeros((n, 2)), both=False)], shape


def _linear(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    offset = np.zeros(layer.out_features) if layer.bias is None else numbers(layer.bias)
    return [Affine(sparse.csr_array(numbers(layer.weight)), offset)], (layer.out_features,)


def _distance_steps(layer, index: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]):
    """A distance and its bias; ``shape`` is of the output."""
    if layer.p != math.inf:
        raise ValueError(f"model: {type(layer).__name__} has p={layer.p:g}; only p = ∞ is piecewise linear")
    bias = [] if layer.bias is None else [_scaled(1.0, _per_channel(numbers(layer.bias), shape))]
    return [Maximum(index, weight), *bias], shape


def _dist(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    weight = numbers(layer.weight)
    index = np.broadcast_to(np.arange(1, layer.in_features + 1), weight.shape)
    return _distance_steps(layer, index, weight, (layer.out_features,))


def _dist_conv(layer, shape):
    """Each window's coordinates by number; 0 is padding."""
    _expect(layer, shape, len(shape) == 3 and shape[0] == layer.in_channels, f"({layer.in_channels}, H, W)")
    conv = layer.geometry
    w = numbers(layer.weight)
    out = windows.output_shape((1, *shape), w.shape, conv)[1:]
    _expect(layer, shape, min(out) > 0, "images no smaller than its kernel")
    number = torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).reshape(1, *shape)
    index = windows.unfold(number, w.shape, conv).numpy().astype(int)  # (groups, windows, in)
    index = np.repeat(index, len(w) // layer.groups, axis=0)
    weight = np.broadcast_to(w.reshape(len(w), 1, -1), index.shape)
    return _distance_steps(layer, index.reshape(-1, index.shape[2]), weight.reshape(-1, index.shape[2]), out)


LAYERS = {
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    MeanShift: _mean_shift,
    Normalize: _normalize,
    Negate: _negate,
    nn.Linear: _linear,
    nn.ReLU: _relu,
    nn.Flatten: _flatten,
    nn.Identity: lambda layer, shape: ([], shape),
}


def steps_of(model: nn.Module, shape: tuple[int, ...]) -> list:
    """The model as steps from a flat input to logits, the last affine.  Raises as ``exact_radius``."""
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() before")
    if not all(v.isfinite().all() for v in model.state_dict().values()):
        raise ValueError("model has weights that are not finite")
    steps = []
    for layer in flat_layers(model):
        if type(layer) not in LAYERS:
            known = ", ".join(kind.__name__ for kind in LAYERS)
            raise TypeError(f"model: {type(layer).__name__} cannot be encoded; these can: {known}")
        more, shape = LAYERS[type(layer)](layer, shape)
        steps += more
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"model must give (N, classes ≥ 2), gives {('N', *shape)}")
    return steps if steps and isinstance(steps[-1], Affine) else [*steps, _scaled(1.0, np.zeros(shape[0]))]
