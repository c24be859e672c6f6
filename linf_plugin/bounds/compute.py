"""Bounds of a BoundedModule that are never looser than its interval bounds, whatever the method."""

import contextlib
import functools
import io
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, maximum, minimum

from ..arguments import kind
from ..inference import outside_inference
from . import fresh, versions
from .guard import WITHOUT_SHORTCUTS
from .inputs import check_samples
from .reading import check_reading
from .refused import check_operators
from .repaired import OPTIMISED


class CrossedBounds(RuntimeError):
    """Two bounds of the same number contradict each other by more than rounding, so one of them is wrong."""


class Scales:
    """The sizes of the numbers from which bounds are computed, in proportion to which they are rounded."""

    def __init__(self, intervals: dict, C: Tensor | None):
        self.intervals, self.known = intervals, {}
        self.factor = 1.0 if C is None else max(C.detach().abs().sum(-1).max().item(), 1.0)

    def of(self, node) -> float:
        """Returns the largest finite interval bound, in absolute value, of the node and of all that it depends on."""
        if node.name not in self.known:
            own = [_largest(end) for end in self.intervals.get(node.name, ())]
            self.known[node.name] = max([0.0, *own, *map(self.of, node.inputs)])
        return self.known[node.name]

    def of_output(self, node) -> float:
        """Returns the same for specifications: a row of C multiplies the errors of the node's bounds."""
        return self.of(node) * self.factor


def _largest(end) -> float:
    if not isinstance(end, Tensor) or not end.is_floating_point() or not end.numel():
        return 0.0
    return end.detach().nan_to_num(0.0, 0.0, 0.0).abs().max().item()


def _check_order(node, method: str, lower: Tensor, upper: Tensor, scale: float, other: str) -> None:
    """Raises CrossedBounds if lower > upper by more than rounding.  Bounds of a point may cross by rounding."""
    size = torch.maximum(*(end.detach().nan_to_num(0.0, 0.0, 0.0).abs() for end in (lower, upper)))
    wrong = lower > upper + torch.finfo(lower.dtype).eps ** 0.5 * (1 + scale + size)
    if wrong.any():
        at = tuple(wrong.nonzero()[0].tolist())
        raise CrossedBounds(
            f"the {method} bounds of node {node.name!r} ({type(node).__name__}) cross {other}: {lower[at].item():g} > "
            f"{upper[at].item():g} at {list(at)}. auto_LiRPA bounds this node, or one before it, wrongly, so nothing "
            "is proved: use another method, or leave the operator out"
        )


def better(node, method: str, found: tuple, interval: tuple, scale: Callable) -> tuple[Tensor | None, Tensor | None]:
    """Returns the better one of a method's bound and the interval bound, for each number and each side.

    A side that the method does not bound is None.  A bound of the method that is NaN counts as no bound.

    Raises:
        CrossedBounds: the bounds contradict each other by more than the rounding of numbers as large as
            ``scale(node)``.
    """
    (lower, upper), (least, most) = found, interval
    pairs = [(lower, most, "its interval bounds"), (least, upper, "its interval bounds"), (lower, upper, "each other")]
    pairs = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    with torch.no_grad():
        doubtful = not torch.stack([(a <= b).all() for a, b, _ in pairs]).all()  # true also if one is NaN
        if doubtful:
            for a, b, other in pairs:
                _check_order(node, method, a, b, scale(node), other)
    if doubtful:
        lower = None if lower is None else torch.where(lower.isnan(), -torch.inf, lower)
        upper = None if upper is None else torch.where(upper.isnan(), torch.inf, upper)
    return None if lower is None else maximum(lower, least), None if upper is None else minimum(upper, most)


@torch.no_grad()
def _check_intervals(bounded, final, ends: tuple[Tensor, Tensor], scales: Scales) -> tuple[bool, Tensor | None]:
    """Returns whether all interval bounds are finite, and the outputs of which nothing is known (None: there are none).

    NaN comes from infinite intervals, and a bound that is computed from NaN may be any number.  Then nothing is known
    of the sample.

    Raises:
        CrossedBounds: a lower bound is above the upper one.
    """
    nodes = [
        (node, *node.interval)
        for name in scales.intervals
        if (node := bounded[name]).perturbed
        and isinstance(node.interval[0], Tensor)
        and node.interval[0].is_floating_point()
        and node.interval[0].numel()
    ]
    if not ends[0].numel():
        return True, None
    widths = [torch.stack((upper - lower).aminmax()) for _, lower, upper in [*nodes, (final, *ends)]]
    narrowest, widest = torch.stack([a.to(ends[0]) for a in widths]).unbind(1)
    finite, in_order = ((widest < torch.inf).all() & (narrowest >= 0).all()).item(), (narrowest >= 0).all().item()
    if in_order:
        return finite, None
    for node, lower, upper in nodes:
        _check_order(node, "IBP", lower, upper, scales.of(node), "each other")
    _check_order(final, "IBP", *ends, scales.of_output(final), "each other")
    unknown = ends[0].isnan() | ends[1].isnan()
    for _, lower, upper in nodes:
        here = lower.isnan() | upper.isnan()
        by_sample = here.dim() > 1 and len(here) == len(unknown)
        here = here.flatten(1).any(1) if by_sample else here.any().expand(len(unknown))
        unknown = unknown | here.view(-1, *[1] * (unknown.dim() - 1))
    return not unknown.any().item() and (widest < torch.inf).all().item(), unknown


