"""Bounds of one graph by every method and in every mode, compared with what the graph computes of points in its boxes."""

import contextlib
import functools
import io
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from linf_plugin.bounds import compute_bounds
from linf_plugin.bounds.compute import CrossedBounds
from linf_plugin.bounds.refused import reason

from .draw import Case

# That which leaves most behind where it fails comes last.
METHODS = ("IBP", "CROWN-IBP", "CROWN", "Forward", "Forward+Backward", "CROWN-Optimized")
ITERATIONS = 3  # of an optimisation: enough to move every weight
TOLERANCE = 1e-7  # of the largest number in play; bounds are in float64, where auto_LiRPA adds up to 1e-8 by itself
STEPS = (1.0, 0.5, 0.25)  # of an ascent, in half widths of the box


@dataclass
class Finding:
    """What one method did with one graph in one mode."""

    method: str
    mode: str
    refused: str = ""  # by the guard, and why
    raw: str = ""  # of BoundedModule.compute_bounds: "holds", "wrong", "not a number" or the error
    raw_amount: float = 0.0  # by which it is wrong
    ours: str = ""  # of linf_plugin.bounds.compute_bounds, where the guard lets it through
    ours_amount: float = 0.0
    node: str = ""  # the first node whose bounds are wrong, by class
    classes: list[str] = field(default_factory=list)
    misread: bool = False  # the traced graph computes another function


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
        grads = _gradients(case, at, direction)
        at = [
            a if box is None or grad is None else
            (a + step / 2 * grad.nan_to_num(0.0).sign() * (box[1] - box[0])).clamp(*box)
            for a, grad, box in zip(at, grads, case.boxes)
        ]
        for seen, a in zip(visited, at):
            seen.append(a)
    whole = [torch.cat([d, *seen]) for d, seen in zip(drawn, visited)]
    return whole, _run(case, whole)


@torch.enable_grad()
def _gradients(case: Case, at: list[Tensor], direction: Tensor) -> list[Tensor | None]:
    leaves = [a.detach().requires_grad_() for a in at]
    value = (direction * _run(case, leaves)).sum()
    try:
        return list(torch.autograd.grad(value, leaves, allow_unused=True))
    except RuntimeError:  # torch has no derivative of it, or the output depends on no input
        return [None] * len(leaves)


def _drawn(x: Tensor, box, count: int) -> Tensor:
    """Half of them corners, and x itself."""
    if box is None:
        return x.expand(count, *x.shape)
    t = torch.rand(count, *x.shape)
    t[::2] = t[::2].round()
    a = box[0] + t * (box[1] - box[0])
    a[:1] = x
    return a


def _run(case: Case, at: list[Tensor]) -> Tensor:
    return case.graph(*(a.flatten(0, 1) for a in at)).unflatten(0, at[0].shape[:2])


def _wrong_by(lower: Tensor | None, upper: Tensor | None, y: Tensor) -> float:
    """How far the least or the largest y (count, 2, *) is outside, beyond rounding; NaN where a bound is, or has
    another shape."""
    if any(a is not None and a.numel() != y[0].numel() for a in (lower, upper)):
        return math.nan
    least, most = y.amin(0), y.amax(0)
    tolerance = TOLERANCE * (1 + max(least.abs().max().item(), most.abs().max().item()))
    amounts = []
    if lower is not None:
        amounts.append((lower.reshape(least.shape) - least).max())
    if upper is not None:
        amounts.append((most - upper.reshape(most.shape)).max())
    amount = torch.stack(amounts).max().item()
    return amount if math.isnan(amount) or amount > tolerance else 0.0


def _verdict(amount: float) -> str:
    return "not a number" if math.isnan(amount) else "wrong" if amount > 0 else "holds"


