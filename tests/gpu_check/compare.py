"""Comparisons with the reference, on the CPU and in float64, in shares of what is allowed."""

import time
from collections.abc import Callable, Iterable

import torch
from cases import INF, gradient_tolerance, value_tolerance
from torch import Tensor

from .record import Record, attempt


def _tuple(y) -> tuple[Tensor, ...]:
    return (y,) if isinstance(y, Tensor) else tuple(y)


def share(got: Tensor, expected: Tensor, allowed: Tensor | float) -> float:
    """The largest |got − expected| in units of what is allowed, which may be 0; ∞ for NaN and for another shape."""
    got = got.detach().cpu()
    if got.shape != expected.shape:
        return INF
    error = (got.to(expected.dtype) - expected.detach()).abs()
    part = torch.where(error == 0, 0.0, error / allowed).nan_to_num(nan=INF, posinf=INF)
    return part.amax().item() if part.numel() else 0.0


def shares(
    function: Callable, oracle: Callable, tensors: tuple[Tensor, ...], p: float, features: int, terms: int
) -> dict[str, float]:
    """Of the values and of each gradient; arguments as ``cases.assert_agrees``."""
    dtype, device = tensors[0].dtype, tensors[0].device.type
    exact = dtype if p == INF else torch.float64
    ours = [a.detach().requires_grad_() for a in tensors]
    theirs = [a.detach().cpu().to(exact).requires_grad_() for a in tensors]
    got, expected = _tuple(function(*ours)), _tuple(oracle(*theirs))
    relative = value_tolerance(dtype, p, features, device)
    found = {f"value {i}": share(y, z, relative * z.detach().abs()) for i, (y, z) in enumerate(zip(got, expected))}
    grads = [torch.rand_like(z) * 2 - 1 for z in expected]
    g_ours = torch.autograd.grad(got, ours, [g.to(y) for g, y in zip(grads, got)])
    g_theirs = torch.autograd.grad(expected, theirs, [g.to(dtype).to(exact) for g in grads])
    allowed = gradient_tolerance(dtype, p, features, terms, device)
    return found | {f"gradient {i}": share(g, h, allowed) for i, (g, h) in enumerate(zip(g_ours, g_theirs))}


def group(record: Record, name: str, cases: Iterable[tuple[str, Callable[[], dict[str, float]]]]) -> None:
    """Makes the comparisons of a group, each a name and a function that returns shares; above 1 is a failure."""
    began, worst, of = time.monotonic(), 0.0, ""
    about = record.found.setdefault(name, {})
    for count, (what, compare) in enumerate(cases, 1):
        found = attempt(record, f"{name}, {what}", compare)
        for part, value in (found or {}).items():
            if value > 1:
                record.fail(f"{name}, {what}: {part} is off by {value:.3g} times what is allowed")
            if value >= worst:
                worst, of = value, f"{what}: {part}"
        about |= {"comparisons": count, "worst": worst, "of": of, "seconds": round(time.monotonic() - began, 2)}
        record.save()


def line(record: Record) -> str:
    """How many comparisons there were, and the worst."""
    groups = {name: about for name, about in record.found.items() if "comparisons" in about}
    name = max(groups, key=lambda name: groups[name]["worst"])
    count = sum(about["comparisons"] for about in groups.values())
    worst, of = groups[name]["worst"], groups[name]["of"]
    return f"{count} comparisons; the worst at {worst:.2g} of what is allowed ({name}, {of})"