@outside_inference
def compute_bounds(
    bounded: Any,
    x: tuple,
    C: Tensor | None = None,
    method: str = "CROWN",
    *,
    bound_lower: bool = True,
    bound_upper: bool = True,
    output_only: bool = False,
    **options: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """Returns the better of ``bounded.compute_bounds(method=…)`` and interval bounds, at every layer and the output.

    A linear bound of a distance net can be looser than the interval bound.  So interval bounds are computed first, and
    every intermediate bound of the method is cut to them.  This also tightens the bounds that are built on it.  The
    interval bounds are kept as ``bounded._linf_intervals``, name → (lower, upper).

    Args:
        bounded: a BoundedModule.
        x: its inputs, as ``BoundedModule.compute_bounds`` takes them.
        C: (B, S, outputs) specification, or None for the outputs themselves.  If the node is no vector, its numbers are
            the outputs, in the order of ``flatten(1)``.
        method: as ``BoundedModule.compute_bounds`` takes it: "IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized",
            "Forward", "Forward+Backward".
        bound_lower, bound_upper: which sides are wanted.
        output_only: for "CROWN-Optimized": whether to optimise only what the output's bounds need, and to take
            intermediate bounds from CROWN.  This is looser, but the cost grows only with the number of outputs, not
            with the widths of all layers.  The result is never looser than CROWN's.
        options: further arguments of ``BoundedModule.compute_bounds``, such as ``final_node_name`` to bound a hidden
            node.

    Returns:
        (lower, upper), (B, S) each, or without C the shape of the node's value; None for a side that is not wanted.

    If an end of an interval is infinite or NaN, no linear bounds are computed, because auto_LiRPA leaves infinite terms
    out.  Where a linear bound is NaN, the interval bound is returned.

    Raises:
        TypeError: bounded is no BoundedModule, x is not made of tensors, method is no string, or C is no tensor of x's
            dtype.
        ValueError, NotImplementedError: as ``BoundedModule.compute_bounds`` for nets with distance layers, but here for
            every net; C has another shape; or there is no node ``final_node_name``.
        CrossedBounds: bounds of a node, or of the output, cross its interval bounds by more than rounding.
        RuntimeError: the net has changed since ``bounded`` was made, whatever its layers are.  Steps of training are no
            such change: they change parameters in place, and net and graph share these.  Or auto_LiRPA fails in α-CROWN
            of a net with other layers, with options that nets with distance layers do not have.
    """
    _check(bounded, x, C, method, options.get("final_node_name"))
    fresh.check(bounded)
    sides = {"bound_lower": bound_lower, "bound_upper": bound_upper}
    check_reading(bounded)
    check_samples(bounded, x)
    check_operators(bounded, x, method)
    final = bounded[options.get("final_node_name") or bounded.final_name]
    least, most = bounded.compute_bounds(x=x, C=C, method="IBP", final_node_name=final.name)
    intervals = {n: node.interval for n, node in bounded._modules.items() if getattr(node, "interval", None)}
    bounded._linf_intervals = intervals
    scales = Scales(intervals, C)
    finite, unknown = _check_intervals(bounded, final, (least, most), scales)
    if unknown is not None:
        least, most = torch.where(unknown, -torch.inf, least), torch.where(unknown, torch.inf, most)
    if method.lower() == "ibp" or not finite or not final.perturbed or versions.is_input(final):
        return least if bound_lower else None, most if bound_upper else None
    optimised = method.lower() in OPTIMISED
    if optimised and not any(node.perturbed and versions.optimises(node) for node in bounded._modules.values()):
        method, optimised = "CROWN", False  # 0.3 fails if there is nothing to optimise
    with contextlib.ExitStack() as during:
        if optimised:
            if output_only:
                (lower, upper), read = _by_crown(bounded, x, C, sides, final.name)
                least = least if lower is None else maximum(least, lower)
                most = most if upper is None else minimum(most, upper)
                options |= versions.given_bounds(bounded, read)
                settings = bounded.bound_opts["optimize_bound_args"]
                during.callback(settings.update, use_shared_alpha=settings["use_shared_alpha"])
                settings["use_shared_alpha"] = True  # for intermediate bounds, whose weights are made but not used
            bounded._linf_intervals = {n: tuple(end.detach() for end in ends) for n, ends in intervals.items()}
            during.enter_context(contextlib.redirect_stdout(io.StringIO()))  # it prints a line when it stops
        bounded._linf_cutting = method, scales
        during.callback(setattr, bounded, "_linf_cutting", None)
        try:
            found = bounded.compute_bounds(x=x, C=C, method=method, **sides, **options)[:2]
        except AssertionError as error:
            if not optimised or not any(map(bounded.bound_opts.get, WITHOUT_SHORTCUTS)):
                raise
            raise RuntimeError(
                "auto_LiRPA's shortcuts for ReLUs do not work together in α-CROWN of this net: make the BoundedModule "
                f"with bound_opts={WITHOUT_SHORTCUTS}"
            ) from error
    lower, upper = (None if end is None else end.reshape(least.shape) for end in found)
    lower, upper = better(final, method, (lower, upper), (least, most), scales.of_output)
    return lower if bound_lower else None, upper if bound_upper else None


def _check(bounded, x: tuple, C: Tensor | None, method: str, final: str | None) -> None:
    from auto_LiRPA import BoundedModule

    if not isinstance(bounded, BoundedModule):
        raise TypeError(f"bounded must be a BoundedModule, got {type(bounded).__name__}")
    if x is not None and not isinstance(x, (Tensor, tuple, list)):
        raise TypeError(f"x must be a tuple of tensors, got {kind(x)}")
    if not isinstance(method, str):
        raise TypeError(f"method must be a string, got {method!r}")
    names = [node.name for node in bounded._modules.values()]
    if final is not None and final not in names:
        raise ValueError(f"final_node_name must be one of {', '.join(names)}, got {final!r}")
    if C is None:
        return
    if not isinstance(C, Tensor) or not C.is_floating_point():
        raise TypeError(f"C must be a floating-point tensor, got {kind(C)}")
    if C.dim() != 3:
        raise ValueError(f"C must have shape (B, S, outputs), got {tuple(C.shape)}")
    first = next((a for a in (x if isinstance(x, (tuple, list)) else (x,)) if isinstance(a, Tensor)), None)
    if first is not None and first.is_floating_point() and C.dtype != first.dtype:
        raise TypeError(f"C must be {first.dtype}, as x is, got {C.dtype}")
    if first is not None and first.dim() and len(C) != len(first):
        raise ValueError(f"C must have {len(first)} samples, as x has, got {len(C)}")
    outputs = math.prod(bounded[final or bounded.final_name].output_shape[1:])
    if C.shape[2] != outputs:
        raise ValueError(f"C must have {outputs} outputs, as the net has, got {C.shape[2]}")


@torch.no_grad()
def _by_crown(bounded, x: tuple, C: Tensor | None, sides: dict, final: str) -> tuple[tuple, dict[str, list[Tensor]]]:
    """Returns CROWN's bounds of ``final``, and of the nodes before it whose bounds are needed by relaxations."""
    ends = compute_bounds(bounded, x, C, "CROWN", **sides, final_node_name=final)
    return ends, {
        node.name: [node.lower, node.upper]
        for reader in bounded._modules.values()
        if reader.used and reader.perturbed and versions.reads_bounds(reader)
        for node in reader.inputs
        if node.perturbed and not versions.is_input(node)
    }


def cut_to_intervals(bounded_module: type) -> None:
    """Makes ``BoundedModule`` cut intermediate bounds to ``_linf_intervals`` during ``compute_bounds`` above."""
    compute = bounded_module.compute_intermediate_bounds

    @functools.wraps(compute)
    def cut(self, node, *args, **kwargs):
        compute(self, node, *args, **kwargs)
        cutting = getattr(self, "_linf_cutting", None)
        interval = self._linf_intervals.get(node.name) if cutting else None
        if interval is None or not node.perturbed:
            return
        method, scales = cutting
        node.lower, node.upper = better(node, method, (node.lower, node.upper), interval, scales.of)
        node.interval = (node.lower, node.upper)
        if hasattr(node, "linear"):
            node.linear.lower, node.linear.upper = node.lower, node.upper

    bounded_module.compute_intermediate_bounds = cut
