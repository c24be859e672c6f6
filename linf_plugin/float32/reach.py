"""What rounding can do to a net: bounds of |float32 output − exact output|, and radii that hold in float32.

An interval pass in float64.  Each layer type has one rule, from what is known of its input to what is known of
its output; the theorem, its proof and its assumptions are in docs/math.md.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import arguments, ops
from ..kernels.reference import coefficients
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ..layers.sort import SortDistLinear
from .program import LARGEST, SMALLEST, check_arithmetic, check_sequence

UNIT = 2.0**-24  # half the distance from 1 to the next float32: one rounding to nearest
POWER_UNITS = 32  # assumed: a finite-p distance of n coordinates is off by at most POWER_UNITS + n/p units
TANH_UNITS = 8  # assumed: tanh is off by at most 8 units, 4 ulps
OUTWARD = 1 + 2.0**-20  # covers the rounding of this pass itself: float64 rounds 2^29 times finer
MOST_TERMS = 1 << 20  # that a sum may have


class Reach(NamedTuple):
    """What is known of a layer's output over a ball, (N, *) each: lower ≤ exact ≤ upper, lower ≤ computed ≤ upper
    and |computed − exact| ≤ error, where "computed" is in float32 from the input onwards."""

    lower: Tensor
    upper: Tensor
    error: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(self.upper, -self.lower)  # the larger of |lower| and |upper|, as lower ≤ upper

    def rounded(self, amount: Tensor) -> "Reach":
        """After one more operation, off by at most ``amount`` in float32."""
        amount = torch.where(self.largest + amount < LARGEST, amount * OUTWARD, torch.inf)
        return Reach(self.lower - amount, self.upper + amount, (self.error + amount) * OUTWARD)


def _gamma(terms: int) -> float:
    """|computed − exact| ≤ gamma·Σ|terms| for a sum of products in any order, fused or not, with that many
    roundings at most on any path: n·u/(1 − n·u)."""
    if terms > MOST_TERMS:
        raise ValueError(f"no rounding error is known for sums of more than {MOST_TERMS} terms, got {terms}")
    return terms * UNIT / (1 - terms * UNIT)


def _added(x: Reach, offset: Tensor, sign: float = 1.0) -> Reach:
    """x + sign·offset, a channel at a time, rounded once."""
    lower, upper = (ops.shift(end, offset.double(), sign) for end in x[:2])
    y = Reach(lower, upper, x.error)
    return y.rounded(UNIT * y.largest + 4 * SMALLEST)


def _normalize(layer: Normalize, x: Reach) -> Reach:
    x, scale = _added(x, layer.mean, -1.0), layer.scale
    if scale == 1:
        return x
    y = Reach(*(scale * a for a in x))
    return y.rounded(UNIT * y.largest + (2 * scale + 2) * SMALLEST)


def _distance(layer, ends: tuple[Tensor, Tensor], moved: Tensor, units: float, flushed: float) -> Reach:
    """``moved`` bounds how far apart the exact distances of computed and of exact x are; a computed distance is
    off by at most ``units`` of itself and ``flushed`` numbers flushed to zero."""
    y = Reach(*ends, moved * OUTWARD)
    y = y.rounded(units * y.upper + flushed * SMALLEST)
    return y if layer.bias is None else _added(y, layer.bias)


def _power_rounding(layer: LinfDistLinear | LinfDistConv2d) -> tuple[float, float]:
    """(units, flushed) of an ℓp distance."""
    fan_in = math.prod(layer.weight.shape[1:])
    if layer.p == math.inf:  # one rounding a difference; their maximum is exact
        return UNIT, 4
    return POWER_UNITS * UNIT + _gamma(fan_in) / layer.p, 64 * fan_in ** (1 / layer.p)


def _rows(x: Reach) -> Reach:
    return Reach(*(a.reshape(-1, a.shape[-1]) for a in x))


def _dist_linear(layer: LinfDistLinear, x: Reach) -> Reach:
    rows, w = _rows(x), layer.weight.double()
    moved = torch.ops.linf.dist(rows.error, torch.zeros_like(w[:1]), layer.p).expand(-1, len(w))
    ends = torch.ops.linf.box_dist(rows.lower, rows.upper, w, layer.p)
    y = _distance(layer, ends, moved, *_power_rounding(layer))
    return Reach(*(a.reshape(*x.error.shape[:-1], len(w)) for a in y))


def _sort_dist_linear(layer: SortDistLinear, x: Reach) -> Reach:
    """In evaluation mode.  A term is rounded as a difference, as a product and in at most K − 1 of the sums."""
    rows, w, sort = _rows(x), layer.weight.double(), (layer.rho, layer.k)
    terms = len(coefficients(*sort, layer.in_features))
    moved = torch.ops.linf.sorted_dist(rows.error, torch.zeros_like(w[:1]), *sort)
    # A difference can be far larger than the sum, where ρ is small: it must not overflow either.
    overflows = rows.largest.amax(1, keepdim=True) + w.abs().max() >= LARGEST
    moved = torch.where(overflows, torch.inf, moved).expand(-1, len(w))
    ends = torch.ops.linf.box_sorted_dist(rows.lower, rows.upper, w, *sort)
    y = _distance(layer, ends, moved, _gamma(terms + 1), 4 * terms + 8)
    return Reach(*(a.reshape(*x.error.shape[:-1], len(w)) for a in y))


def _dist_conv2d(layer: LinfDistConv2d, x: Reach) -> Reach:
    w, conv = layer.weight.double(), layer.geometry
    moved = torch.ops.linf.dist_conv2d(x.error, torch.zeros_like(w[: layer.groups]), layer.p, *conv)
    moved = moved.repeat_interleave(len(w) // layer.groups, 1)
    ends = torch.ops.linf.box_conv2d(*x[:2], w, layer.p, *conv)
    return _distance(layer, ends, moved, *_power_rounding(layer))


def _mean_shift(layer: MeanShift, x: Reach) -> Reach:
    return _added(x, layer.running_mean, -1.0)


def _affine(apply: Callable) -> Callable:
    """The rule of W·x + b; ``apply(layer, x, W, b)`` computes it."""

    def rule(layer: nn.Linear | nn.Conv2d, x: Reach) -> Reach:
        w = layer.weight.double()
        bias = None if layer.bias is None else layer.bias.double()
        terms = math.prod(w.shape[1:]) + 1
        middle = apply(layer, (x.lower + x.upper) / 2, w, bias)
        radius = apply(layer, (x.upper - x.lower) / 2, w.abs(), None)
        # Where nothing has been rounded yet, and where noise is bounded layer by layer, there is no error.
        error = apply(layer, x.error, w.abs(), None) * OUTWARD if x.error.any() else torch.zeros_like(middle)
        y = Reach(middle - radius, middle + radius, error)
        largest = x.largest
        total = apply(layer, largest, w.abs(), None if bias is None else bias.abs())
        # At least Σ (|x_k| + 1)(|w_k| + 1), and no product: as a part of SMALLEST it need not be tight.
        flushed = samples(largest.flatten(1).amax(1) + 1, y.error) * (w.abs() + 1).flatten(1).sum(1).amax() + terms
        amount = _gamma(terms) * total + 8 * SMALLEST * flushed
        return y.rounded(torch.where(total < LARGEST, amount, torch.inf))  # no partial sum is larger

    return rule


def _relu(layer: nn.ReLU, x: Reach) -> Reach:
    upper = x.upper.clamp_min(0)
    return Reach(x.lower.clamp_min(0), upper, torch.minimum(x.error, upper))  # both lie in [0, upper]


def _tanh(layer: nn.Tanh, x: Reach) -> Reach:
    nearest = torch.maximum(x.lower, -x.upper).clamp_min(0).tanh()  # tanh's slope is largest nearest to 0
    y = Reach(x.lower.tanh(), x.upper.tanh(), x.error * (1 - nearest * nearest + 2.0**-40) * OUTWARD)
    return y.rounded(TANH_UNITS * UNIT * y.largest + 4 * SMALLEST)


def _same(layer: nn.Module, x: Reach) -> Reach:
    """Layers that move values and compute nothing."""
    return Reach(*(layer(a) for a in x))


RULES: dict[type, Callable[[nn.Module, Reach], Reach]] = {
    Normalize: _normalize,
    LinfDistLinear: _dist_linear,
    LinfDistConv2d: _dist_conv2d,
    SortDistLinear: _sort_dist_linear,
    MeanShift: _mean_shift,
    Negate: lambda _, x: Reach(-x.upper, -x.lower, x.error),
    nn.Linear: _affine(lambda _, x, w, b: F.linear(x, w, b)),
    nn.Conv2d: _affine(lambda layer, x, w, b: layer._conv_forward(x, w, b)),
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    CenterCrop: _same,
    nn.Flatten: _same,
    nn.Identity: _same,
}


CALLED = ("forward", "__call__", "_call_impl")  # what calling a module runs
MOVES = (Negate, CenterCrop, nn.Flatten, nn.Identity)  # layers that round nothing and whose bounds round nothing


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a sequential net, in order.  Raises TypeError for one without a rule."""
    if type(model) in RULES:
        return [model]
    if isinstance(model, nn.Sequential) and all(getattr(type(model), a) is getattr(nn.Sequential, a) for a in CALLED):
        return [layer for child in model for layer in layers(child)]
    raise TypeError(
        f"no bound of the rounding error is known for {type(model).__name__}; sound=False leaves rounding out"
    )


