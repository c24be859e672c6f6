"""Bounds of what rounding does to a whole net, in ℓ2: for nets of layers that do not stretch ℓ2 distances much.

Bounds of each number by itself grow by the ℓ1 norms of the rows of every layer.  In a residual net that is a factor at
every layer, although no layer enlarges an error in ℓ2.  So here errors are vectors, bounded by their ℓ2 norms.
"""

import torch
from torch import Tensor, nn

from ..graphs.graph import Graph
from ..layers.lipschitz import lipschitz_bound
from .program import SMALLEST
from .reach import layers, rule
from .rules import OUTWARD, Reach, rows, samples

SPARE = 1 + 2.0**-30  # covers the float64 rounding of ℓ2 norms


def l2_bounds(model: nn.Module) -> list[float] | None:
    """Returns the ℓ2 Lipschitz bounds of the layers of a sequential net; None if one is unknown, or for a graph."""
    if isinstance(model, Graph):
        return None
    try:
        return [lipschitz_bound(layer, 2) for layer in layers(model)]
    except TypeError:
        return None


@torch.no_grad()
def error_in_l2(
    model: nn.Module, bounds: list[float], x: Tensor, radius: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """Returns bounds of ‖float32 output − exact output‖₂ of a net over all float32 inputs in ℓ2 balls.

    Let L be the Lipschitz bound of a layer g, h and ĥ its exact and its computed input for an input in the ball, and
    ρ ≥ |ĝ(ĥ) − g(ĥ)| number by number.  Then ‖ĝ(ĥ) − g(h)‖₂ ≤ L·‖ĥ − h‖₂ + ‖ρ‖₂.  ρ is that of ``ROUNDING``; it holds
    where the input lies: within r + e of the exact input at x, where r bounds how far the exact input moves, and e the
    error; and within the intervals of the layers before (docs/math.md).

    Args:
        model: a sequential net, in evaluation mode, with float32 weights or their float64 copies.
        bounds: its ``l2_bounds``.
        x: (N, *) float64, the centres.
        radius: (N,), the radii.
        lower, upper: (N, *) float64, the ends of boxes that contain the balls, and x.

    Returns:
        (N,) float64, infinite where an activation may overflow.
    """
    error, moves = x.new_zeros(len(x)), radius.double()
    finite = torch.ones_like(error, dtype=torch.bool)
    at, ends = x.clone(), (lower, upper)  # a layer may work in place
    for layer, bound in zip(layers(model), bounds, strict=True):
        y = rule(layer)(layer, Reach(*ends, torch.zeros_like(ends[0])))
        rounded = torch.linalg.vector_norm(rows(y.error), dim=1)
        finite &= rounded.isfinite()
        error = (bound * error + rounded) * OUTWARD
        moves, at = bound * moves * SPARE, layer(at)
        # ``at`` is computed in float64, so it is off by less than 2⁻²⁶ of the error, which OUTWARD covers.
        reach = samples(torch.where(finite, (moves + error) * OUTWARD, torch.inf), at)
        low, high = torch.maximum(y.lower, at - reach), torch.minimum(y.upper, at + reach)
        ends = torch.minimum(low, high), torch.maximum(low, high)
    error = error + 2 * SMALLEST * at[:1].numel()  # a comparison may read a tiny logit as 0
    return torch.where(finite, error, torch.inf)
