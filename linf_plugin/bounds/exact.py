"""The exact ℓ∞ radius of one input on a small net, by mixed-integer linear programming.

A net of distance layers at p = ∞, linear layers and ReLU is piecewise linear: which coordinate and which sign
attain each maximum, and which ReLU are on, are binary choices, and everything else is linear.
"""

import math
import operator
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
from ..layers import LinfDistConv2d, LinfDistLinear, MeanShift, Negate, Normalize

TOLERANCE = 1e-6  # HiGHS's mip_feasibility_tolerance and mip_abs_gap
ROUNDING = 1e-12  # relative, of a sum of up to 4,000 products in float64
FIRST = 1 / 1024  # radius of the first box, as a part of the farthest
GROWTH = 1.25  # of the box: a small one leaves few choices open, so several are cheaper than one
MARGINS = (1e-9, 1e-7, 1e-6, 1e-5)  # by which a point is asked to pass the label, where the solver's own does not

Interval = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ExactRadius:
    """lower ≤ the smallest ‖x′ − x‖∞ that changes or ties the class ≤ upper.

    status: "optimal", every program was solved, and the two differ by tolerances alone;
    "robust", no input in range changes the class, and both are ∞;
    "time limit", the search was stopped; "unsettled", HiGHS failed, or a point it found could not be confirmed.
    adversarial: float64, of another class or tied, at distance ``upper``; None where none was found.
    """

    lower: float
    upper: float
    status: str
    adversarial: Tensor | None


@torch.no_grad()
def exact_radius(
    model: nn.Module, x: Tensor, label: int | None = None, *,
    low: float = 0.0, high: float = 1.0, time_limit: float = 60.0,
) -> ExactRadius:
    """The distance from x to the nearest input of another class: the least ‖x′ − x‖∞ with low ≤ x′ ≤ high and
    z_j(x′) ≥ z_y(x′) for some j ≠ y.  For nets of about 16-16-10.

    One program a class j, within a box around x that grows until it holds such an x′, and then shrinks to the
    nearest one found.  The box decides which choices are open: an option that attains its maximum nowhere in
    the box is left out, and the constants of the others ("big M") are the least that intervals allow.

    All of this is about the exact function of the model's weights, not about its evaluation in float32.
    ``upper`` is proved: ``adversarial`` is evaluated in rational arithmetic.  ``lower`` trusts HiGHS, which
    computes in floating point and takes coefficients below 1e-9 for 0: that a program which it calls infeasible
    is so, and that its dual bound holds, both less 1e-6.  The rows and binaries of a solution may be off by 1e-6,
    which lets more points pass and so only lowers the bound.  Boxes from which intervals exclude every class are
    proved without HiGHS.

    Args:
        model: a ``Sequential`` in evaluation mode, of the layers in ``LAYERS``, with p = ∞.
        x: one input without the batch dimension, for example (C, H, W), within [low, high].
        label: y; the predicted class where not given.  A misclassified or tied x has radius 0.
        low, high: the pixel range.
        time_limit: seconds.  Where it is reached ``lower`` stays below ``upper``; no exception.

    Raises:
        TypeError: a layer cannot be encoded, x is not a floating-point tensor, label is not an integer.
        ValueError: the model is in training mode, has a finite p or weights that are not finite; x does not fit
            it or lies out of range; label is not a class; low ≥ high; time_limit is not positive.
    """
    if not 0 < time_limit:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    deadline = time.monotonic() + time_limit
    point = _checked_input(x, low, high)
    steps = _steps(model, tuple(x.shape))
    logits = _evaluate(steps, point)
    label = _checked_label(logits, label)
    others = sorted((j for j in range(len(logits)) if j != label), key=lambda j: -logits[j])
    if logits[others[0]] >= logits[label]:
        return ExactRadius(0.0, 0.0, "optimal", x.detach().double().clone())
    questions = [[*steps[:-1], steps[-1].difference(j, label)] for j in others]  # each: can this be ≥ 0?

    farthest = float(np.maximum(point - low, high - point).max())
    lower, radius, nearest = 0.0, farthest * FIRST, None
    while True:
        bounds, statuses = [math.inf], set()
        for question in questions:
            box = _box(point, radius, low, high)
            if _interval(question, *box)[1][0] < 0:
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                statuses.add("time limit")
                bounds.append(lower)
                continue
            program, ends = _program(question, point, lower, radius, box)
            status, bound, solution = program.minimise(ends.radius, left)
            bounds.append(min(bound, radius) - TOLERANCE)
            if solution is not None:
                found = _confirmed(program, ends, solution, question, point, low, high)
                if found is None:
                    status = "unsettled"
                elif nearest is None or _distance(point, found) < radius:
                    radius, nearest = _distance(point, found), found
            statuses.add(status)
        lower = max(lower, min(min(bounds), radius))
        if nearest is not None or radius >= farthest or "time limit" in statuses:
            break
        radius = min(GROWTH * radius, farthest)

    status = next((s for s in ("unsettled", "time limit") if s in statuses), "optimal")
    if nearest is not None:
        return ExactRadius(lower, radius, status, torch.from_numpy(nearest).reshape(x.shape).to(x.device))
    if status == "optimal":
        return ExactRadius(math.inf, math.inf, "robust", None)
    return ExactRadius(lower, math.inf, status, None)