def check_program(model: nn.Module, x: Tensor) -> None:
    """That the theorem speaks of this net on this machine.

    Raises:
        TypeError: a layer has no rule, or a forward or another attribute in place of its class's; weights or x are
            not float32; a scale is no float32 number; the model is compiled, or no module.
        ValueError: the net is in training mode.  x has no batch dimension, another shape than the net's
            ``input_shape``, or is on another device.
        RuntimeError: a module has forward hooks or is compiled in place.  x is on a device other than a CPU or a
            CUDA GPU.  This process would not compute the net in float32, by its settings or environment (autocast,
            TF32 or bfloat16 products, cuDNN, NNPACK) or as is seen of its products (``arithmetic``).
    """
    arguments.check_model(model, evaluation=False)
    check_sequence(model)
    arguments.check_samples(x, model)
    check_arithmetic(model, layers(model), x)


def samples(a: Tensor, like: Tensor) -> Tensor:
    """(N,) in the shape that broadcasts over (N, *)."""
    return a.view(-1, *[1] * (like.dim() - 1))


@torch.no_grad()
def reach(model: nn.Module, lower: Tensor, upper: Tensor) -> Reach:
    """Exact and float32 outputs of a net over all float32 inputs between ``lower`` and ``upper``.

    Args:
        model: sequential, in evaluation mode, of float32 weights or their float64 copies.
        lower, upper: (N, *) float64.

    Returns:
        (N, classes) float64 each; the error is infinite where an activation may overflow.

    Raises:
        TypeError, ValueError: a layer has no rule in ``RULES``; lower or upper is not as described.
    """
    arguments.check_box(lower, upper)
    y = Reach(lower, upper, torch.zeros_like(lower))
    finite = torch.ones(len(lower), dtype=torch.bool, device=lower.device)
    for layer in layers(model):
        y = RULES[type(layer)](layer, y)
        finite &= y.error.flatten(1).isfinite().all(1)
    error = y.error + 2 * SMALLEST  # a comparison of logits may read a tiny one as 0
    return y._replace(error=torch.where(samples(finite, error), error, torch.inf))
