"""A net of distance layers at p = ∞, linear layers and ReLU as steps, and the rows of a program that says the same.

Such a net is piecewise linear: which coordinate and which sign attain each maximum, and which ReLU are on, are binary
choices, and everything else is linear.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor, nn

from ..kernels import windows
from ..layers import LinfDistConv2d, LinfDistLinear, MeanShift, Negate, Normalize, flat_layers

TOLERANCE = 1e-6  # HiGHS's mip_feasibility_tolerance and mip_abs_gap, in units of each variable's interval
SMALL = 1e-9  # coefficients below it are 0 to HiGHS
ROUNDING = 1e-12  # relative, of a sum of up to 4,000 products in float64

Interval = tuple[np.ndarray, np.ndarray]


def _outward(low: np.ndarray, high: np.ndarray, size: np.ndarray) -> Interval:
    """An interval computed from numbers of that size, wide enough for its rounding errors."""
    return low - ROUNDING * size, high + ROUNDING * size


# A program under construction.


class Program:
    """Variables with bounds, and rows lo ≤ Σ coefficient·variable ≤ hi.  Variable 0 is the constant 0.

    HiGHS's tolerances are absolute, so it is given each variable as a part of its interval (of at least 1e-6 of
    its value: what it may be off by is then never below ``ROUNDING``), and each row with a largest coefficient of 1.
    Each row is widened by what is rounded and left out in that.
    """

    def __init__(self):
        self.low, self.high, self.integer = [0.0], [0.0], [False]
        self.columns, self.coefficients, self.starts = [], [], [0]
        self.row_low, self.row_high = [], []

    def variables(self, low, high, integer: bool = False) -> np.ndarray:
        """New ones with these bounds; their numbers."""
        first = len(self.low)
        self.low += list(low)
        self.high += list(high)
        self.integer += [integer] * (len(self.low) - first)
        return np.arange(first, len(self.low))

    def require(self, columns, coefficients, low: float = -math.inf, high: float = math.inf) -> None:
        self.columns += list(columns)
        self.coefficients += list(coefficients)
        self.starts.append(len(self.columns))
        self.row_low.append(low)
        self.row_high.append(high)

    def fix(self, solution: np.ndarray) -> None:
        """Turns each integer variable into the constant that it has in the solution."""
        for i in np.flatnonzero(self.integer):
            self.low[i] = self.high[i] = float(round(solution[i]))
            self.integer[i] = False

    def minimise(self, variable: int, seconds: float) -> tuple[str, float, np.ndarray | None]:
        """(status, lower bound, solution or None) according to HiGHS.  Status is "optimal", "time limit" or
        "unsettled", and a program without a solution is "optimal" with bound ∞.

        HiGHS 1.12 calls a few programs with binaries infeasible, or a solution optimal, wrongly: some with presolve,
        some without.  So it is asked both ways, and where the answers differ the program is "unsettled".
        """
        deadline = time.monotonic() + seconds
        scaled = self._scaled(variable)
        if scaled is None:
            return "unsettled", -math.inf, None
        arguments, middle, scale = scaled
        statuses, bounds, solutions = set(), [], []
        for presolve in (False, True) if any(self.integer) else (False,):
            left = max(deadline - time.monotonic(), 0.0)
            status, bound, solution = _solve(arguments, left, presolve)
            statuses.add(status)
            bounds.append(bound)
            solutions += [] if solution is None else [middle + scale * solution]
        status = next(s for s in ("unsettled", "time limit", "optimal") if s in statuses)
        if status == "optimal" and min(bounds) < max(bounds) - 10 * TOLERANCE:
            status = "unsettled"
        solution = min(solutions, key=lambda values: values[variable], default=None)
        return status, float(middle[variable] + scale[variable] * min(bounds)), solution

    @np.errstate(over="ignore", invalid="ignore")
    def _scaled(self, variable: int) -> tuple[dict, np.ndarray, np.ndarray] | None:
        """Arguments of ``milp``, and what turns its solution t into middle + scale·t; None beyond float64."""
        low, high, integer = np.array(self.low), np.array(self.high), np.array(self.integer)
        middle = np.where(integer, 0.0, low / 2 + high / 2)
        scale = np.where(integer, 1.0, np.maximum(high / 2 - low / 2, TOLERANCE * abs(middle)))
        scale[scale == 0] = 1.0  # of what is always 0
        # SciPy 1.11 takes 32-bit indices only.
        columns, starts = np.array(self.columns, np.int32), np.array(self.starts, np.int32)
        coefficients, row_low, row_high = np.array(self.coefficients), np.array(self.row_low), np.array(self.row_high)
        products = coefficients * middle[columns]
        shift, size = np.add.reduceat(products, starts[:-1]), np.add.reduceat(abs(products), starts[:-1])
        coefficients = coefficients * scale[columns]
        largest = np.maximum.reduceat(abs(coefficients), starts[:-1])
        largest[largest == 0] = 1.0
        coefficients = coefficients / np.repeat(largest, np.diff(starts))
        bounds = (low - middle) / scale, (high - middle) / scale
        small = abs(coefficients) < SMALL
        room = ROUNDING * size / largest + np.add.reduceat(
            np.where(small, abs(coefficients) * np.maximum(*map(abs, bounds))[columns], 0.0), starts[:-1]
        )
        coefficients[small] = 0.0
        ends = (row_low - shift) / largest - room, (row_high - shift) / largest + room
        if not np.isfinite([*coefficients, *bounds[0], *bounds[1]]).all() or np.isnan(ends).any():
            return None
        cost = np.zeros(len(low))
        cost[variable] = 1
        rows = sparse.csr_array((coefficients, columns, starts), shape=(len(starts) - 1, len(low)))
        arguments = {
            "c": cost, "integrality": integer.astype(int), "bounds": Bounds(*bounds),
            "constraints": LinearConstraint(rows, *ends),
        }
        return arguments, middle, scale


def _solve(arguments: dict, seconds: float, presolve: bool) -> tuple[str, float, np.ndarray | None]:
    """(status, lower bound, solution or None), as in ``Program.minimise``."""
    result = milp(**arguments, options={"time_limit": seconds, "mip_rel_gap": 0.0, "presolve": presolve})
    if result.status == 2 and "infeasible" in result.message:  # a malformed program has status 2 as well
        return "optimal", math.inf, None
    bound = result.mip_dual_bound
    if result.status == 0 and not arguments["integrality"].any():
        bound = result.fun
    if result.status not in (0, 1) or bound is None or math.isnan(bound):
        bound = -math.inf
    return {0: "optimal", 1: "time limit"}.get(result.status, "unsettled"), bound, result.x


# Steps: what layers are made of.  Each has ``interval`` (outward), ``encode`` and ``evaluate`` (rational).


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
        up, down = self.matrix.maximum(0), self.matrix.minimum(0)
        size = abs(self.matrix) @ np.maximum(abs(low), abs(high)) + abs(self.offset)
        return _outward(up @ low + down @ high + self.offset, up @ high + down @ low + self.offset, size)

    def encode(self, program, x, low, high):
        box = self.interval(low, high)
        y = program.variables(*box)
        for k, (columns, coefficients, c) in zip(y, self.rows()):
            program.require([k, *x[columns]], [1, *-coefficients], c, c)
        return y, box

    def evaluate(self, x):
        return [
            Fraction(float(c)) + sum(Fraction(float(a)) * x[i] for i, a in zip(columns, coefficients))
            for columns, coefficients, c in self.rows()
        ]


@dataclass(frozen=True)
class Relu:
    def interval(self, low, high):
        return np.maximum(low, 0), np.maximum(high, 0)

    def encode(self, program, x, low, high):
        """y ≥ 0, y ≥ x, and with b = 1 where it is on: y ≤ x − l(1 − b), y ≤ u·b."""
        box = self.interval(low, high)
        y = program.variables(*box)
        for k, i, l, u in zip(y, x, low, high):
            if u <= 0:
                continue  # its bounds make it 0
            program.require([k, i], [1, -1], 0.0, 0.0 if l >= 0 else math.inf)
            if l < 0:
                (b,) = program.variables([0.0], [1.0], integer=True)
                program.require([k, i, b], [1, -1, -l], high=-l)
                program.require([k, b], [1, -u], high=0.0)
        return y, box

    def evaluate(self, x):
        return [max(v, Fraction(0)) for v in x]


@dataclass(frozen=True)
class Distance:
    """y_k = max_i |x_{index[k,i]} − w_ki|, both (out, in); index 0 is the constant 0, index i + 1 is x_i."""

    index: np.ndarray
    weight: np.ndarray

    def _options(self, low, high) -> tuple[np.ndarray, Interval]:
        """Ends of x − w and w − x, side by side: (out, 2·in) each."""
        low, high = np.r_[0.0, low][self.index], np.r_[0.0, high][self.index]
        size = np.maximum(abs(low), abs(high)) + abs(self.weight)
        low, high = _outward(low - self.weight, high - self.weight, size)
        return np.hstack([low, -high]), np.hstack([high, -low])

    def interval(self, low, high):
        least, most = self._options(low, high)
        return np.maximum(least.max(1), 0), most.max(1)

    def encode(self, program, x, low, high):
        """y ≥ each option, and y ≤ the chosen one: Σ b = 1, y ≤ option + (max y − min option)·(1 − b).
        A single option needs no b."""
        box = self.interval(low, high)
        least, most = self._options(low, high)
        y = program.variables(*box)
        x = np.r_[0, x]
        half = self.index.shape[1]
        for k in range(len(y)):
            attained = np.flatnonzero(most[k] >= box[0][k])
            chosen = [None]
            if len(attained) > 1:
                chosen = program.variables(np.zeros(len(attained)), np.ones(len(attained)), integer=True)
                program.require(chosen, np.ones(len(attained)), 1, 1)
            for o, b in zip(attained, chosen):
                i, sign = o % half, 1.0 if o < half else -1.0
                shift = -sign * self.weight[k, i]
                column = x[self.index[k, i]]
                if b is None:
                    program.require([y[k], column], [1, -sign], shift, shift)
                    continue
                room = box[1][k] - least[k, o]
                program.require([y[k], column], [1, -sign], low=shift)
                program.require([y[k], column, b], [1, -sign, room], high=shift + room)
        return y, box

    def evaluate(self, x):
        x = [Fraction(0), *x]
        return [
            max(abs(x[i] - Fraction(w)) for i, w in zip(index, weight))
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
    _expect(layer, shape, len(layer.mean) in (1, *shape[:1]), f"({len(layer.mean)}, *)")
    return [_scaled(layer.scale, _per_channel(-numbers(layer.mean) * layer.scale, shape))], shape


def _mean_shift(layer, shape):
    _expect(layer, shape, shape[:1] == (layer.num_features,), f"({layer.num_features}, *)")
    return [_scaled(1.0, _per_channel(-numbers(layer.running_mean), shape))], shape


def _negate(layer, shape):
    return [_scaled(-1.0, np.zeros(math.prod(shape)))], shape


def _flatten(layer, shape):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(f"model: {layer} must flatten all but the batch dimension")
    return [], (math.prod(shape),)


def _linear(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    offset = np.zeros(layer.out_features) if layer.bias is None else numbers(layer.bias)
    return [Affine(sparse.csr_array(numbers(layer.weight)), offset)], (layer.out_features,)


def _distance_steps(layer, index: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]):
    """A distance and its bias; ``shape`` is of the output."""
    if layer.p != math.inf:
        raise ValueError(f"model: {type(layer).__name__} has p={layer.p:g}; only p = ∞ is piecewise linear")
    bias = [] if layer.bias is None else [_scaled(1.0, _per_channel(numbers(layer.bias), shape))]
    return [Distance(index, weight), *bias], shape


def _dist(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    weight = numbers(layer.weight)
    index = np.broadcast_to(np.arange(1, layer.in_features + 1), weight.shape)
    return _distance_steps(layer, index, weight, (layer.out_features,))


def _dist_conv(layer, shape):
    """Each window's coordinates by number; 0 is padding."""
    _expect(layer, shape, len(shape) == 3 and shape[0] == layer.in_channels, f"({layer.in_channels}, H, W)")
    conv = (layer.stride, layer.padding, layer.dilation, layer.groups)
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
    nn.ReLU: lambda layer, shape: ([Relu()], shape),
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
