"""Branch and bound over the pieces of a net: the nearest input of another class, and a proof that none is nearer."""

import heapq
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from .relaxation import Relaxation, Solution, rounded_down, rounded_up
from .steps import Interval, Maximum, Options, evaluate, outward

CLOSE = 1e-6  # nearer inputs are excluded up to this much below a known distance, as a part of it
TIGHT = 1e-6  # a relaxation that is off by less, as a part of a variable's interval, has found a point of the net
MARGINS = (0.0, 1e-9, 1e-7, 1e-6, 1e-5)  # of z_j − z_y, as parts of its interval: tried until a point is confirmed

Masks = tuple[np.ndarray | None, ...]  # for each step (out, options) bool: which options may attain the maximum


@dataclass(frozen=True)
class Question:
    """Which inputs within [low, high] have z_j ≥ z_label for a j ≠ label?

    steps: as ``steps.steps_of`` returns them.  point: (n,), from which distances are measured.
    """

    steps: list
    point: np.ndarray
    label: int
    low: float
    high: float

    def box(self, radius: float) -> Interval:
        """Returns the part of the ball within [low, high], rounded outward."""
        below, above = np.nextafter(self.point - radius, -math.inf), np.nextafter(self.point + radius, math.inf)
        return np.maximum(below, self.low), np.minimum(above, self.high)

    def changed(self, x: np.ndarray) -> bool:
        """Whether x has another class or a tie, in rational arithmetic."""
        logits = evaluate(self.steps, x)
        return any(z >= logits[self.label] for j, z in enumerate(logits) if j != self.label)

    def distance(self, x: np.ndarray) -> float:
        """Returns ‖x − point‖∞, rounded up."""
        return rounded_up(max(abs(Fraction(s) - Fraction(t)) for s, t in zip(x.tolist(), self.point.tolist())))


# Intervals of a part.  A part is all inputs of a box at which each maximum is attained by an option in its mask.


def open_masks(steps: list) -> Masks:
    """Returns masks with which every option may attain its maximum."""
    masks = []
    for step in steps:
        if isinstance(step, Maximum):
            half = np.ones(step.index.shape, bool)
            masks.append(np.hstack([half, half & step.both]))
        else:
            masks.append(None)
    return tuple(masks)


def masks_at(steps: list, x: np.ndarray) -> Masks:
    """Returns masks of the option that attains each maximum at x, as far as float64 can tell."""
    masks = []
    for step in steps:
        if isinstance(step, Maximum):
            values = step.options(x, x).values(x)
            best = values.argmax(1)
            x = values[np.arange(len(values)), best]
            masks.append(np.arange(values.shape[1]) == best[:, None])
        else:
            x = step.matrix @ x + step.offset
            masks.append(None)
    return tuple(masks)


def intervals(steps: list, box: Interval, masks: Masks) -> list[Interval] | None:
    """Returns the intervals of the input and after each step; None if the part is empty.

    Ends beyond float64 are NaN or infinite.
    """
    boxes = [box]
    for step, mask in zip(steps, masks):
        low, high = step.interval(*boxes[-1])
        if mask is not None:
            high = np.where(mask, step.options(*boxes[-1]).most, -np.inf).max(1)
            if (high < low).any():
                return None
        boxes.append((low, high))
    return boxes


# The relaxation of a part.


@dataclass(frozen=True)
class Choice:
    """A maximum in a relaxation: its step, neuron, variable, the options that may attain it, and the rows above it."""

    step: int
    neuron: int
    variable: int
    options: np.ndarray
    rows: tuple[int, ...]


