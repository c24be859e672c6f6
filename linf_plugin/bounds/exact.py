"""The exact ℓ∞ radius of one input on a small net, by mixed-integer linear programming (``piecewise``)."""

import math
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from .piecewise import TOLERANCE, Affine, Interval, Program, evaluate, interval, numbers, steps_of

FIRST = 1 / 1024  # radius of the first box, as a part of the farthest
GROWTH = 1.25  # of the box: a small one leaves few choices open, so several are cheaper than one
MARGINS = (1e-9, 1e-7, 1e-6, 1e-5)  # parts of the interval of z_j − z_y: asked for where a solution does not reach 0
GAP = 10 * TOLERANCE  # upper − lower of what counts as optimal, as a part of the farthest


@dataclass(frozen=True)
class ExactRadius:
    """lower ≤ the smallest ‖x′ − x‖∞ that changes or ties the class ≤ upper: the first according to HiGHS, the
    second proved.

    status: "optimal", every program was solved, and the two differ by tolerances alone;
    "robust", no input in range changes the class, and both are ∞: according to HiGHS too;
    "time limit", the search was stopped;
    "unsettled", HiGHS failed or contradicted itself, a point it found could not be confirmed, or the two differ by
    more than tolerances: ``lower`` is then what intervals prove.
    adversarial: float64, of another class or tied, at distance ``upper``; None where none was found.
    """

    lower: float
    upper: float
    status: str
    adversarial: Tensor | None


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # such programs are "unsettled"
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
    ``upper`` is proved: the logits of ``adversarial`` are computed and compared in rational arithmetic.  ``lower``
    and "robust" hold according to HiGHS, which computes in floating point and proves nothing to others: that a
    program which it calls infeasible is so, and that its dual bound holds, both less 1e-6 of the pixel range.  Rows
    may be off by 1e-6 of the intervals in them and binaries by 1e-6, which by itself only lets more points pass and
    so lowers the bound.  A box from which intervals exclude every class is proved without HiGHS, and where a
    confirmed point contradicts what HiGHS said of a smaller box, only that remains.

    Args:
        model: a ``Sequential`` in evaluation mode, of the layers in ``piecewise.LAYERS``, with p = ∞.
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
    steps = steps_of(model, tuple(x.shape))
    logits = evaluate(steps, point)
    label = _checked_label(logits, label)
    others = sorted((j for j in range(len(logits)) if j != label), key=lambda j: -logits[j])
    if logits[others[0]] >= logits[label]:
        return ExactRadius(0.0, 0.0, "optimal", x.detach().double().clone())
    questions = [[*steps[:-1], _difference(steps[-1], j, label)] for j in others]  # each: can this be ≥ 0?

    def changed(x: np.ndarray) -> bool:
        logits = evaluate(steps, x)
        return max(logits[j] for j in others) >= logits[label]

    farthest = float(np.maximum(point - low, high - point).max())
    proved, lower, radius, nearest = 0.0, 0.0, farthest * FIRST, None
    while True:
        bounds, statuses = [math.inf], set()
        for question in questions:
            box = _box(point, radius, low, high)
            if interval(question, *box)[1][0] < 0:
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                statuses.add("time limit")
                bounds.append(lower)
                continue
            program, ends = _program(question, point, radius, box)
            status, bound, solution = program.minimise(ends.radius, left)
            bounds.append(min(bound, radius) - TOLERANCE * farthest)
            if solution is not None:
                found = _confirmed(program, ends, solution, changed, low, high)
                if found is None:
                    status = "unsettled"
                elif nearest is None or _distance(point, found) < radius:
                    radius, nearest = _distance(point, found), found
            statuses.add(status)
        if nearest is not None and radius < lower:
            statuses.add("unsettled")  # HiGHS called a box empty that is not
        if len(bounds) == 1:
            proved = radius
        lower = max(lower, min(min(bounds), radius))
        if nearest is not None or radius >= farthest or "time limit" in statuses:
            break
        radius = min(GROWTH * radius, farthest)

    status = next((s for s in ("unsettled", "time limit") if s in statuses), "optimal")
    upper = math.inf if nearest is None else radius
    if status == "optimal":
        if nearest is None:
            return ExactRadius(math.inf, math.inf, "robust", None)
        if upper - lower > GAP * farthest:
            status = "unsettled"
    if status == "unsettled":
        lower = proved
    adversarial = None if nearest is None else torch.from_numpy(nearest).reshape(x.shape).to(x.device)
    return ExactRadius(lower, upper, status, adversarial)


def _difference(logits: Affine, j: int, y: int) -> Affine:
    """Logit j less logit y, with coefficients rounded to float64."""
    return Affine(logits.matrix[[j]] - logits.matrix[[y]], logits.offset[[j]] - logits.offset[[y]])


# The box, and points in it.


def _box(point: np.ndarray, radius: float, low: float, high: float) -> Interval:
    """The ball within [low, high], never too small."""
    below, above = np.nextafter(point - radius, -math.inf), np.nextafter(point + radius, math.inf)
    return np.maximum(below, low), np.minimum(above, high)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """‖a − b‖∞, rounded up."""
    exact = max(abs(Fraction(s) - Fraction(t)) for s, t in zip(a.tolist(), b.tolist()))
    return float(exact) if Fraction(float(exact)) >= exact else math.nextafter(float(exact), math.inf)


@dataclass(frozen=True)
class _Ends:
    """Where a program's radius, input and output stand among its variables; the width of the output's interval."""

    radius: int
    x: np.ndarray
    output: int
    width: float


def _program(steps: list, point: np.ndarray, radius: float, box: Interval) -> tuple[Program, _Ends]:
    """0 ≤ r ≤ radius, ‖x − point‖∞ ≤ r, x in the box, and the net's single output ≥ 0."""
    program = Program()
    r = program.variables([0.0], [radius])[0]
    x = variables = program.variables(*box)
    for i, value in zip(x, point):
        program.require([i, r], [1, -1], high=value)
        program.require([i, r], [1, 1], low=value)
    for step in steps:
        variables, box = step.encode(program, variables, *box)
    output = variables[0]
    program.low[output] = 0.0
    return program, _Ends(r, x, output, float(box[1][0] - box[0][0]))


def _confirmed(
    program: Program, ends: _Ends, solution: np.ndarray, changed: Callable[[np.ndarray], bool], low: float, high: float
) -> np.ndarray | None:
    """The solution's input where its class has changed, else the nearest that makes the same choices and passes the
    label by a small margin."""
    x = solution[ends.x].clip(low, high)
    if changed(x):
        return x
    program.fix(solution)
    for margin in MARGINS:
        program.low[ends.output] = margin * ends.width
        _, _, solution = program.minimise(ends.radius, math.inf)
        if solution is not None and changed(x := solution[ends.x].clip(low, high)):
            return x
    return None


# Arguments.


def _checked_input(x: Tensor, low: float, high: float) -> np.ndarray:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low={low} must be below high={high}, both finite")
    if x.numel() == 0 or not ((low <= x) & (x <= high)).all():
        raise ValueError(f"x must hold at least one value, all within [{low:g}, {high:g}]")
    return numbers(x).ravel()


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
