"""The exact ℓ∞ radius of one input on a small net, as an interval with two proved ends."""

import math
import operator
import time
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from ...arguments import INTEGERS, check_model, check_not_negative, check_number, check_range, kind, unwrapped
from ...float32.program import check_sequence
from .search import Question, Search
from .steps import evaluate, numbers, steps_of

FIRST = 1 / 1024  # radius of the first box, as a part of the distance to the farthest input in range
SMALL_GROWTH, GROWTH = 1.25, 2.0  # by which the box grows: while intervals exclude every class, and later
GAP = 1e-5  # the largest upper − lower that counts as optimal, as a part of the same distance


@dataclass(frozen=True)
class ExactRadius:
    """Bounds of the exact radius, in units of x: lower ≤ the least ‖x′ − x‖∞ that changes or ties the class ≤ upper.

    Both ends are proved, for every status.

    Attributes:
        lower, upper: the ends.
        status: "optimal": the ends differ only by tolerances.
            "robust": no input in range changes or ties the class, and both ends are ∞.
            "decided": it is known on which side of ``decide`` the radius lies, and the search stopped.
            "time limit": the search was stopped.
            "unsettled": the solver failed, or what it found could be neither confirmed nor excluded.
        adversarial: an input at distance ``upper``, float64, of another class or tied; None if none was found.
    """

    lower: float
    upper: float
    status: str
    adversarial: Tensor | None


@torch.no_grad()
@np.errstate(over="ignore", invalid="ignore")  # nets that overflow are "unsettled"
def exact_radius(
    model: nn.Module,
    x: Tensor,
    label: int | None = None,
    *,
    low: float = 0.0,
    high: float = 1.0,
    time_limit: float = 60.0,
    decide: float | None = None,
) -> ExactRadius:
    """Returns the distance from x to the nearest input of another class, for nets of about 16-16-10.

    It is the least ‖x′ − x‖∞ with low ≤ x′ ≤ high and z_j(x′) ≥ z_y(x′) for some j ≠ y.

    Branch and bound (``search``) works within a box around x.  The box grows until it holds such an x′, and then
    shrinks to the nearest one.  The parts of a box differ in which option attains each maximum.  A part is excluded by
    intervals, rounded outward, or by a linear program.

    All of this is about the exact function of the model's weights, not about its evaluation in float32.
    ``upper`` is proved: the logits of ``adversarial`` are computed and compared in rational arithmetic.  ``lower``
    and "robust" are proved too, without trust in the solver: from HiGHS's answers to linear programs only the dual
    values are used, and what they prove is computed in integers (``relaxation``).  So a wrong answer costs time, or
    leaves the radius unsettled, but it never makes an end false.

    Args:
        model: a ``Sequential`` in evaluation mode, of layers with a rule in ``steps.STEPS``, with p = ∞.
        x: one input without the batch dimension, for example (C, H, W), within [low, high].
        label: y; by default the predicted class.  A misclassified or tied x has radius 0.
        low, high: the pixel range.
        time_limit: in seconds.  When it is reached, ``lower`` stays below ``upper``, and no exception is raised.
        decide: a distance ≥ 0.  The search stops as soon as it is proved that the radius is larger, lower > decide, or
            that it is not, upper ≤ decide.  This takes less time than the radius.

    Raises:
        TypeError: a layer has no exact steps, or has a forward of its own; x is not a floating-point tensor; label is
            not an integer.
        RuntimeError: a layer has forward hooks.
        ValueError: the model is in training mode, has a finite p or weights that are not finite; x does not fit the
            model or lies out of range; label is not a class; low ≥ high; time_limit is not positive; decide is negative
            or not finite.
    """
    check_number("time_limit", time_limit)
    if not 0 < time_limit:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    if decide is not None:
        check_not_negative("decide", decide)
    check_model(model)
    model = unwrapped(model)
    check_sequence(model)
    deadline = time.monotonic() + time_limit
    point = _checked_input(x, low, high)
    # x was compared in float32 with the float32 numbers nearest to low and high, so it may lie slightly beyond these.
    low, high = min(float(low), point.min()), max(float(high), point.max())
    steps = steps_of(model, tuple(x.shape))
    logits = evaluate(steps, point)
    label = _checked_label(logits, label)
    if any(z >= logits[label] for j, z in enumerate(logits) if j != label):
        return ExactRadius(0.0, 0.0, "optimal", x.detach().double().clone())

    search = Search(Question(steps, point, label, low, high), deadline, -math.inf if decide is None else decide)
    farthest = math.nextafter(float(np.maximum(point - low, high - point).max()), math.inf)
    last = farthest if decide is None else min(farthest, math.nextafter(decide, math.inf))  # radius of the last box
    lower, radius = 0.0, min(farthest * FIRST, last)
    while radius < last and search.excluded(radius):
        lower, radius = radius, min(SMALL_GROWTH * radius, last)
    while True:
        proved, status = search.clear(radius)
        lower = max(lower, proved)
        if search.nearest is not None or radius >= last or status == "time limit":
            break
        radius = min(GROWTH * radius, last)

    if search.nearest is None:
        if status == "clear" and radius >= farthest:
            return ExactRadius(math.inf, math.inf, "robust", None)
        return ExactRadius(lower, math.inf, "decided" if status == "clear" else status, None)
    if search.distance - lower <= GAP * farthest:
        status = "optimal"
    elif decide is not None and search.distance <= decide:
        status = "decided"
    adversarial = torch.from_numpy(search.nearest).reshape(x.shape).to(x.device)
    return ExactRadius(lower, search.distance, "unsettled" if status == "clear" else status, adversarial)


# Arguments.


def _checked_input(x: Tensor, low: float, high: float) -> np.ndarray:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor, got {kind(x)}")
    check_range(low, high)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low={low} must be below high={high}, both finite")
    if x.numel() == 0 or not ((low <= x) & (x <= high)).all():
        raise ValueError(f"x must hold at least one value, all within [{low:g}, {high:g}]")
    return numbers(x).ravel()


def _checked_label(logits: list[Fraction], label: int | None) -> int:
    if label is None:
        return max(range(len(logits)), key=logits.__getitem__)
    if isinstance(label, bool) or (isinstance(label, Tensor) and label.dtype not in INTEGERS):
        raise TypeError(f"label must be an integer, got {kind(label)}")
    try:
        label = operator.index(label)
    except TypeError:
        raise TypeError(f"label must be an integer, got {kind(label)}") from None
    if not 0 <= label < len(logits):
        raise ValueError(f"label must lie in [0, {len(logits) - 1}], got {label}")
    return label