# The box, and points in it.


def _box(point: np.ndarray, radius: float, low: float, high: float) -> Interval:
    """The ball within [low, high], never too small."""
    below, above = np.nextafter(point - radius, -math.inf), np.nextafter(point + radius, math.inf)
    return np.maximum(below, low), np.minimum(above, high)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """‖a − b‖∞, rounded up."""
    exact = max(abs(Fraction(s) - Fraction(t)) for s, t in zip(a.tolist(), b.tolist()))
    return float(exact) if Fraction(float(exact)) >= exact else math.nextafter(float(exact), math.inf)


def _outward(low: np.ndarray, high: np.ndarray, size: np.ndarray) -> Interval:
    """An interval computed from numbers of that size, wide enough for its rounding errors."""
    return low - ROUNDING * size, high + ROUNDING * size


# A program under construction.


class _Program:
    """Variables with bounds, and rows lo ≤ Σ coefficient·variable ≤ hi.  Variable 0 is the constant 0."""

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
        """(status, lower bound, solution or None).  Status is one of ``ExactRadius``, and a program without a
        solution is "optimal" with bound ∞."""
        cost = np.zeros(len(self.low))
        cost[variable] = 1
        # SciPy 1.11 takes 32-bit indices only.
        columns, starts = np.array(self.columns, np.int32), np.array(self.starts, np.int32)
        rows = sparse.csr_array((self.coefficients, columns, starts), shape=(len(starts) - 1, len(self.low)))
        result = milp(
            cost, integrality=np.array(self.integer, int), bounds=Bounds(self.low, self.high),
            constraints=LinearConstraint(rows, self.row_low, self.row_high),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if result.status == 2 and "infeasible" in result.message:  # a malformed program has status 2 as well
            return "optimal", math.inf, None
        bound = result.mip_dual_bound
        if result.status == 0 and not any(self.integer):
            bound = result.fun
        if result.status not in (0, 1) or bound is None or math.isnan(bound):
            bound = -math.inf
        return {0: "optimal", 1: "time limit"}.get(result.status, "unsettled"), bound, result.x


@dataclass(frozen=True)
class _Ends:
    """Where a program's radius, input and output stand among its variables."""

    radius: int
    x: np.ndarray
    output: int


def _program(steps: list, point: np.ndarray, lower: float, radius: float, box: Interval) -> tuple[_Program, _Ends]:
    """lower ≤ r ≤ radius, ‖x − point‖∞ ≤ r, x in the box, and the net's single output ≥ 0."""
    program = _Program()
    r = program.variables([lower], [radius])[0]
    x = variables = program.variables(*box)
    for i, value in zip(x, point):
        program.require([i, r], [1, -1], high=value)
        program.require([i, r], [1, 1], low=value)
    for step in steps:
        variables, box = step.encode(program, variables, *box)
    output = variables[0]
    program.low[output] = 0.0
    return program, _Ends(r, x, output)


def _confirmed(
    program: _Program, ends: _Ends, solution: np.ndarray, question: list, point: np.ndarray,
    low: float, high: float,
) -> np.ndarray | None:
    """The solution's input where rational arithmetic says that it reaches the class, else one close to it that
    does: the nearest that makes the same choices and passes the label by a small margin, or one slightly further
    out."""

    def reaches(x: np.ndarray) -> bool:
        return _evaluate(question, x)[0] >= 0

    x = solution[ends.x].clip(low, high)
    if reaches(x):
        return x
    program.fix(solution)
    for margin in MARGINS:
        program.low[ends.output] = margin
        _, _, solution = program.minimise(ends.radius, math.inf)
        if solution is not None and reaches(moved := solution[ends.x].clip(low, high)):
            return moved
    for margin in MARGINS:
        if reaches(moved := (x + margin * np.sign(x - point)).clip(low, high)):
            return moved
    return None


# Steps: what layers are made of.  Each has ``interval`` (outward), ``encode`` and ``evaluate`` (rational).


def _interval(steps: list, low: np.ndarray, high: np.ndarray) -> Interval:
    for step in steps:
        low, high = step.interval(low, high)
    return low, high


def _evaluate(steps: list, point: np.ndarray) -> list[Fraction]:
    values = [Fraction(v) for v in point.tolist()]
    for step in steps:
        values = step.evaluate(values)
    return values


@dataclass(frozen=True)
class _Affine:
    """A·x + c."""

    matrix: sparse.csr_array
    offset: np.ndarray

    def difference(self, j: int, y: int) -> "_Affine":
        """Output j less output y."""
        return _Affine(self.matrix[[j]] - self.matrix[[y]], self.offset[[j]] - self.offset[[y]])

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
class _Relu:
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
class _Distance:
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
        """y ≥ each option, and y ≤ the chosen one: Σ b = 1, y ≤ option + (max y − min option)·(1 − b)."""
        box = self.interval(low, high)
        least, most = self._options(low, high)
        y = program.variables(*box)
        x = np.r_[0, x]
        half = self.index.shape[1]
        for k in range(len(y)):
            attained = np.flatnonzero(most[k] >= box[0][k])
            chosen = program.variables(np.zeros(len(attained)), np.ones(len(attained)), integer=True)
            program.require(chosen, np.ones(len(attained)), 1, 1)
            for o, b in zip(attained, chosen):
                i, sign = o % half, 1.0 if o < half else -1.0
                room = box[1][k] - least[k, o]
                shift = -sign * self.weight[k, i]
                column = x[self.index[k, i]]
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


def _numbers(a: Tensor) -> np.ndarray:
    return a.detach().cpu().double().numpy()


def _per_channel(values, shape: tuple[int, ...]) -> np.ndarray:
    """One number a channel, or one for all, as one a coordinate: exact."""
    values = np.asarray(values, float)
    return np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape).ravel()