@dataclass
class Part:
    """The linear program of a part, in which class ``other`` is above the label by at least ``margin``."""

    question: Question
    radius: float
    boxes: list[Interval]
    masks: Masks
    other: int
    margin: float = 0.0
    program: Relaxation = field(default_factory=Relaxation)
    choices: list[Choice] = field(default_factory=list)
    layers: list[np.ndarray] = field(default_factory=list)  # variables of the input and after each step

    def __post_init__(self):
        program, steps, label = self.program, self.question.steps, self.question.label
        (zero, r) = program.variables(np.zeros(2), np.array([0.0, self.radius])).tolist()
        self.distance = r
        values = program.variables(*self.boxes[0])
        self.layers.append(values)
        for i, value in zip(values.tolist(), self.question.point.tolist()):
            program.at_most([i, r], [1.0, -1.0], value)
            program.at_most([i, r], [-1.0, -1.0], -value)
        for s, (step, mask) in enumerate(zip(steps, self.masks)):
            y = program.variables(*self.boxes[s + 1])
            if mask is None:
                for k, (columns, coefficients, offset) in zip(y.tolist(), step.rows()):
                    program.equal([k, *values[columns].tolist()], [1.0, *(-coefficients).tolist()], float(offset))
            else:
                options, inputs = step.options(*self.boxes[s]), np.r_[zero, values]
                for k, (variable, least) in enumerate(zip(y.tolist(), self.boxes[s + 1][0].tolist())):
                    chosen, rows = _maximum(program, options, k, inputs[options.index[k]], variable, least, mask[k])
                    self.choices.append(Choice(s, k, variable, chosen, rows))
            self.layers.append(values := y)
        program.at_most([int(values[label]), int(values[self.other])], [1.0, -1.0], -self.margin)

    def solve(self, seconds: float) -> Solution | None:
        return self.program.solve(self.distance, seconds)

    def empty(self, seconds: float) -> bool:
        """Whether it is proved that the part is empty."""
        solution = self.program.solve(None, seconds)
        return solution is not None and solution.bound > 0

    def input(self, solution: Solution) -> np.ndarray:
        return solution.values[self.layers[0]].clip(self.question.low, self.question.high)

    def loosest(self, solution: Solution) -> tuple[Choice, np.ndarray, float] | None:
        """Returns the open choice whose relaxation seems to cost most, its best option at the solution, and a gap.

        The gap is the largest one between a maximum and its options at the solution, as a part of the maximum's
        interval.  Returns None if no choice is open.
        """
        best, largest = None, 0.0
        for choice in self.choices:
            if len(choice.options) == 1:
                continue
            options = self.question.steps[choice.step].options(*self.boxes[choice.step])
            values = solution.values[self.layers[choice.step]]
            t = np.r_[0.0, values][options.index[choice.neuron]] - options.weight[choice.neuron]
            at = np.r_[t, -t][choice.options]
            low, high = (end[choice.neuron] for end in self.boxes[choice.step + 1])
            gap = (solution.values[choice.variable] - at.max()) / (high - low) if high > low else 0.0
            largest = max(largest, gap)
            score = gap * sum(solution.duals[row] for row in choice.rows), gap
            if best is None or score > best[0]:
                best = score, choice, choice.options[[at.argmax()]]
        return None if best is None else (*best[1:], largest)


