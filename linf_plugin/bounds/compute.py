"""Bounds of a BoundedModule that are never looser than its interval bounds, whatever the method."""

import contextlib
import functools
import io

import torch
from torch import Tensor, maximum, minimum

from .. import compat
from ..arguments import kind
from . import fresh

OPTIMISED = ("crown-optimized", "alpha-crown")  # differentiate many times, by themselves


def compute_bounds(
    bounded, x: tuple, C: Tensor | None = None, method: str = "CROWN", *, bound_lower: bool = True,
    bound_upper: bool = True, output_only: bool = False, **options,
) -> tuple[Tensor | None, Tensor | None]:
    """The better of ``bounded.compute_bounds(method=…)`` and interval bounds, at every layer and at the output.

    A linear bound of a distance net can be looser than the interval bound.  Interval bounds are computed first;
    every intermediate bound of the method is then cut to them, which also tightens what is built on it.  They
    stay behind as ``bounded._linf_intervals``, name → (lower, upper).

    Args:
        bounded: a BoundedModule.
        x: its inputs, as ``BoundedModule.compute_bounds`` takes them.
        C: (B, S, outputs) specification, or None for the outputs themselves.
        method: as ``BoundedModule.compute_bounds`` takes it: "IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized",
            "Forward", "Forward+Backward".
        bound_lower, bound_upper: which sides are wanted.
        output_only: of "CROWN-Optimized", optimise what the output's bounds need and take intermediate bounds of
            CROWN.  Looser, but the cost grows with the outputs alone and not with the widths of all layers.
        options: further arguments of ``BoundedModule.compute_bounds``.

    Returns:
        (lower, upper), (B, S) or (B, outputs) each; None for a side that is not wanted.

    Raises:
        TypeError: bounded is no BoundedModule, method no string, or C no floating-point tensor.
        ValueError, NotImplementedError: as ``BoundedModule.compute_bounds`` with distance layers; C has another
            number of dimensions.
        RuntimeError: the net, of whatever layers, has changed since ``bounded`` was made, other than by steps of
            training, which change in place the parameters that both share.
    """
    _check(bounded, C, method)
    fresh.check(bounded)
    sides = {"bound_lower": bound_lower, "bound_upper": bound_upper}
    least, most = bounded.compute_bounds(x=x, C=C, method="IBP", **sides)
    intervals = {n: node.interval for n, node in bounded._modules.items() if getattr(node, "interval", None)}
    bounded._linf_intervals = intervals
    if method.lower() == "ibp":
        return least if bound_lower else None, most if bound_upper else None
    optimised = method.lower() in OPTIMISED
    if optimised and not any(node.perturbed and compat.optimises(node) for node in bounded._modules.values()):
        method, optimised = "CROWN", False  # there is nothing to optimise, on which 0.3 fails
    with contextlib.ExitStack() as during:
        if optimised:
            if output_only:
                options |= compat.given_bounds(bounded, _read_by_relaxations(bounded, x, C, sides))
                settings = bounded.bound_opts["optimize_bound_args"]
                during.callback(settings.update, use_shared_alpha=settings["use_shared_alpha"])
                settings["use_shared_alpha"] = True  # of intermediate bounds: they are made, but not used
            bounded._linf_intervals = {n: tuple(end.detach() for end in ends) for n, ends in intervals.items()}
            during.enter_context(torch.enable_grad())
            during.enter_context(contextlib.redirect_stdout(io.StringIO()))  # it prints when it stops
        bounded._linf_cutting = True
        during.callback(setattr, bounded, "_linf_cutting", False)
        lower, upper = bounded.compute_bounds(x=x, C=C, method=method, **sides, **options)[:2]
    return maximum(lower, least) if bound_lower else None, minimum(upper, most) if bound_upper else None


def _check(bounded, C: Tensor | None, method: str) -> None:
    from auto_LiRPA import BoundedModule

    if not isinstance(bounded, BoundedModule):
        raise TypeError(f"bounded must be a BoundedModule, got {type(bounded).__name__}")
    if not isinstance(method, str):
        raise TypeError(f"method must be a string, got {method!r}")
    if C is None:
        return
    if not isinstance(C, Tensor) or not C.is_floating_point():
        raise TypeError(f"C must be a floating-point tensor, got {kind(C)}")
    if C.dim() != 3:
        raise ValueError(f"C must have shape (B, S, outputs), got {tuple(C.shape)}")


@torch.no_grad()
def _read_by_relaxations(bounded, x: tuple, C: Tensor | None, sides: dict) -> dict[str, list[Tensor]]:
    """Bounds by CROWN of the nodes whose bounds relaxations read."""
    compute_bounds(bounded, x, C, "CROWN", **sides)
    return {
        node.name: [node.lower, node.upper]
        for reader in bounded._modules.values() if reader.perturbed and compat.reads_bounds(reader)
        for node in reader.inputs if node.perturbed and not compat.is_input(node)
    }


def cut_to_intervals(bounded_module: type) -> None:
    """Makes ``BoundedModule`` cut intermediate bounds to ``_linf_intervals`` during ``compute_bounds`` above."""
    compute = bounded_module.compute_intermediate_bounds

    @functools.wraps(compute)
    def cut(self, node, *args, **kwargs):
        compute(self, node, *args, **kwargs)
        interval = self._linf_intervals.get(node.name) if getattr(self, "_linf_cutting", False) else None
        if interval is None or not node.perturbed:
            return
        node.lower, node.upper = maximum(node.lower, interval[0]), minimum(node.upper, interval[1])
        node.interval = (node.lower, node.upper)
        if hasattr(node, "linear"):
            node.linear.lower, node.linear.upper = node.lower, node.upper

    bounded_module.compute_intermediate_bounds = cut