def _scaled(scale: float, offset: np.ndarray) -> _Affine:
    return _Affine(sparse.csr_array(scale * sparse.identity(len(offset), format="csr")), offset)


def _expect(layer: nn.Module, shape: tuple[int, ...], fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"x does not fit the model: {type(layer).__name__} takes {expected}, and gets {shape}")


def _normalize(layer, shape):
    _expect(layer, shape, len(layer.mean) in (1, *shape[:1]), f"({len(layer.mean)}, *)")
    return [_scaled(layer.scale, _per_channel(-_numbers(layer.mean) * layer.scale, shape))], shape


def _mean_shift(layer, shape):
    _expect(layer, shape, shape[:1] == (layer.num_features,), f"({layer.num_features}, *)")
    return [_scaled(1.0, _per_channel(-_numbers(layer.running_mean), shape))], shape


def _negate(layer, shape):
    return [_scaled(-1.0, np.zeros(math.prod(shape)))], shape


def _flatten(layer, shape):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(f"model: {layer} must flatten all but the batch dimension")
    return [], (math.prod(shape),)


def _linear(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    offset = np.zeros(layer.out_features) if layer.bias is None else _numbers(layer.bias)
    return [_Affine(sparse.csr_array(_numbers(layer.weight)), offset)], (layer.out_features,)


def _distance_steps(layer, index: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]):
    """A distance and its bias; ``shape`` is of the output."""
    if layer.p != math.inf:
        raise ValueError(f"model: {type(layer).__name__} has p={layer.p:g}; only p = ∞ is piecewise linear")
    bias = [] if layer.bias is None else [_scaled(1.0, _per_channel(_numbers(layer.bias), shape))]
    return [_Distance(index, weight), *bias], shape


