"""Bounds of what rounding does to a net: of |float32 output − exact output|.

They come from an interval pass in float64.  Each layer type has one rule, which turns what is known of the layer's
input into what is known of its output.  The theorem, its proof and its assumptions are in docs/math.md.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from ..graphs.ends import ends as ends_of
from ..graphs.fusion import fan_in
from ..graphs.operations import Affine, normalisation
from ..intervals import affine as affine_ends
from ..intervals import apply_affine, distances, interval
from ..kernels.reference import coefficients
from ..layers.activations import MaxMin, ParamRamp
from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.facts import RANDOM, TRAINED
from ..layers.noise import DRAWS
from ..layers.potential import Potential, PotentialConv2d, PotentialLinear
from ..layers.reparametrised import MATERIALISE
from ..layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from ..layers.sort import SortDistLinear
from ..refusal import Refusal
from .program import LARGEST, SMALLEST

UNIT = 2.0**-24  # half the distance from 1 to the next float32: the relative error of one rounding to nearest
POWER_UNITS = 32  # assumed: a finite-p distance of n coordinates is off by at most POWER_UNITS + n/p units
TANH_UNITS = 8  # assumed: tanh is off by at most 8 units, 4 ulps
TANH_FLUSHED = 512  # assumed: and by so many times 2^-126 if numbers are flushed to zero inside of it
OUTWARD = 1 + 2.0**-20  # covers the rounding of this pass itself: float64 rounds 2^29 times finer than float32
MOST_TERMS = 1 << 20  # the most terms of one sum


class Reach(NamedTuple):
    """What is known of a layer's output over a ball, (N, *) each.

    lower ≤ exact ≤ upper, lower ≤ computed ≤ upper and |computed − exact| ≤ error.  "Computed" means: in float32, from
    the net's input onwards.
    """

    lower: Tensor
    upper: Tensor
    error: Tensor

    @property
    def largest(self) -> Tensor:
        return torch.maximum(self.upper, -self.lower)  # the larger of |lower| and |upper|, as lower ≤ upper

    def rounded(self, amount: Tensor) -> "Reach":
        """Returns what is known after one more operation, whose float32 result is off by at most ``amount``."""
        amount = torch.where(self.largest + amount < LARGEST, amount * OUTWARD, torch.inf)
        return Reach(self.lower - amount, self.upper + amount, (self.error + amount) * OUTWARD)


def gamma(terms: int) -> float:
    """Returns γ = n·u/(1 − n·u) for n = ``terms`` and u = ``UNIT``.

    A sum of products satisfies |computed − exact| ≤ γ·Σ|terms|, in any order, fused or not, if every product passes at
    most n roundings.  Raises ValueError if n is above ``MOST_TERMS``.
    """
    if terms > MOST_TERMS:
        raise ValueError(f"no rounding error is known for sums of more than {MOST_TERMS} terms, got {terms}")
    return terms * UNIT / (1 - terms * UNIT)


def samples(a: Tensor, like: Tensor) -> Tensor:
    """Returns a, (N,), in the shape that broadcasts over ``like``, (N, *)."""
    return a.view(-1, *[1] * (like.dim() - 1))


def rows(a: Tensor) -> Tensor:
    """Returns a, (N, *), as (N, numbers of a sample); (N,) becomes (N, 1)."""
    return a.flatten(1) if a.dim() > 1 else a.unsqueeze(1)


def _added(x: Reach, offset: Tensor, sign: float = 1.0) -> Reach:
    """The rule of x + sign·offset, with one offset for each channel, rounded once."""
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
    """The rule of a distance, and of its bias.

    Args:
        layer: the layer.
        ends: the interval of the exact distance.
        moved: bounds |distance of computed x − distance of exact x|, where both distances are exact.
        units, flushed: float32 computes a distance d up to units·d + flushed·SMALLEST, the latter for numbers that are
            flushed to zero.
    """
    y = Reach(*ends, moved * OUTWARD)
    y = y.rounded(units * y.upper + flushed * SMALLEST)
    return y if layer.bias is None else _added(y, layer.bias)


def _power_rounding(layer: LinfDistLinear | LinfDistConv2d) -> tuple[float, float]:
    """Returns (units, flushed) of an ℓp distance, as ``_distance`` takes them."""
    fan_in = math.prod(layer.weight.shape[1:])
    if layer.p == math.inf:  # each difference is rounded once, and their maximum is exact
        return UNIT, 4
    return POWER_UNITS * UNIT + gamma(fan_in) / layer.p, 64 * fan_in ** (1 / layer.p)


def _rows(x: Reach) -> Reach:
    return Reach(*(a.reshape(-1, a.shape[-1]) for a in x))


def _dist_linear(layer: LinfDistLinear, x: Reach) -> Reach:
    rows, w = _rows(x), layer.weight.double()
    moved = torch.ops.linf.dist(rows.error, torch.zeros_like(w[:1]), layer.p).expand(-1, len(w))
    y = _distance(layer, distances(layer, rows[:2]), moved, *_power_rounding(layer))
    return Reach(*(a.reshape(*x.error.shape[:-1], len(w)) for a in y))


def _sort_dist_linear(layer: SortDistLinear, x: Reach) -> Reach:
    """The rule in evaluation mode.  A term is rounded as a difference, as a product and in at most K − 1 sums."""
    rows, w, sort = _rows(x), layer.weight.double(), (layer.rho, layer.k)
    terms = len(coefficients(*sort, layer.in_features))
    moved = torch.ops.linf.sorted_dist(rows.error, torch.zeros_like(w[:1]), *sort)
    # Where ρ is small, a difference can be far larger than the sum.  It must not overflow either.
    overflows = rows.largest.amax(1, keepdim=True) + w.abs().max() >= LARGEST
    moved = torch.where(overflows, torch.inf, moved).expand(-1, len(w))
    y = _distance(layer, distances(layer, rows[:2]), moved, gamma(terms + 1), 4 * terms + 8)
    return Reach(*(a.reshape(*x.error.shape[:-1], len(w)) for a in y))


def _dist_conv2d(layer: LinfDistConv2d, x: Reach) -> Reach:
    w, conv = layer.weight.double(), layer.geometry
    moved = torch.ops.linf.dist_conv2d(x.error, torch.zeros_like(w[: layer.groups]), layer.p, *conv)
    moved = moved.repeat_interleave(len(w) // layer.groups, 1)
    return _distance(layer, distances(layer, x[:2]), moved, *_power_rounding(layer))


def _mean_shift(layer: MeanShift, x: Reach) -> Reach:
    return _added(x, layer.running_mean, -1.0)


def affine(layer: nn.Module, x: Reach) -> Reach:
    """The rule of linear layers and of convolutions of any kind.

    If operations may be folded into the layer, weights may become so much smaller that they are flushed, or larger.
    """
    w, later = layer.weight.double(), getattr(layer, "later", None)
    bias = None if layer.bias is None else layer.bias.double().abs()
    of_outputs = w.transpose(0, 1) if getattr(layer, "transposed", False) else w
    terms = fan_in(layer) + 1 + (later.roundings if later else 0)
    ends = affine_ends(layer, x[:2])
    # The input has no error if nothing has been rounded yet, or if noise is bounded layer by layer.
    error = apply_affine(layer, x.error, w.abs(), None) * OUTWARD if x.error.any() else torch.zeros_like(ends[0])
    y, largest = Reach(*ends, error), x.largest
    total = apply_affine(layer, largest, w.abs(), bias)
    # At least Σ (|x_k| + 1)(|w_k| + 1).  It only multiplies SMALLEST, so it need not be tight, and a product is saved.
    flushed = samples(largest.flatten(1).amax(1) + 1, y.error) * (of_outputs.abs() + 1).flatten(1).sum(1).amax() + terms
    flushed, fits = 8 * SMALLEST * flushed, total < LARGEST  # no partial sum is larger than the total
    if later:
        flushed = flushed / later.least
        fits = fits & (total * later.most < LARGEST) & (w.abs().max() * later.most < LARGEST)
    return y.rounded(torch.where(fits, gamma(terms) * total + flushed, torch.inf))


def _potential(layer: Potential, x: Reach) -> Reach:
    """The rule of x − Wᵀ·relu(W·x + b): the sum of the branch is rounded by itself, or begins at x."""
    first, second = layer.branch()
    h = affine(first, x)
    h = Reach(F.relu(h.lower), F.relu(h.upper), h.error)
    w = second.weight.double().abs()
    terms, total = fan_in(second) + 2, x.largest + apply_affine(second, h.upper, w, None)
    least, most = affine_ends(second, h[:2])
    error = x.error + apply_affine(second, h.error, w, None)
    y = Reach(x.lower - most, x.upper - least, error * OUTWARD)
    # At least Σ (h_k + 1)·(|w_k| + 1), as in ``affine``.
    flushed = samples(h.upper.flatten(1).amax(1) + 1, total) * (w + 1).flatten(1).sum(1).amax() + terms
    return y.rounded(torch.where(total < LARGEST, gamma(terms) * total + 8 * SMALLEST * flushed, torch.inf))


def by_number(module: Affine, x: Reach) -> Reach:
    """The rule of factor·(x − centre) + offset.

    Each of factor·x, factor·centre and offset passes at most ``roundings`` roundings, or ``fused`` ones.
    """
    factor = module.factor.abs()
    y = Reach(*ends_of(module, x[:2]), factor * x.error * OUTWARD)
    if module.roundings == 0:
        return y
    parts = factor * (x.largest + module.centre.abs()) + module.offset.abs()
    alone = UNIT * y.largest if module.roundings == 1 else gamma(module.roundings) * parts
    amount = alone if module.fused == 0 else torch.maximum(alone, gamma(module.fused) * parts)
    flushed = (factor + 1 + module.last) * (x.largest + module.centre.abs() + 4) + module.offset.abs()
    limit = torch.maximum(torch.maximum(parts, factor.expand_as(parts)), x.largest + module.centre.abs())
    return y.rounded(torch.where(limit < LARGEST, amount + 8 * flushed * SMALLEST, torch.inf))


def _batch_norm(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Reach) -> Reach:
    """The rule in evaluation mode, which is that of a traced net.  Two of its roundings are of variance + eps."""
    return by_number(normalised(layer, x.error.dim() - 1), x)


def normalised(layer: nn.BatchNorm1d | nn.BatchNorm2d, dimensions: int) -> Affine:
    """Returns batch normalisation as an operation on samples of so many dimensions.

    Raises:
        TypeError: the layer normalises by its batch, or a variance is too small for float32.
    """
    if layer.training or layer.running_mean is None:
        raise TypeError(f"{type(layer).__name__} normalises by its batch, so nothing holds for one sample")
    weight, bias = (None if a is None else a.detach() for a in (layer.weight, layer.bias))
    try:
        return normalisation(layer.running_mean, layer.running_var, weight, bias, layer.eps, dimensions)
    except ValueError as error:
        raise TypeError(f"no bound of the rounding error is known for {type(layer).__name__}: {error}") from error


def limited(x: Reach, ends: tuple[Tensor, Tensor]) -> Reach:
    """The rule of maxima and minima with constants, which are exact: both values lie between the new ends."""
    lower, upper = ends
    return Reach(lower, upper, torch.minimum(x.error, (upper - lower) * OUTWARD))


def _ramp(layer: ParamRamp, x: Reach) -> Reach:
    return limited(x, interval(layer, x[:2]))


def _max_min(layer: MaxMin, x: Reach) -> Reach:
    """|max x̂ − max x| ≤ max |x̂ − x| over a pair, and the same for the minimum."""
    error = torch.maximum(x.error[:, ::2], x.error[:, 1::2]).repeat_interleave(2, 1)
    return Reach(*interval(layer, x[:2]), error)


def _relu(layer: nn.ReLU, x: Reach) -> Reach:
    ends = interval(layer, x[:2])
    return Reach(*ends, torch.minimum(x.error, ends[1]))  # the exact and the computed value lie in [0, upper]


def _tanh(layer: nn.Tanh, x: Reach) -> Reach:
    nearest = torch.maximum(x.lower, -x.upper).clamp_min(0).tanh()  # tanh is steepest nearest to 0
    y = Reach(*interval(layer, x[:2]), x.error * (1 - nearest * nearest + 2.0**-40) * OUTWARD)
    return y.rounded(TANH_UNITS * UNIT * y.largest + TANH_FLUSHED * SMALLEST)


def _same(layer: nn.Module, x: Reach) -> Reach:
    """The rule of layers that only move or negate values.  An error has no sign."""
    return Reach(*interval(layer, x[:2]), layer(x.error).abs())


ROUNDING: dict[type[nn.Module], Callable[[nn.Module, Reach], Reach] | Refusal] = {
    Normalize: _normalize,
    CenterCrop: _same,
    nn.Flatten: _same,
    nn.Identity: _same,
    LinfDistLinear: _dist_linear,
    LinfDistConv2d: _dist_conv2d,
    SortDistLinear: _sort_dist_linear,
    MeanShift: _mean_shift,
    Negate: _same,
    nn.Linear: affine,
    nn.Conv2d: affine,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    ParamRamp: _ramp,
    MaxMin: _max_min,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}
