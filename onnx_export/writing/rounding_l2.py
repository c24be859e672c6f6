"""How far rounding moves the logits of a net, in ℓ2: a line in the distance of the image from a centre.

``float32.euclid.error_in_l2`` bounds the same for one ball.  A file needs a bound of every image, which its graph can
compute from the image.  docs/onnx.md has the proof.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin.float32.program import LARGEST, SMALLEST
from linf_plugin.float32.reach import layers, rule
from linf_plugin.float32.rules import OUTWARD, Reach, gamma
from linf_plugin.graphs.fusion import fan_in
from linf_plugin.intervals import apply_affine
from linf_plugin.layers.absolute import absolute_norm
from linf_plugin.layers.potential import Potential, PotentialConv2d, PotentialLinear


class Line(NamedTuple):
    """Bounds fixed + slope·R of rounding, in ℓ2, for all inputs within R of a centre, up to a largest R."""

    fixed: float
    slope: float


@torch.no_grad()
def error_line(exact: nn.Module, bounds: list[float], centre: Tensor, most: float) -> Line:
    """Returns a bound of ‖float32 logits − exact logits‖₂ for all float32 inputs within R ≤ most of the centre, in ℓ2.

    Let e(R) bound the error of a layer's input, and Λ·R how far its exact value moves from that at the centre.  The
    computed input then lies within B = Λ·R + e(R) of the exact value at the centre.  A rule of ``LINES`` bounds the
    rounding of the layer by fixed + slope·B there.  The error of its output is at most L·e(R) plus that, with the ℓ2
    bound L of the layer.  So e stays a line in R.

    Args:
        exact: a sequential net in float64, in evaluation mode.
        bounds: the ℓ2 Lipschitz bounds of its layers.
        centre: (1, *) float64.
        most: the largest R.

    Returns:
        A line that is infinite where an activation may overflow.

    Raises:
        TypeError: a layer has no rule of rounding.
    """
    fixed, slope, moves, at = 0.0, 0.0, 1.0, centre.clone()
    for layer, lipschitz in zip(layers(exact), bounds, strict=True):
        # ``at`` is computed in float64, so it is off by less than 2⁻²⁶ of ``fixed``, which OUTWARD covers.
        within = (moves * most + fixed + slope * most) * OUTWARD
        line = LINES.get(type(layer), _of_each_number)(layer, lipschitz, at, within)
        fixed = (lipschitz * fixed + line.fixed + line.slope * fixed * OUTWARD) * OUTWARD
        slope = (lipschitz * slope + line.slope * (moves + slope) * OUTWARD) * OUTWARD
        moves, at = lipschitz * moves * OUTWARD, layer(at)
    fixed += 2 * SMALLEST * math.sqrt(at.numel())  # a comparison may read a tiny logit as 0
    return Line(fixed, slope) if fixed + slope * most < math.inf else Line(math.inf, math.inf)


# Rules: (layer, its ℓ2 bound, the exact input at the centre, the largest B) → a line in B.


def _norm(a: Tensor) -> float:
    return float(torch.linalg.vector_norm(a))


def _of_each_number(layer: nn.Module, lipschitz: float, at: Tensor, within: float) -> Line:
    """The rule of ``ROUNDING`` on the box around the largest ball."""
    return Line(_norm(rule(layer)(layer, Reach(at - within, at + within, torch.zeros_like(at))).error), 0.0)


def _flushed(layer: nn.Linear | nn.Conv2d, largest: float, terms: int, numbers: int) -> float:
    """Returns what flushing numbers to zero changes in all outputs, in ℓ2.  One output is as in ``rules.affine``."""
    each = (largest + 1) * float((layer.weight.double().abs() + 1).flatten(1).sum(1).amax()) + terms
    return 8 * SMALLEST * each * math.sqrt(numbers)


def _sizes(layer: nn.Linear | nn.Conv2d, at: Tensor) -> Tensor:
    """Returns |W|·|at| + |b|."""
    bias = None if layer.bias is None else layer.bias.double().abs()
    return apply_affine(layer, at.abs(), layer.weight.double().abs(), bias)


def _affine(layer: nn.Linear | nn.Conv2d, lipschitz: float, at: Tensor, within: float) -> Line:
    """γ·‖|W|·|x̂| + |b|‖₂ with |W|·|x̂| ≤ |W|·|centre| + |W|·|x̂ − centre|, whose last part is at most ‖|W|‖₂·B."""
    sizes, norm, terms = _sizes(layer, at), absolute_norm(layer), fan_in(layer) + 1
    if not _norm(sizes) + norm * within < LARGEST:  # no partial sum is larger
        return Line(math.inf, math.inf)
    largest = float(at.abs().amax()) + within
    return Line(gamma(terms) * _norm(sizes) + _flushed(layer, largest, terms, sizes.numel()), gamma(terms) * norm)


def _potential(layer: Potential, lipschitz: float, at: Tensor, within: float) -> Line:
    """‖W‖₂·‖ρ₁‖₂ for the rounding ρ₁ of W·x + b, and that of a sum of x and the products of Wᵀ·h.

    The computed h is at most relu(W·centre + b) + |W·(x̂ − centre)| + |ρ₁|.
    """
    first, second = layer.branch()
    inner, norm, absolute = _affine(first, lipschitz, at, within), math.sqrt(lipschitz + 1), absolute_norm(first)
    h = F.relu(apply_affine(first, at, first.weight.double(), None if first.bias is None else first.bias.double()))
    total, terms = _norm(at.abs() + _sizes(second, h)), fan_in(second) + 2
    stretched = 1 + absolute * (norm + inner.slope)
    largest = float(h.amax()) + norm * within + inner.fixed + inner.slope * within
    fixed = total + absolute * inner.fixed
    if not fixed + stretched * within < LARGEST:
        return Line(math.inf, math.inf)
    flushed = _flushed(second, largest, terms, at.numel())
    return Line(norm * inner.fixed + gamma(terms) * fixed + flushed, norm * inner.slope + gamma(terms) * stretched)


LINES: dict[type[nn.Module], Callable[[nn.Module, float, Tensor, float], Line]] = {
    nn.Linear: _affine,
    nn.Conv2d: _affine,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
}
