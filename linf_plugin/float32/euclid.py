"""Bounds of what rounding does to a whole net, in ℓ2: for nets of layers that do not stretch ℓ2 distances much.

Bounds of each number by itself grow by the ℓ1 norms of the rows of every layer.  In a residual net that is a factor at
every layer, although no layer enlarges an error in ℓ2.  So here errors are vectors, bounded by their ℓ2 norms.
docs/math.md has the proofs.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.fusion import fan_in
from ..graphs.graph import Graph
from ..intervals import apply_affine
from ..layers.lipschitz import lipschitz_bound
from ..layers.potential import Potential, PotentialConv2d, PotentialLinear
from .program import LARGEST, SMALLEST
from .reach import layers, rule
from .rules import OUTWARD, Reach, gamma, rows, samples


def l2_bounds(model: nn.Module) -> list[float] | None:
    """Returns the ℓ2 Lipschitz bounds of the layers of a net; None if it is no sequence of layers with rules.

    Raises:
        TypeError, RuntimeError: as ``lipschitz_bound``; then the net has no ℓ2 bound either.
    """
    if isinstance(model, Graph):
        return None
    try:
        parts = layers(model)
    except TypeError:
        return None
    return [lipschitz_bound(layer, 2) for layer in parts]


# Rules of rounding: (layer, its ℓ2 bound, the exact input at the centre, R) → (N,) bounds of ‖ĝ(ĥ) − g(ĥ)‖₂ for all
# computed inputs ĥ with ‖ĥ − centre‖₂ ≤ R.


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows(a), dim=1)


def _of_each_number(layer: nn.Module, bound: float, at: Tensor, within: Tensor) -> Tensor:
    """The rule of ``ROUNDING`` on the box around the ball."""
    half = samples(within, at)
    return _norm(rule(layer)(layer, Reach(at - half, at + half, torch.zeros_like(at))).error)


def _row_norms(layer: nn.Linear | nn.Conv2d, weight: Tensor) -> Tensor:
    """Returns the ℓ2 norm of each row or kernel, in the shape that broadcasts over the outputs."""
    norms = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms if isinstance(layer, nn.Linear) else norms.view(-1, 1, 1)


def _flushed(largest: Tensor, weight: Tensor, terms: int) -> Tensor:
    """Returns (N,): what flushing numbers to zero can change in one output, as in ``rules.affine``."""
    return 8 * SMALLEST * ((largest + 1) * (weight + 1).flatten(1).sum(1).amax() + terms)


def _affine_numbers(layer: nn.Linear | nn.Conv2d, at: Tensor, within: Tensor) -> Tensor:
    """Returns (N, *): γ·(|W|·|centre| + ‖w_k‖₂·R + |b|), by Cauchy–Schwarz for the part that is not at the centre."""
    weight, terms = layer.weight.double().abs(), fan_in(layer) + 1
    bias = None if layer.bias is None else layer.bias.double().abs()
    total = apply_affine(layer, at.abs(), weight, bias)
    total = total + _row_norms(layer, weight) * samples(within, total)
    flushed = samples(_flushed(rows(at).abs().amax(1) + within, weight, terms), total)
    return torch.where(total < LARGEST, gamma(terms) * total + flushed, torch.inf)


def _affine(layer: nn.Linear | nn.Conv2d, bound: float, at: Tensor, within: Tensor) -> Tensor:
    return _norm(_affine_numbers(layer, at, within))


def _potential(layer: Potential, bound: float, at: Tensor, within: Tensor) -> Tensor:
    """‖W‖₂·‖ρ₁‖₂ for the rounding ρ₁ of W·x + b, and that of a sum of x and the products of Wᵀ·h."""
    first, second = layer.branch()
    inner = _affine_numbers(first, at, within)
    exact = apply_affine(first, at, first.weight.double(), None if first.bias is None else first.bias.double())
    top = F.relu(exact + _row_norms(first, first.weight.double()) * samples(within, exact) + inner)
    weight, terms = second.weight.double().abs(), fan_in(second) + 2
    total = at.abs() + apply_affine(second, top, weight, None)
    flushed = _flushed(rows(top).amax(1), weight, terms) * math.sqrt(at[:1].numel())
    last = gamma(terms) * (_norm(total) + within) + flushed
    fits = (rows(total).amax(1) + within < LARGEST) & inner.flatten(1).isfinite().all(1)
    return torch.where(fits, math.sqrt(bound + 1) * _norm(inner) + last, torch.inf)


RULES_IN_L2: dict[type[nn.Module], Callable[[nn.Module, float, Tensor, Tensor], Tensor]] = {
    nn.Linear: _affine,
    nn.Conv2d: _affine,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
}


@torch.no_grad()
def error_in_l2(model: nn.Module, bounds: list[float], x: Tensor, radius: Tensor) -> Tensor:
    """Returns bounds of ‖float32 output − exact output‖₂ of a net over all float32 inputs in ℓ2 balls.

    Let L be the Lipschitz bound of a layer g, and h and ĥ its exact and its computed input for an input in the ball.
    Then ‖ĝ(ĥ) − g(h)‖₂ ≤ L·‖ĥ − h‖₂ + ‖ĝ(ĥ) − g(ĥ)‖₂.  The last term is bounded where ĥ may lie: within r + e of the
    exact input at x, where r bounds how far the exact input moves, and e is the error.

    Args:
        model: a sequential net, in evaluation mode, with float32 weights or their float64 copies.
        bounds: its ``l2_bounds``.
        x: (N, *) float64, the centres.
        radius: (N,), the radii.

    Returns:
        (N,) float64, infinite where an activation may overflow.
    """
    error, moves = x.new_zeros(len(x)), radius.double()
    at = x.clone()  # the first layer may work in place
    for layer, bound in zip(layers(model), bounds, strict=True):
        # ``at`` is computed in float64, so it is off by less than 2⁻²⁶ of the error, which OUTWARD covers.
        within = (moves + error) * OUTWARD
        rounding = RULES_IN_L2.get(type(layer), _of_each_number)(layer, bound, at, within)
        error = (bound * error + rounding * OUTWARD) * OUTWARD
        moves, at = bound * moves * OUTWARD, layer(at)
    error = error + 2 * SMALLEST * math.sqrt(at[:1].numel())  # a comparison may read a tiny logit as 0
    return torch.where(error.isfinite(), error, torch.inf)
