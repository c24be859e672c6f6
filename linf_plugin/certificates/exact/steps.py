"""A net of distance layers at p = ∞, linear layers and ReLU as steps of two kinds: affine maps and maxima.

Such a net is piecewise linear: if it is known which option attains each maximum, the rest is linear.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from ...kernels import windows
from ...kernels.geometry import Geometry
from ...layers.activations import MaxMin, ParamRamp
from ...layers.distance import LinfDistConv2d, LinfDistLinear
from ...layers.facts import RANDOM, TRAINED
from ...layers.lipschitz import flat_layers
from ...layers.noise import DRAWS
from ...layers.potential import PotentialConv2d, PotentialLinear
from ...layers.reparametrised import MATERIALISE
from ...layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ...layers.sort import SortDistLinear
from ...models.folded import ADVICE
from ...refusal import Refusal, rule_of

TINY = 1e-300  # more than underflow can take from a sum

Interval = tuple[np.ndarray, np.ndarray]


def outward(low: np.ndarray, high: np.ndarray, size: np.ndarray, terms: int = 1) -> Interval:
    """Returns an interval whose ends were computed in float64, widened by their rounding errors.

    low, high: sums of ``terms`` products.  size: the sum of the absolute values of these products.  Ends beyond float64
    are NaN or infinite.
    """
    error = (terms + 8) * 2.0**-50 * size + TINY
    return low - error, high + error


# Steps: the parts of layers.  Each has ``interval``, rounded outward, and ``evaluate``, in rational arithmetic.


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
    """The map A·x + c."""

    matrix: sparse.csr_array
    offset: np.ndarray

    def rows(self) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
        """Yields the columns, the coefficients and the offset of each output."""
        starts = self.matrix.indptr
        for a, b, c in zip(starts[:-1], starts[1:], self.offset):
            yield self.matrix.indices[a:b], self.matrix.data[a:b], c

    def interval(self, low, high):
        return _affine_interval(self.matrix, self.offset, low, high)

    def differences(self, label: int, low, high) -> Interval:
        """Returns the interval of each output minus the label's output."""
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
    """The options whose maximum is y_k: t_ki = x_{index[k,i]} − w_ki and −t_ki, side by side, if they ``exist``.

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
        """Returns (out, 2·in), each option at x, in float64; −∞ for an option that does not exist."""
        t = np.r_[0.0, x][self.index] - self.weight
        return np.where(self.exist, np.hstack([t, -t]), -np.inf)


@dataclass(frozen=True)
class Maximum:
    """The map y_k = max_i t_ki, t_ki = x_{index[k,i]} − w_ki; or y_k = max_i |t_ki| if ``both`` signs are options."""

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
    """Returns one number for each coordinate, from one for each channel or one for all.  Nothing is rounded."""
    values = np.asarray(values, float)
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).ravel()


def _scaled(scale: float, offset: np.ndarray) -> Affine:
    return Affine(sparse.csr_array(scale * sparse.identity(len(offset), format="csr")), offset)


def _expect(layer: nn.Module, shape: tuple[int, ...], fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"x does not fit the model: {type(layer).__name__} takes {expected}, but gets {shape}")


def _normalize(layer, shape):
    """There are two steps, because −mean·scale would have to be rounded."""
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


def _not_below(ends: np.ndarray) -> Maximum:
    """Returns the step max(x − 0, 0 − (−end)), with one end for each coordinate."""
    n = len(ends)
    index, weight = np.stack([np.arange(1, n + 1), np.zeros(n, int)], 1), np.stack([np.zeros(n), -ends], 1)
    return Maximum(index, weight, both=False)


def _relu(layer, shape):
    return [_not_below(np.zeros(math.prod(shape)))], shape


def _ramp(layer, shape):
    """min(y, r) is −max(−y, −r)."""
    _expect(layer, shape, shape[:1] == (layer.num_features,), f"({layer.num_features}, *)")
    turn, top = _scaled(-1.0, np.zeros(math.prod(shape))), _per_channel(numbers(layer.top), shape)
    return [*_relu(layer, shape)[0], turn, _not_below(-top), turn], shape


def _max_min(layer, shape):
    """The maxima of pairs in x, and of pairs in −x; the latter are turned around again."""
    _expect(layer, shape, shape[0] % 2 == 0, "(C, *) with an even C")
    n, pixels = math.prod(shape), math.prod(shape[1:])
    same = sparse.identity(n, format="csr")
    pairs = np.arange(1, n + 1).reshape(-1, 2, pixels)  # (pairs, number of the pair, pixels)
    index = np.stack([pairs, pairs + n], 1).swapaxes(2, 3).reshape(n, 2)  # larger, smaller
    signs = np.broadcast_to(np.array([1.0, -1.0]).reshape(1, 2, 1), pairs.shape).ravel()
    return [
        Affine(sparse.csr_array(sparse.vstack([same, -same])), np.zeros(2 * n)),
        Maximum(index, np.zeros((n, 2)), both=False),
        Affine(sparse.csr_array(sparse.diags(signs)), np.zeros(n)),
    ], shape


def _linear(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    offset = np.zeros(layer.out_features) if layer.bias is None else numbers(layer.bias)
    return [Affine(sparse.csr_array(numbers(layer.weight)), offset)], (layer.out_features,)


def _crop(layer, shape):
    """The step selects the coordinates that stay, by their numbers."""
    _expect(layer, shape, len(shape) == 3 and min(shape[1:]) >= layer.size, f"images of {layer.size} pixels or more")
    number = torch.arange(math.prod(shape)).reshape(1, *shape)
    kept = layer(number)[0]
    columns, rows = kept.flatten().numpy(), np.arange(kept.numel())
    matrix = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(rows), math.prod(shape)))
    return [Affine(matrix, np.zeros(len(rows)))], tuple(kept.shape)


def _window_coordinates(layer, shape, w: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Returns which coordinate of the input each coordinate of a window is, and the shape of the output.

    The coordinates are (groups, windows, in): i + 1 for x_i, and 0 for padding.
    """
    _expect(layer, shape, len(shape) == 3 and shape[0] == layer.in_channels, f"({layer.in_channels}, H, W)")
    conv = Geometry(layer.stride, layer.padding, layer.dilation, layer.groups)
    out = conv.output_shape((1, *shape), w.shape)[1:]
    _expect(layer, shape, min(out) > 0, "images no smaller than its kernel")
    number = torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).reshape(1, *shape)
    return windows.unfold(number, w.shape, conv).numpy().astype(int), out