def _first_wrong(bounded, case: Case, at: list[Tensor]) -> str:
    """The class of the first node whose bounds leave out a value, "" where none does or they are not kept."""
    kept = {}
    for name, node in bounded._modules.items():
        lower, upper = getattr(node, "lower", None), getattr(node, "upper", None)
        if isinstance(lower, Tensor) and isinstance(upper, Tensor) and node.perturbed:
            kept[name] = lower.detach(), upper.detach()
    few = range(0, len(at[0]), max(len(at[0]) // 200, 1))
    low, high = {}, {}
    for k in few:
        bounded(*(a[k] for a in at))
        for name in kept:
            value = bounded._modules[name].forward_value
            low[name] = torch.minimum(low.get(name, value), value)
            high[name] = torch.maximum(high.get(name, value), value)
    for name, (lower, upper) in kept.items():
        with contextlib.suppress(RuntimeError):
            amount = _wrong_by(lower, upper, torch.stack([low[name], high[name]]))
            if amount > 0 or math.isnan(amount):
                return type(bounded._modules[name]).__name__
    return ""


def check(case: Case, count: int, guard: bool) -> list[Finding]:
    """Every method in every mode.  Without ``guard`` nothing of ours is asked."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    at, y = points(case, count)
    if case.C is not None:
        y = (case.C @ y.unsqueeze(-1)).squeeze(-1)
    findings = []
    for mode in case.modes:
        options = {"optimize_bound_args": {"iteration": ITERATIONS}, "conv_mode": mode, **case.options}
        traced = tuple(x[: case.traced] for x in case.inputs)

        def make():
            try:
                return BoundedModule(case.graph, traced if len(traced) > 1 else traced[0], bound_opts=dict(options))
            finally:
                case.graph.eval()  # auto_LiRPA trains nets with dropout

        def inputs():
            return tuple(
                x if box is None else BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=box[0], x_U=box[1]))
                for x, box in zip(case.inputs, case.boxes)
            )

        try:
            with _quiet():
                bounded = make()
        except Exception as error:  # whatever auto_LiRPA raises of a graph that it cannot read
            findings += [Finding(method, mode, raw=_error(error)) for method in METHODS]
            continue
        misread = _misread(bounded, case, at)
        classes = sorted({type(node).__name__ for node in bounded._modules.values()})
        for method in METHODS:
            finding = Finding(method, mode, classes=classes, misread=misread)
            findings.append(finding)
            if guard:
                try:
                    finding.refused = reason(bounded, inputs(), method) or ""
                except Exception as error:
                    finding.refused = "FAILED " + _error(error)
            try:
                with _quiet():
                    lower, upper = bounded.compute_bounds(x=inputs(), C=case.C, method=method)[:2]
            except Exception as error:
                finding.raw = _error(error)
            else:
                finding.raw_amount = _wrong_by(lower.detach(), upper.detach(), y)
                finding.raw = _verdict(finding.raw_amount)
                if finding.raw != "holds":
                    with contextlib.suppress(Exception):
                        finding.node = _first_wrong(bounded, case, at)
            if guard and not finding.refused and not misread:
                try:
                    with _quiet():
                        lower, upper = compute_bounds(bounded, inputs(), case.C, method)
                except CrossedBounds as error:
                    finding.ours = "crossed"
                except Exception as error:
                    finding.ours = _error(error)
                else:
                    finding.ours_amount = _wrong_by(lower.detach(), upper.detach(), y)
                    finding.ours = _verdict(finding.ours_amount)
    return findings


def share_tables() -> None:
    """Makes nodes of a class share the table of tangents that auto_LiRPA computes anew, for a second, in each tanh."""
    from auto_LiRPA import bound_ops

    for cls in {c for c in vars(bound_ops).values() if isinstance(c, type) and "precompute_relaxation" in vars(c)}:
        cls.precompute_relaxation = _once(cls.precompute_relaxation)


def _once(compute):
    known = {}

    @functools.wraps(compute)
    def recalled(self, *args, **kwargs):
        of = [getattr(a, "__qualname__", a) for a in (*args, *kwargs.values())]
        key = type(self), torch.get_default_dtype(), str(of)
        if key not in known:
            before = dict(vars(self))
            found = compute(self, *args, **kwargs)
            known[key] = found, {name: a for name, a in vars(self).items() if before.get(name) is not a}
        found, made = known[key]
        vars(self).update(made)
        return found

    return recalled


@contextlib.contextmanager
def _quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


@torch.no_grad()
def _misread(bounded, case, at) -> bool:
    for k in (0, 1, 2, 3):
        x = [a[k] for a in at]
        try:
            y = bounded(*x)
        except Exception:
            continue
        z = case.graph(*x)
        if (y.shape, y.dtype) != (z.shape, z.dtype) or not torch.allclose(y, z, rtol=1e-5, atol=1e-6, equal_nan=True):
            return True
    return False


def _error(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}"
