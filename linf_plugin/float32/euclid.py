"""Bounds of what rounding does to a whole net, in ℓ2: for nets of layers that do not stretch ℓ2 distances much.

Bounds of each number by itself grow by the ℓ1 norms of the rows of every layer.  In a residual net that is a factor at
every layer, although no layer enlarges an error in ℓ2.  So here errors are vectors, bounded by their ℓ2 norms.
docs/math.md has the proofs.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.fusion import fan_in
from ..graphs.graph import Graph
from ..intervals import apply_affine
from ..layers.absolute import absolute_norm
from ..layers.lipschitz import lipschitz_bound
from ..layers.potential import Potential, PotentialConv2d, PotentialLinear
from .program import LARGEST, SMALLEST
from .reach import layers, rule
from .rules import OUTWARD, Reach, gamma, rows, samples


class InL2(NamedTuple):
    """What is known of a layer in ℓ2.  It is computed once for a net, because it takes longer than a forward pass.

    Attributes:
        bound: its Lipschitz bound.
        absolute: of a linear layer, a convolution or a residual layer, an upper bound of ‖|W|‖₂; else ∞.
    """

    bound: float
    absolute: float


def l2_bounds(model: nn.Module) -> list[InL2] | None:
    """Returns what is known of the layers of a net in ℓ2; None if it is no sequence of layers with rules.

    Raises:
        TypeError, RuntimeError: as ``lipschitz_bound``; then the net has no ℓ2 bound either.
    """
    if isinstance(model, Graph):
        return None
    try:
        parts = layers(model)
    except TypeError:
        return None
    return [InL2(lipschitz_bound(layer, 2), _absolute(layer)) for layer in parts]


def _absolute(layer: nn.Module) -> float:
    if isinstance(layer, Potential):
        return absolute_norm(layer.branch()[0])
    return absolute_norm(layer) if type(layer) in (nn.Linear, nn.Conv2d) else math.inf


# Rules of rounding: (layer, what is known of it, the exact input at the centre, R) → (N,) bounds of ‖ĝ(ĥ) − g(ĥ)‖₂ for
# all computed inputs ĥ with ‖ĥ − centre‖₂ ≤ R.


def _norm(a: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows(a), dim=1)


def _of_each_number(layer: nn.Module, known: InL2, at: Tensor, within: Tensor) -> Tensor:
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


class _Rounding(NamedTuple):
    """The rounding of W·x + b: bounds of each number, (N, *), and of all numbers in ℓ2, (N,)."""

    numbers: Tensor
    norm: Tensor


def _rounding(layer: nn.Linear | nn.Conv2d, absolute: float, at: Tensor, within: Tensor) -> _Rounding:
    """Each number rounds by γ·(|W|·|x̂| + |b|), and |W|·|x̂| ≤ |W|·|centre| + |W|·|x̂ − centre|.

    The last term is at most ‖w_k‖₂·R in row k, by Cauchy–Schwarz, and at most ‖|W|‖₂·R in ℓ2.
    """
    weight, terms = layer.weight.double().abs(), fan_in(layer) + 1
    bias = None if layer.bias is None else layer.bias.double().abs()
    centre = apply_affine(layer, at.abs(), weight, bias)
    total = centre + _row_norms(layer, weight) * samples(within, centre)
    flushed = _flushed(rows(at).abs().amax(1) + within, weight, terms)
    numbers = torch.where(total < LARGEST, gamma(terms) * total + samples(flushed, total), torch.inf)
    together = gamma(terms) * (_norm(centre) + absolute * within) + flushed * math.sqrt(centre[:1].numel())
    norm = _norm(numbers)
    return _Rounding(numbers, torch.where(norm < torch.inf, torch.minimum(norm, together), torch.inf))


def _affine(layer: nn.Linear | nn.Conv2d, known: InL2, at: Tensor, within: Tensor) -> Tensor:
    return _rounding(layer, known.absolute, at, within).norm


def _potential(layer: Potential, known: InL2, at: Tensor, within: Tensor) -> Tensor:
    """‖W‖₂·‖ρ₁‖₂ for the rounding ρ₁ of W·x + b, and that of a sum of x and the products of Wᵀ·h.

    The computed h is at most relu(W·centre + b + ‖w_k‖₂·R + ρ₁) in row k.  It is also at most relu(W·centre + b) +
    |W·(x̂ − centre)| + ρ₁, whose last two terms have at most the norms ‖W‖₂·R and ‖ρ₁‖₂.
    """
    first, second = layer.branch()
    inner, stretch = _rounding(first, known.absolute, at, within), math.sqrt(known.bound + 1)
    exact = apply_affine(first, at, first.weight.double(), None if first.bias is None else first.bias.double())
    top = F.relu(exact + _row_norms(first, first.weight.double()) * samples(within, exact) + inner.numbers)
    weight, terms = second.weight.double().abs(), fan_in(second) + 2
    total = at.abs() + apply_affine(second, top, weight, None)
    centre = at.abs() + apply_affine(second, F.relu(exact), weight, None)
    summed = torch.minimum(_norm(total), _norm(centre) + known.absolute * (stretch * within + inner.norm))
    flushed = _flushed(rows(top).amax(1), weight, terms) * math.sqrt(at[:1].numel())
    last = gamma(terms) * (summed + within) + flushed
    fits = (rows(total).amax(1) + within < LARGEST) & (inner.norm < torch.inf)
    return torch.where(fits, stretch * inner.norm + last, torch.inf)


RULES_IN_L2: dict[type[nn.Module], Callable[[nn.Module, InL2, Tensor, Tensor], Tensor]] = {
    nn.Linear: _affine,
    nn.Conv2d: _affine,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
}


@torch.no_grad()
def error_in_l2(model: nn.Module, bounds: list[InL2], x: Tensor, radius: Tensor) -> Tensor:
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
    for layer, known in zip(layers(model), bounds, strict=True):
        # ``at`` is computed in float64, so it is off by less than 2⁻²⁶ of the error, which OUTWARD covers.
        within = (moves + error) * OUTWARD
        rounding = RULES_IN_L2.get(type(layer), _of_each_number)(layer, known, at, within)
        error = (known.bound * error + rounding * OUTWARD) * OUTWARD
        moves, at = known.bound * moves * OUTWARD, layer(at)
    error = error + 2 * SMALLEST * math.sqrt(at[:1].numel())  # a comparison may read a tiny logit as 0
    return torch.where(error.isfinite(), error, torch.inf)