def _maximum(
    program: Relaxation, options: Options, k: int, columns: np.ndarray, y: int, low: float, mask: np.ndarray
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Adds the rows of y = max of options, which one of ``mask`` attains; y ≥ low.

    Below, y is at least each option.  Above, if one option is left, y is at most this option.  If several are left, for
    every c,

        y ≤ c + Σ_i (g_i(t_i) − c)⁺,   g_i: the larger one of t_i and −t_i, as far as they are left.

    Each term is convex in t_i, so it is at most its chord over the ends of t_i.

    Returns:
        The options that may attain the maximum, and the numbers of the rows above y.
    """
    weight, half = options.weight[k], len(columns)
    left = np.flatnonzero(mask & (options.most[k] >= low))
    for o in np.flatnonzero(options.exist[k] & (options.most[k] > low)).tolist():
        i, sign = o % half, 1.0 if o < half else -1.0
        program.at_most([int(columns[i]), y], [sign, -1.0], float(sign * weight[i]))
    if len(left) == 1:
        i, sign = int(left[0]) % half, 1.0 if left[0] < half else -1.0
        return left, (program.at_most([y, int(columns[i])], [1.0, -sign], float(-sign * weight[i])),)
    of = np.unique(left % half)
    weight, columns = weight[of], columns[of]
    ends = options.least[k, of], options.most[k, of]  # the ends of t
    above, below = np.where(np.isin(of, left), 0.0, -np.inf), np.where(np.isin(of + half, left), 0.0, -np.inf)
    g = [np.maximum(above + t, below - t) for t in ends]
    highest = np.sort(np.maximum(*g))
    rows = []
    for c in sorted({low, *np.maximum(highest[-3:-1], low).tolist()}):
        at = [np.maximum(a - c, 0.0) for a in g]
        width = ends[1] - ends[0]
        slope = np.divide(at[1] - at[0], width, out=np.zeros_like(width), where=width > 0)
        offset = np.maximum(*(a - slope * t for a, t in zip(at, ends))) - slope * weight
        size = abs(c) + (at[0] + at[1] + abs(slope) * (abs(ends[0]) + abs(ends[1]) + abs(weight))).sum()
        _, bound = outward(0.0, c + offset.sum(), size, len(of))
        used = np.flatnonzero(slope)
        rows.append(program.at_most([y, *columns[used].tolist()], [1.0, *(-slope[used]).tolist()], float(bound)))
    return left, tuple(rows)


def branch(masks: Masks, choice: Choice, first: np.ndarray) -> list[Masks]:
    """Returns two parts: in one ``first`` attains the maximum, in the other one of the other options does."""
    parts = []
    for chosen in (first, np.setdiff1d(choice.options, first)):
        mask = masks[choice.step].copy()
        mask[choice.neuron] = False
        mask[choice.neuron, chosen] = True
        parts.append(tuple(mask if s == choice.step else m for s, m in enumerate(masks)))
    return parts


# The search.


@dataclass
class Search:
    """The state of a search: the nearest point found, and its distance.

    enough: the search stops as soon as it has found a point that is at most so far away.
    """

    question: Question
    deadline: float
    enough: float = -math.inf
    nearest: np.ndarray | None = None
    distance: float = math.inf
    order: Iterator[int] = field(default_factory=itertools.count)  # orders parts with the same bound

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _hopeful(self, boxes: list[Interval]) -> list[int]:
        """Returns the classes that intervals do not exclude."""
        question = self.question
        excluded = question.steps[-1].differences(question.label, *boxes[-2])[1] < 0
        return [j for j in range(len(excluded)) if j != question.label and not excluded[j]]

    def excluded(self, radius: float) -> bool:
        """Whether intervals prove that no input in the box has another class."""
        steps = self.question.steps
        return not self._hopeful(intervals(steps, self.question.box(radius), open_masks(steps)))

    def clear(self, radius: float) -> tuple[float, str]:
        """Searches the box of this radius, best bound first, and shrinks it to just below each point that it finds.

        Returns:
            (proved, status).  No input that is nearer than ``proved`` has another class.  The status is "clear" if this
            is proved for the whole shrunk box with its boundary, "unsettled" if a part could be neither excluded nor
            settled by a point, "time limit", or "enough" if a point is near enough.
        """
        steps = self.question.steps
        unsettled, queue = math.inf, []
        self._push(queue, 0.0, None, open_masks(steps))
        while queue:
            radius = min(radius, self.distance * (1 - CLOSE))
            bound, _, other, masks = heapq.heappop(queue)
            if bound > radius:
                break
            if self.distance <= self.enough or self._left() <= 0:
                status = "enough" if self.distance <= self.enough else "time limit"
                return max(0.0, min(bound, unsettled, radius)), status
            boxes = intervals(steps, self.question.box(radius), masks)
            if boxes is None:
                continue
            hopeful = self._hopeful(boxes)
            if other is None:
                for j in hopeful:
                    self._push(queue, 0.0, j, masks)
                continue
            if other not in hopeful:
                continue
            bound, parts = self._bound(radius, bound, other, masks, boxes)
            if bound > radius:
                continue
            if not parts:
                unsettled = min(unsettled, bound)
            for part in parts:
                self._push(queue, bound, other, part)
        radius = min(radius, self.distance * (1 - CLOSE))
        return max(0.0, min(unsettled, radius)), "clear" if unsettled > radius else "unsettled"

    def _push(self, queue: list, bound: float, other: int | None, masks: Masks) -> None:
        heapq.heappush(queue, (bound, next(self.order), other, masks))

    def _bound(
        self, radius: float, bound: float, other: int, masks: Masks, boxes: list[Interval]
    ) -> tuple[float, list[Masks]]:
        """Returns a lower bound of distances in a part, at least ``bound``, and the parts to search instead."""
        part = solution = None
        if all(np.isfinite(end).all() for ends in boxes for end in ends):
            part = Part(self.question, radius, boxes, masks, other)
            solution = part.solve(self._left())
        if solution is None:
            return bound, _halves(masks)
        bound = max(bound, rounded_down(solution.bound))
        if bound > radius or (solution.left > 0 and part.empty(self._left())):
            return math.inf, []
        loosest = part.loosest(solution)
        tight = loosest is None or loosest[2] <= TIGHT
        if solution.left <= TIGHT and (tight or self.nearest is None):
            self._look(radius, other, masks if loosest is None else masks_at(self.question.steps, part.input(solution)))
        return bound, [] if loosest is None else branch(masks, *loosest[:2])

    def _look(self, radius: float, other: int, masks: Masks) -> None:
        """Looks for the nearest point in a piece of the net."""
        question = self.question
        boxes = intervals(question.steps, question.box(radius), masks)
        if boxes is None or not all(np.isfinite(end).all() for ends in boxes for end in ends):
            return
        least, most = question.steps[-1].differences(question.label, *boxes[-2])
        for margin in MARGINS:
            part = Part(question, radius, boxes, masks, other, margin * float(most[other] - least[other]))
            solution = part.solve(self._left())
            if solution is None or solution.left > TIGHT:
                return
            exact = part.input(solution)
            for x in (exact, exact.astype(np.float32).astype(float)):  # weights are float32, and so are many ties
                x = x.clip(question.low, question.high)
                if question.distance(x) < self.distance and question.changed(x):
                    self.nearest, self.distance = x, question.distance(x)
                    return


def _halves(masks: Masks) -> list[Masks]:
    """Splits a part without a bound by the options of its first open maximum.  Returns [] if no maximum is open."""
    for s, mask in enumerate(masks):
        if mask is None:
            continue
        several = np.flatnonzero(mask.sum(1) > 1)
        if len(several):
            options = np.flatnonzero(mask[several[0]])
            return branch(masks, Choice(s, int(several[0]), -1, options, ()), options[: len(options) // 2])
    return []
