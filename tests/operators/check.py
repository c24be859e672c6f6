"""Bounds of one graph by every method and in every mode, compared with what it computes of points in its boxes."""

import contextlib
import math
import os
from dataclasses import dataclass, field
from unittest import mock

import torch
from torch import Tensor

from linf_plugin.bounds import compute, guard, reading, refused

from .draw import Case

# That which leaves most behind where it fails comes last.
METHODS = ("IBP", "CROWN-IBP", "CROWN", "Forward", "Forward+Backward", "CROWN-Optimized")
ITERATIONS = 3  # of an optimisation: enough to move every weight
TOLERANCE = 1e-7  # of the largest number in play; bounds are in float64, where auto_LiRPA adds up to 1e-8 by itself
STEPS = (1.0, 0.5, 0.25)  # of an ascent, in half widths of the box
NODE_POINTS = 100  # that every node is looked at, to find the first whose bounds are wrong

HOLDS, WRONG, UNKNOWN, ERROR = "holds", "wrong", "not a number", "error"  # wrong: or of another shape
MISREAD, REFUSED, CROSSED = "read as another function", "refused", "crossed"


@dataclass
class Finding:
    """What one method did with one graph in one mode: auto_LiRPA alone, and behind the guard."""

    method: str
    mode: str
    alone: str = ERROR  # HOLDS, WRONG, UNKNOWN or ERROR
    amount: float = 0.0  # by which a bound is wrong
    node: str = ""  # class of the first node whose bounds are wrong, where that is known
    guarded: str = ""  # the same of ``compute_bounds`` of this package; or MISREAD, REFUSED, CROSSED
    lets_through: bool = False  # whether BoundedModule itself returns what it does alone: nets with our operators
    error: str = ""
    reason: str = ""  # of a refusal
    classes: list[str] = field(default_factory=list)  # of perturbed nodes

    @property
    def violation(self) -> bool:
        """Whether a wrong bound is let through.

        What is not a number says nothing, and only ``compute_bounds`` promises numbers.
        """
        return self.guarded in (WRONG, UNKNOWN) or (self.lets_through and self.alone == WRONG)


@torch.no_grad()
def points(case: Case, count: int) -> tuple[list[Tensor], Tensor]:
    """(count, 2, *) of each input, and the graph's outputs (count, 2, outputs): random points, corners, and what
    gradient steps on a random output from random starts visit."""
    starts = count // 8
    drawn = [_drawn(x, box, count - starts * (len(STEPS) + 1)) for x, box in zip(case.inputs, case.boxes)]
    at = [_drawn(x, box, starts) for x, box in zip(case.inputs, case.boxes)]
    visited = [[a] for a in at]
    direction = torch.randn(starts, *_run(case, at).shape[1:])
    single = torch.rand(direction.shape[:2]).unsqueeze(2) < 0.7
    one = torch.zeros_like(direction).scatter_(2, direction.argmax(2, keepdim=True), 1.0)
    direction = torch.where(single, one * direction.sum(2, keepdim=True).sign(), direction)
    for step in STEPS:
        at = [
            a
            if box is None or grad is None
            else (a + step / 2 * grad.nan_to_num(0.0).sign() * (box[1] - box[0])).clamp(*box)
            for a, grad, box in zip(at, _gradients(case, at, direction), case.boxes)
        ]
        for seen, a in zip(visited, at):
            seen.append(a)
    whole = [torch.cat([d, *seen]) for d, seen in zip(drawn, visited)]
    return whole, _run(case, whole)


def _drawn(x: Tensor, box, count: int) -> Tensor:
    """x itself, corners and random points."""
    if box is None:
        return x.expand(count, *x.shape)
    t = torch.rand(count, *x.shape)
    t[::2] = t[::2].round()
    a = box[0] + t * (box[1] - box[0])
    a[:1] = x
    return a


def _run(case: Case, at: list[Tensor]) -> Tensor:
    return case.graph(*(a.flatten(0, 1) for a in at)).unflatten(0, at[0].shape[:2])


@torch.enable_grad()
def _gradients(case: Case, at: list[Tensor], direction: Tensor) -> list[Tensor | None]:
    leaves = [a.detach().requires_grad_() for a in at]
    try:
        return list(torch.autograd.grad((direction * _run(case, leaves)).sum(), leaves, allow_unused=True))
    except RuntimeError:  # torch has no derivative of it, or the output depends on no input
        return [None] * len(leaves)


def wrong_by(lower: Tensor | None, upper: Tensor | None, y: Tensor) -> float:
    """How far the least or the largest y (count, 2, *) is outside, beyond rounding; NaN where a bound is, ∞ where it
    has another shape."""
    least, most = y.amin(0), y.amax(0)
    if any(a.numel() != least.numel() for a in (lower, upper)):
        return math.inf
    tolerance = TOLERANCE * (1 + max(least.abs().max().item(), most.abs().max().item()))
    amount = (
        torch.stack(
            [(lower.detach().reshape(least.shape) - least).max(), (most - upper.detach().reshape(most.shape)).max()]
        )
        .max()
        .item()
    )
    return amount if math.isnan(amount) or amount > tolerance else 0.0


def _verdict(amount: float) -> str:
    return UNKNOWN if math.isnan(amount) else WRONG if amount > 0 else HOLDS


@contextlib.contextmanager
def _quiet():
    """auto_LiRPA prints, and its own progress bars."""
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        yield


@contextlib.contextmanager
def without_guard():
    """auto_LiRPA as ``mended`` mends it, and nothing of it refused."""
    with contextlib.ExitStack() as during:
        for module in (guard, compute):
            for name in ("check_reading", "check_operators"):
                during.enter_context(mock.patch.object(module, name, lambda *_, **__: None))
        yield


