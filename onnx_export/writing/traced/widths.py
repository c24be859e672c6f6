"""By how much the ends of an interval are moved outwards, so that they bound the float32 values of the file.

The graph in the file computes the width of each operation from the ends of its inputs: times·magnitude + added.  The
magnitude is a sum of the sizes of all terms that the operation adds.  docs/onnx.md, "Traced nets", has the proof.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from linf_plugin.float32.operations import ELU_UNITS, SIGMOID_UNITS, SOFTPLUS_UNITS
from linf_plugin.float32.program import SMALLEST
from linf_plugin.float32.reach import rule
from linf_plugin.float32.rules import OUTWARD, TANH_UNITS, UNIT, Reach, gamma
from linf_plugin.graphs.fusion import PRODUCTS, fan_in, later_roundings
from linf_plugin.graphs.graph import Graph
from linf_plugin.graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Slope,
    Softplus,
)
from linf_plugin.intervals import apply_affine
from linf_plugin.kernels.reference import coefficients
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.refusal import rule_of

from ..certificate import BITS, BOX_ROUNDING, above, up
from .forms import Shape

FLUSHED = 64  # times SMALLEST: numbers that may be flushed to zero, in a value, in an end and in a width
FUNCTION_ERRORS = 3  # of a function: that of a value, of an end, and less than one for the rest
MOST = 2.0**120  # no magnitude may be larger for any image: then nothing overflows, in values or in ends


class Width(NamedTuple):
    """The width of an operation: times·magnitude + added.

    Attributes:
        times, added: as above.
        spread: the factor of the radius of a product, which covers the rounding of that radius.
        rounds: False if the operation is exact.
    """

    times: float = 0.0
    added: float = 0.0
    spread: float = 1.0
    rounds: bool = True


class _Static(NamedTuple):
    """The width of an operation over all images.

    Attributes:
        roundings: how often a term is rounded in a value, at most; 0 if the width does not depend on the ends.
        magnitude: its largest value.
        flushed: numbers of size SMALLEST that may be flushed to zero.
        fixed: a width that does not depend on the ends.
        times: instead of that of ``roundings``.
        spread: as in ``Width``.
    """

    roundings: int = 0
    magnitude: float = 0.0
    flushed: float = 4.0
    fixed: float = 0.0
    times: float = 0.0
    spread: float = 1.0


def _gamma(roundings: int) -> float:
    """Returns γ of ``rules.gamma`` without its limit: three sums may become one."""
    return roundings * UNIT / (1 - roundings * UNIT)


def _times(roundings: int) -> float:
    """Returns how often a magnitude counts, if a term is rounded this often in a value and in an end.

    The value is off by γ(n)·magnitude and the end by γ(n + 2)·magnitude.  The computed width is too small by at most
    γ(3n + 8) of itself.
    """
    gamma(roundings)  # raises if there are too many
    return 2 * _gamma(roundings + 2) / (1 - _gamma(3 * roundings + 8))


def terms(layer: nn.Module) -> int:
    """Returns how often a term of a product is rounded, at most."""
    return fan_in(layer) + 1 + later_roundings(layer)


def _largest(a: Tensor) -> float:
    return float(a.max()) if a.numel() else 0.0


def _exact(module: nn.Module, *xs: Reach) -> None:
    """The rule of operations that round nothing: they move numbers, change their signs, or choose among them."""


def _product(layer: nn.Module, x: Reach) -> _Static:
    w = layer.weight.abs()
    of_outputs = w.transpose(0, 1) if getattr(layer, "transposed", False) else w
    total = apply_affine(layer, x.largest, w, None if layer.bias is None else layer.bias.abs())
    flushed = (_largest(x.largest) + 1) * _largest((of_outputs + 1).flatten(1).sum(1)) + terms(layer)
    if getattr(layer, "later", None) is not None:
        flushed /= float(layer.later.least.min())  # a folded weight may be so much smaller, and is then flushed
    return _Static(terms(layer), _largest(total), flushed, spread=1 / (1 - _gamma(2 * terms(layer) + 6)))


def _average(module: Average, *xs: Reach) -> _Static:
    magnitude = _largest(module(*(x.largest for x in xs)))
    return _Static(module.terms + 3, magnitude, module.terms + 2)


def _add(module: Add, x: Reach, y: Reach) -> _Static:
    return _Static(module.fused, _largest(x.largest + y.largest))


def _multiply(module: Multiply, x: Reach, y: Reach) -> _Static:
    return _Static(flushed=2 * (_largest(x.largest) + _largest(y.largest) + 4))


def _affine(module: Affine, x: Reach) -> _Static | None:
    if module.roundings == 0:
        return None
    factor = module.factor.abs()
    magnitude = factor * (x.largest + module.centre.abs()) + module.offset.abs()
    flushed = (factor + 1) * (x.largest + module.centre.abs() + 4) + module.offset.abs()
    roundings = module.fused or (module.roundings if module.roundings > 1 else 0)
    return _Static(roundings, _largest(magnitude), _largest(flushed))


def _sorted_sum(layer: SortDistLinear, x: Reach) -> _Static:
    count = len(coefficients(layer.rho, layer.k, layer.in_features))
    magnitude = _largest(x.largest) + _largest(layer.weight.abs())  # a difference; no sum is larger
    return _Static(count + 1, magnitude, 4 * count + 8)


def _distance(layer: LinfDistLinear | LinfDistConv2d, x: Reach) -> _Static:
    return _Static(magnitude=_largest(x.largest) + _largest(layer.weight.abs()))


def _softplus(module: Softplus, x: Reach) -> _Static:
    left_out = math.exp(-module.threshold + 0.01) / module.beta
    fixed = FUNCTION_ERRORS * (SOFTPLUS_UNITS * UNIT / module.beta + left_out)
    magnitude = max(1.0, module.beta) * (_largest(x.largest) + 1 / module.beta)
    return _Static(magnitude=magnitude, fixed=fixed, times=FUNCTION_ERRORS * SOFTPLUS_UNITS * UNIT)


def _function(units: float) -> Callable[..., _Static]:
    return lambda module, x: _Static(fixed=FUNCTION_ERRORS * units * UNIT)


# Type of an operation → (module, what its inputs may be over all images) → its width; None if it is exact.
WIDTHS: dict[type[nn.Module], Callable[..., _Static | None]] = {
    **dict.fromkeys((nn.Identity, nn.ReLU, Gather, Largest, Clamp, Limit), _exact),
    **dict.fromkeys(PRODUCTS, _product),
    Average: _average,
    Add: _add,
    Multiply: _multiply,
    Affine: _affine,
    Slope: lambda module, x: _Static(flushed=_largest(module.slope) + 4),
    Elu: lambda module, x: _Static(fixed=FUNCTION_ERRORS * ELU_UNITS * UNIT * module.alpha),
    Softplus: _softplus,
    nn.Tanh: _function(TANH_UNITS),
    nn.Sigmoid: _function(SIGMOID_UNITS),
    LinfDistLinear: _distance,
    LinfDistConv2d: _distance,
    SortDistLinear: _sorted_sum,
}


@torch.no_grad()
def widths(graph: Graph, shape: Shape) -> list[Width]:
    """Returns the width of each operation, for all images with pixels in [0, 1].

    Args:
        graph: as ``folding.folded`` returns it, with distances at p = ∞.
        shape: of a sample.

    Raises:
        ValueError: an activation or a sum may exceed ``MOST``.
        TypeError: an operation has no rule.
    """
    exact = copy.deepcopy(graph).double()
    lower = torch.full((1, *shape), -BOX_ROUNDING, dtype=torch.float64)
    values, found = [Reach(lower, 1 - lower, torch.zeros_like(lower))], []
    for module, inputs, where in exact.nodes:
        given = [values[i] for i in inputs]
        y, width, by = rule(module)(module, *given), Width(rounds=False), 0.0
        if (s := rule_of(WIDTHS, module, "interval bound")(module, *given)) is not None:
            times = _times(s.roundings) if s.roundings else s.times
            width = Width(
                above(up(times * OUTWARD, BITS)),
                above(up((FLUSHED * SMALLEST * s.flushed + s.fixed) * OUTWARD, BITS)),
                above(s.spread * OUTWARD) if s.spread > 1 else 1.0,
            )
            by = (width.times + width.spread - 1) * s.magnitude + width.added if s.magnitude < MOST else math.inf
        if not _largest(y.largest) + by < MOST:
            raise ValueError(f"{where}: activations of model may overflow: no certificate holds")
        found.append(width)
        values.append(Reach(y.lower - 3 * by, y.upper + 3 * by, torch.zeros_like(y.error)))
    return found


def margin_width(layer: nn.Linear, width: Width) -> Width:
    """Returns what the difference of two logits of the last layer must exceed.  Its magnitude is that of both.

    The logits are off by γ(n)·magnitude, and the difference, in which weights are subtracted first, by γ(2n + 6)·it.
    """
    n = terms(layer)
    times = (_gamma(n) + _gamma(2 * n + 6)) / (1 - _gamma(n + 6)) * OUTWARD
    return Width(above(up(times, BITS)), 4 * width.added)