def _conv(layer, shape):
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"model: {layer} must have padding_mode='zeros' and padding in numbers")
    w = numbers(layer.weight)
    index, out = _window_coordinates(layer, shape, w)
    index = np.repeat(index, len(w) // layer.groups, axis=0)  # (out channels, windows, in)
    values = np.broadcast_to(w.reshape(len(w), 1, -1), index.shape)
    inside = index > 0
    rows = np.broadcast_to(np.arange(math.prod(out)).reshape(*index.shape[:2], 1), index.shape)
    entries = (values[inside], (rows[inside], index[inside] - 1))
    matrix = sparse.csr_array(entries, shape=(math.prod(out), math.prod(shape)))
    offset = np.zeros(math.prod(out)) if layer.bias is None else _per_channel(numbers(layer.bias), out)
    return [Affine(matrix, offset)], out


def _potential(layer, shape):
    """x is relu(x) − relu(−x), so a residual layer is a chain: relu of x, −x and W·x + b, and combinations of these."""
    into, _ = layer.branch()
    (branch,), _ = (_conv if isinstance(layer, PotentialConv2d) else _linear)(into, shape)
    n, inner = math.prod(shape), branch.matrix.shape[0]
    same, w = sparse.identity(n, format="csr"), branch.matrix
    return [
        Affine(sparse.csr_array(sparse.vstack([same, -same, w])), np.concatenate([np.zeros(2 * n), branch.offset])),
        _not_below(np.zeros(2 * n + inner)),
        Affine(sparse.csr_array(sparse.hstack([same, -same, -w.T])), np.zeros(n)),
    ], shape


def _distance_steps(layer, index: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]):
    """Returns the steps of a distance and its bias, and ``shape``, which is that of the output."""
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
    w = numbers(layer.weight)
    index, out = _window_coordinates(layer, shape, w)
    index = np.repeat(index, len(w) // layer.groups, axis=0)
    weight = np.broadcast_to(w.reshape(len(w), 1, -1), index.shape)
    return _distance_steps(layer, index.reshape(-1, index.shape[2]), weight.reshape(-1, index.shape[2]), out)


STEPS: dict[type[nn.Module], Callable | Refusal] = {
    Normalize: _normalize,
    CenterCrop: _crop,
    nn.Flatten: _flatten,
    nn.Identity: lambda layer, shape: ([], shape),
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    SortDistLinear: Refusal("a sum of sorted distances is no maximum of affine functions of one coordinate"),
    MeanShift: _mean_shift,
    Negate: _negate,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.ReLU: _relu,
    nn.Tanh: Refusal("it is not piecewise linear"),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Refusal(f"its scale is no float32 number: {ADVICE}")),
    ParamRamp: _ramp,
    MaxMin: _max_min,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def steps_of(model: nn.Module, shape: tuple[int, ...]) -> list:
    """Returns the model as steps from a flat input to logits; the last step is affine.  Raises as ``exact_radius``."""
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() first")
    if not all(v.isfinite().all() for v in model.state_dict().values()):
        raise ValueError("model has weights that are not finite")
    steps = []
    for layer in flat_layers(model):
        more, shape = rule_of(STEPS, layer, "encoding as exact steps")(layer, shape)
        steps += more
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"model must give (N, classes ≥ 2), but gives {('N', *shape)}")
    return steps if steps and isinstance(steps[-1], Affine) else [*steps, _scaled(1.0, np.zeros(shape[0]))]