def _dist(layer, shape):
    _expect(layer, shape, shape == (layer.in_features,), f"({layer.in_features},)")
    weight = _numbers(layer.weight)
    index = np.broadcast_to(np.arange(1, layer.in_features + 1), weight.shape)
    return _distance_steps(layer, index, weight, (layer.out_features,))


def _dist_conv(layer, shape):
    """Each window's coordinates by number; 0 is padding."""
    _expect(layer, shape, len(shape) == 3 and shape[0] == layer.in_channels, f"({layer.in_channels}, H, W)")
    conv = (layer.stride, layer.padding, layer.dilation, layer.groups)
    w = _numbers(layer.weight)
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
    nn.ReLU: lambda layer, shape: ([_Relu()], shape),
    nn.Flatten: _flatten,
    nn.Identity: lambda layer, shape: ([], shape),
}


def _steps(model: nn.Module, shape: tuple[int, ...]) -> list:
    """The model as steps from a flat input to logits, the last affine.  Raises as ``exact_radius``."""
    if any(m.training for m in model.modules()):
        raise ValueError("model is in training mode: call model.eval() before")
    if not all(v.isfinite().all() for v in model.state_dict().values()):
        raise ValueError("model has weights that are not finite")
    steps = []
    for layer in _flat(model):
        if type(layer) not in LAYERS:
            known = ", ".join(kind.__name__ for kind in LAYERS)
            raise TypeError(f"model: {type(layer).__name__} cannot be encoded; these can: {known}")
        more, shape = LAYERS[type(layer)](layer, shape)
        steps += more
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(f"model must give (N, classes ≥ 2), gives {('N', *shape)}")
    return steps if steps and isinstance(steps[-1], _Affine) else [*steps, _scaled(1.0, np.zeros(shape[0]))]


def _flat(model: nn.Module) -> list[nn.Module]:
    return [m for part in model for m in _flat(part)] if isinstance(model, nn.Sequential) else [model]


def _checked_input(x: Tensor, low: float, high: float) -> np.ndarray:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low={low} must be below high={high}, both finite")
    if x.numel() == 0 or not ((low <= x) & (x <= high)).all():
        raise ValueError(f"x must hold at least one value, all within [{low:g}, {high:g}]")
    return _numbers(x).ravel()


def _checked_label(logits: list[Fraction], label: int | None) -> int:
    if label is None:
        return max(range(len(logits)), key=logits.__getitem__)
    try:
        label = operator.index(label)
    except TypeError:
        raise TypeError(f"label must be an integer, got {type(label).__name__}") from None
    if not 0 <= label < len(logits):
        raise ValueError(f"label must lie in [0, {len(logits) - 1}], got {label}")
    return label
