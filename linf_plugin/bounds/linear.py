"""Linear bounds (CROWN) through distances, as pure functions: back-substitution and forward substitution.

Both go through blocks of neurons.  The lines of a block (``lines.Side``) are made when they are needed and then
dropped, so that no whole (batch, out, in) tensor is held.  A convolution is a distance of some pixels for each window.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels import windows
from ..kernels.geometry import Geometry
from . import lines
from .lines import Side

BLOCK_BYTES = 1 << 22  # of one (batch, neurons of the block, in) tensor, and of one (S, batch, neurons) tensor

MOST_KEPT = 1 << 22  # lines are remembered for at most so many numbers of a box, and neurons of a batch

# (lower (rows, in), upper, w (neurons, in), many=) → lines below and above
MakeLines = Callable[..., tuple[Side, Side]]


class Block(NamedTuple):
    """The lines of some neurons.  ``neurons`` has their positions in the flattened output."""

    neurons: Tensor
    below: Side
    above: Side

    def parts(self, most: int) -> Iterator["Block"]:
        """Yields the block in parts of at most ``most`` neurons."""
        for k in range(0, len(self.neurons), most):
            part = slice(k, k + most)
            yield Block(
                self.neurons[part], *(Side(*(None if a is None else a[:, part] for a in side)) for side in self[1:])
            )


class Blocks(NamedTuple):
    """All blocks of a layer.

    Attributes:
        features, neurons: how many numbers the layer takes and gives.
        padded: whether there is padding; it is one more number that the layer takes, which is always 0.
        small: whether each line has few slopes.
        dtype: of the lines.
        walk: many → the blocks, with all candidates if ``many``, else only with the default ones.
    """

    features: int
    neurons: int
    padded: bool
    small: bool
    dtype: torch.dtype
    walk: Callable[[bool], Iterator[Block]]


def _fully_connected(make: MakeLines, small: bool, lower: Tensor, upper: Tensor, w: Tensor) -> Blocks:
    """Returns the blocks of a layer with lower, upper (B, in) and w (out, in)."""
    step = max(1, BLOCK_BYTES // max(1, lower.numel() * lower.element_size()))
    neurons = torch.arange(len(w), device=w.device)

    def walk(many: bool) -> Iterator[Block]:
        for k in range(0, len(w), step):
            yield Block(neurons[k : k + step], *make(lower, upper, w[k : k + step], many=many))

    return Blocks(w.shape[1], len(w), False, small, lower.dtype, walk)


def _windows(make: MakeLines, small: bool, lower: Tensor, upper: Tensor, w: Tensor, conv: tuple) -> Blocks:
    """Returns the blocks of a layer of windows: lower, upper (B, C, H, W), w (out, C/groups, kh, kw)."""
    batch, groups, pixels = len(lower), conv[3], math.prod(lower.shape[1:])
    names = torch.arange(1, pixels + 1, dtype=torch.float64, device=lower.device).view(1, *lower.shape[1:])
    at = windows.unfold(names, w.shape, conv).long() - 1  # (groups, windows, in): which pixel; −1 is padding
    at = torch.where(at < 0, pixels, at)
    low, high = (torch.cat([a.flatten(1), a.new_zeros(batch, 1)], 1) for a in (lower, upper))
    channels, count, fan_in = len(w) // groups, at.shape[1], at.shape[2]
    flat = w.reshape(groups, channels, fan_in)

    def on_image(side: Side, place: Tensor) -> Side:
        """Turns rows of windows, (B·windows, channels), into neurons of an image, (B, windows·channels)."""
        neurons = len(place) * side.consts.shape[1]
        if side.index is None:
            index = place.unsqueeze(1).expand(batch, -1, side.consts.shape[1], -1)
        else:
            window = torch.arange(len(place), device=place.device).repeat(batch)[:, None, None]
            index = place[window, side.index]
        return Side(
            index.reshape(batch, neurons, index.shape[-1]), *(a.reshape(batch, neurons, *a.shape[2:]) for a in side[1:])
        )

    each = max(1, batch * fan_in * lower.element_size())
    window_step = max(1, min(count, BLOCK_BYTES // each))
    channel_step = max(1, min(channels, BLOCK_BYTES // (each * window_step)))

    def walk(many: bool) -> Iterator[Block]:
        for g in range(groups):
            for v in range(0, count, window_step):
                place = at[g, v : v + window_step]
                rows = [a[:, place].reshape(-1, fan_in) for a in (low, high)]
                for k in range(0, channels, channel_step):
                    sides = make(*rows, flat[g, k : k + channel_step], many=many)
                    channel = g * channels + torch.arange(k, min(k + channel_step, channels), device=at.device)
                    window = torch.arange(v, v + len(place), device=at.device)
                    yield Block((channel * count + window.unsqueeze(1)).flatten(), *(on_image(s, place) for s in sides))

    return Blocks(pixels, len(w) * count, True, small, lower.dtype, walk)


def dist_blocks(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> Blocks:
    """Returns the blocks of ‖x − w_k‖_p: lower, upper (B, in), w (out, in)."""
    return _fully_connected(partial(lines.dist, p=p), p == math.inf, lower, upper, w)


def sorted_dist_blocks(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> Blocks:
    """Returns the blocks of sorted sums of |x − w_k|: lower, upper (B, in), w (out, in)."""
    return _fully_connected(partial(lines.sorted_sum, rho=rho, k=k), False, lower, upper, w)


def dist_conv2d_blocks(lower: Tensor, upper: Tensor, w: Tensor, p: float, *conv) -> Blocks:
    """Returns the blocks of the distances of windows: lower, upper (B, C, H, W), w (out, C/groups, kh, kw)."""
    return _windows(partial(lines.dist, p=p), p == math.inf, lower, upper, w, Geometry(*conv))


def tanh_blocks(lower: Tensor, upper: Tensor) -> Blocks:
    """Returns the blocks of tanh: lower, upper (B, *)."""
    features = math.prod(lower.shape[1:])

    def walk(many: bool) -> Iterator[Block]:
        neurons = torch.arange(features, device=lower.device)
        yield Block(neurons, *lines.tanh(lower.flatten(1), upper.flatten(1), many))

    return Blocks(features, features, False, True, lower.dtype, walk)


class Memory:
    """Keeps the blocks of a layer for the next pass over the same box, if they are small.

    The pass from each later layer and each step of an optimisation need the same lines.
    """

    def __init__(self):
        self._key, self._kept = [], {}

    def recall(self, blocks: Blocks, *key: Tensor) -> Blocks:
        """Returns ``blocks``, or those of the last call if all tensors of ``key`` had the same values.

        ``key`` has the tensors on which the blocks depend.
        """
        differentiable = torch.is_grad_enabled() and any(a.requires_grad for a in key)
        if (
            differentiable
            or not blocks.small
            or max(len(key[0]) * blocks.neurons, *(a.numel() for a in key)) > MOST_KEPT
        ):
            return blocks
        if len(key) != len(self._key) or not all(map(_same, key, self._key)):
            self._key, self._kept = [a.detach().clone() for a in key], {}
        kept = self._kept

        def walk(many: bool) -> Iterator[Block]:
            if many not in kept:
                kept[many] = list(blocks.walk(many))
            return iter(kept[many])

        return blocks._replace(walk=walk)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


def _pull(A: Tensor, side: Side, weights: Tensor | None, slopes: Tensor, consts: Tensor) -> None:
    """Replaces y in A·y by its lines of one side, and adds the result to ``slopes`` and ``consts``.

    A: (S, B, neurons).  weights: (S or 1, B, neurons, J), or None for the default candidates.  slopes: coefficients of
    x, (S, B, features).  consts: (S, B).
    """
    if weights is None:
        side, parts = side.chosen(), A.unsqueeze(3)
    else:
        parts = A.unsqueeze(3) * weights
    consts += torch.einsum("sboj,boj->sb", parts, side.consts)
    if side.index is None:
        slopes += torch.einsum("sboj,boji->sbi", parts, side.slopes)
    else:
        each = torch.einsum("sboj,bojk->sbok", parts, side.slopes).flatten(2)
        slopes.scatter_add_(2, side.index.flatten(1).expand(len(each), -1, -1), each)


def _weights(raw: Tensor, default: Tensor) -> Tensor:
    """Returns weights on the simplex, (S, B, neurons, J), also if ``raw`` (J, S, B, neurons) is not on it."""
    raw = raw.clamp_min(0).movedim(0, 3)
    total = raw.sum(3, keepdim=True)
    start = F.one_hot(default, raw.shape[3]).to(raw)
    return torch.where(total > 0, raw / torch.where(total > 0, total, 1), start)


def back_substitute(
    blocks: Blocks, lA: Tensor | None, uA: Tensor | None, alpha: Tensor | None = None
) -> tuple[Tensor | None, Tensor | float, Tensor | None, Tensor | float]:
    """Turns coefficients of y into coefficients of x: lA·y ≥ lA'·x + lbias and uA·y ≤ uA'·x + ubias.

    For lA a positive coefficient takes a line below, and a negative coefficient takes a line above.  For uA it is the
    other way round.

    Args:
        lA, uA: (S, B, neurons) or None.
        alpha: weights of the candidates, (2, J, S or 1, B, neurons).  Index 0 is for lA and 1 for uA.  J counts the
            candidates below and then those above.  Negative weights count as 0, and the weights of each side are
            divided by their sum.

    Returns:
        lA' (S, B, features), lbias (S, B), uA', ubias; (None, 0) for a side that is None.
    """
    A = next(a for a in (lA, uA) if a is not None)
    most = max(1, BLOCK_BYTES // max(1, A[:, :, 0].numel() * A.element_size()))
    dtype, features = blocks.dtype, blocks.features + blocks.padded
    sides = [
        None if a is None else (a.new_zeros(*a.shape[:2], features, dtype=dtype), a.new_zeros(a.shape[:2], dtype=dtype))
        for a in (lA, uA)
    ]
    parts = (part for block in blocks.walk(alpha is not None) for part in block.parts(most))
    for block in parts:
        for which, (a, sums) in enumerate(zip((lA, uA), sides)):
            if sums is None:
                continue
            part = a[..., block.neurons].to(dtype)
            weights = [None, None]
            if alpha is not None:
                raw, below = alpha[which][..., block.neurons], block.below.consts.shape[2]
                weights = [_weights(raw[:below], block.below.default), _weights(raw[below:], block.above.default)]
            signed = part.clamp_min(0), part.clamp_max(0)
            to_below, to_above = signed if which == 0 else reversed(signed)
            _pull(to_below, block.below, weights[0], *sums)
            _pull(to_above, block.above, weights[1], *sums)
    (lA, lbias), (uA, ubias) = ((None, 0.0) if sums is None else sums for sums in sides)
    if blocks.padded:
        lA, uA = (None if a is None else a[..., :-1] for a in (lA, uA))
    return lA, lbias, uA, ubias


def starting_weights(blocks: Blocks) -> tuple[Tensor, int]:
    """Returns the weights that choose the default candidates, (J, B, neurons), and how many candidates are below.

    The candidates below come first, then those above.
    """
    found, below = None, 0
    for block in blocks.walk(True):
        one_hot = torch.cat(
            [
                F.one_hot(side.default, side.consts.shape[2]).to(side.consts).movedim(2, 0)
                for side in (block.below, block.above)
            ]
        )
        found = one_hot.new_zeros(*one_hot.shape[:2], blocks.neurons) if found is None else found
        found[..., block.neurons] = one_hot
        below = block.below.consts.shape[2]
    return found, below


def forward_substitute(
    blocks: Blocks, lw: Tensor, lb: Tensor, uw: Tensor, ub: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turns linear bounds of the layer's input x into linear bounds of its output y.

    The bounds lw·x₀ + lb ≤ x ≤ uw·x₀ + ub are linear in the net's input x₀.
    Shapes: lw, uw (B, D, features), lb, ub (B, features) → (B, D, neurons), (B, neurons).
    """
    if blocks.padded:
        lw, lb, uw, ub = (F.pad(a, (0, 1)) for a in (lw, lb, uw, ub))
    low = [torch.cat([w, b.unsqueeze(1)], 1) for w, b in ((lw, lb), (uw, ub))]  # the constant as one more input

    def through(side: Side, ends: list[Tensor]) -> Tensor:
        """slopes⁺·ends[0] + slopes⁻·ends[1] + const: (B, D + 1, neurons)."""
        side, total = side.chosen(), 0
        slopes = side.slopes.squeeze(2)
        for part, end in zip((slopes.clamp_min(0), slopes.clamp_max(0)), ends):
            if side.index is None:
                total = total + torch.einsum("boi,bdi->bdo", part, end)
            else:
                for k in range(part.shape[2]):
                    at = side.index[..., k].unsqueeze(1).expand(-1, end.shape[1], -1)
                    total = total + end.gather(2, at) * part[..., k].unsqueeze(1)
        constant = torch.cat([torch.zeros_like(total[:, :-1]), side.consts.movedim(2, 1)], 1)
        return total + constant

    lows, highs, order = [], [], []
    most = max(1, BLOCK_BYTES // max(1, lw[:, :, 0].numel() * lw.element_size()))
    for block in (part for whole in blocks.walk(False) for part in whole.parts(most)):
        lows.append(through(block.below, low))
        highs.append(through(block.above, low[::-1]))
        order.append(block.neurons)
    back = torch.cat(order).argsort()
    low, high = (torch.cat(parts, 2)[..., back] for parts in (lows, highs))
    return low[:, :-1], low[:, -1], high[:, :-1], high[:, -1]