class _Bounds:
    """One graph in one mode."""

    def __init__(self, case: Case, mode: str):
        from auto_LiRPA import BoundedModule

        self.case = case
        options = {"optimize_bound_args": {"iteration": ITERATIONS}, "conv_mode": mode, **case.options}
        traced = tuple(x[: case.traced] for x in case.inputs)
        with _quiet(), without_guard():
            try:
                self.bounded = BoundedModule(case.graph, traced if len(traced) > 1 else traced[0], bound_opts=options)
            finally:
                case.graph.eval()  # auto_LiRPA trains nets with dropout

    def inputs(self) -> tuple[Tensor, ...]:
        from auto_LiRPA import BoundedTensor, PerturbationLpNorm

        return tuple(
            x if box is None else BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=box[0], x_U=box[1]))
            for x, box in zip(self.case.inputs, self.case.boxes)
        )

    def alone(self, method: str, y: Tensor) -> float:
        with _quiet(), without_guard():
            return wrong_by(*self.bounded.compute_bounds(x=self.inputs(), C=self.case.C, method=method)[:2], y)

    def guarded(self, method: str, y: Tensor) -> float:
        with _quiet():
            return wrong_by(*compute.compute_bounds(self.bounded, self.inputs(), self.case.C, method), y)

    def is_read(self) -> bool:
        """Whether the guard takes the graph for that of the net."""
        try:
            reading.check_reading(self.bounded)
        except ValueError:
            return False
        return True

    def first_wrong(self, at: list[Tensor]) -> str:
        """The class of the first node whose bounds leave out a value, "" where none does or they are not kept."""
        kept = {
            name: (node.lower.detach(), node.upper.detach())
            for name, node in self.bounded._modules.items()
            if isinstance(getattr(node, "lower", None), Tensor)
            and isinstance(getattr(node, "upper", None), Tensor)
            and node.perturbed
        }
        values = {name: [] for name in kept}
        for k in range(0, len(at[0]), max(len(at[0]) // NODE_POINTS, 1)):
            self.bounded(*(a[k] for a in at))
            for name in kept:
                values[name].append(self.bounded[name].forward_value)
        for name, (lower, upper) in kept.items():
            if wrong_by(lower, upper, torch.stack(values[name])) != 0:
                return type(self.bounded[name]).__name__
        return ""


def check(case: Case, count: int, guarded: bool) -> list[Finding]:
    """Every method in every mode, at ``count`` points.  Without ``guarded`` auto_LiRPA alone."""
    at, y = points(case, count)
    if case.C is not None:
        y = (case.C @ y.unsqueeze(-1)).squeeze(-1)
    return [finding for mode in case.modes for finding in _check_mode(case, mode, at, y, guarded)]


def _check_mode(case: Case, mode: str, at: list[Tensor], y: Tensor, guarded: bool) -> list[Finding]:
    try:
        bounds = _Bounds(case, mode)
    except Exception as error:  # whatever auto_LiRPA raises of a graph that it does not know
        return [Finding(method, mode, error=_text(error)) for method in METHODS]
    with contextlib.suppress(Exception):  # marks the perturbed nodes, and may fail then
        bounds.bounded(*bounds.inputs())
    classes = sorted({type(node).__name__ for node in bounds.bounded._modules.values() if node.perturbed})
    read, ours = not guarded or bounds.is_read(), reading.has_our_operators(bounds.bounded)
    found = []
    for method in METHODS:
        finding = Finding(method, mode, classes=classes)
        found.append(finding)
        try:
            finding.amount = bounds.alone(method, y)
        except Exception as error:
            finding.error = _text(error)
        else:
            finding.alone = _verdict(finding.amount)
        if guarded:
            _check_guarded(bounds, finding, read, ours, y)
        if finding.violation if guarded else finding.alone in (WRONG, UNKNOWN):
            with contextlib.suppress(Exception):  # it only helps to find the reason
                bounds.alone(method, y)
                finding.node = bounds.first_wrong(at)
    return found


def _check_guarded(bounds: _Bounds, finding: Finding, read: bool, ours: bool, y: Tensor) -> None:
    finding.reason = refused.reason(bounds.bounded, bounds.inputs(), finding.method) or ""
    if not read:
        finding.guarded = MISREAD
    elif finding.reason:
        finding.guarded = REFUSED
    else:
        finding.lets_through = ours
        try:
            amount = bounds.guarded(finding.method, y)
        except compute.CrossedBounds as error:
            finding.guarded, finding.error = CROSSED, _text(error)
        except Exception as error:
            finding.guarded, finding.error = ERROR, finding.error or _text(error)
        else:
            finding.guarded, finding.amount = _verdict(amount), finding.amount or amount


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def share_tables() -> None:
    """Makes nodes of a class share the table of tangents that auto_LiRPA computes anew, for a second, in each tanh."""
    from auto_LiRPA import bound_ops

    for cls in {c for c in vars(bound_ops).values() if isinstance(c, type) and "precompute_relaxation" in vars(c)}:
        cls.precompute_relaxation = _once(cls.precompute_relaxation)


def _once(compute_table):
    known = {}

    def recalled(self, *args, **kwargs):
        of = [getattr(a, "__qualname__", a) for a in (*args, *kwargs.values())]
        key = type(self), torch.get_default_dtype(), str(of)
        if key not in known:
            before = dict(vars(self))
            result = compute_table(self, *args, **kwargs)
            known[key] = result, {name: a for name, a in vars(self).items() if before.get(name) is not a}
        result, made = known[key]
        vars(self).update(made)
        return result

    return recalled
