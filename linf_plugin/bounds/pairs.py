"""Rules of ``linf::max_min``: its exact interval, and lines, which are those of maxima."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..ops.pairs import max_min_operator
from . import convex
from .linear import BLOCK_BYTES, Block, Blocks
from .lines import Side


def _opposite(side: Side) -> Side:
    """Turns a line of f(−x) on one side into a line of −f(−x) on the other side."""
    return side._replace(consts=-side.consts)


def pair_blocks(lower: Tensor, upper: Tensor) -> Blocks:
    """Returns the blocks of the larger and the smaller number of pairs of channels: lower, upper (B, C, *).

    min(a, b) = −max(−a, −b).  So a line s·(−x) + c above the maximum of −x is the line s·x − c below the minimum of x.
    """
    features, pixels = math.prod(lower.shape[1:]), math.prod(lower.shape[2:])
    places = torch.arange(features, device=lower.device).view(-1, 2, pixels).movedim(1, 2).reshape(-1, 2)
    low, high = lower.flatten(1), upper.flatten(1)
    step = max(1, BLOCK_BYTES // max(1, 8 * len(lower)))

    def numbers(side: Side, some: Tensor) -> Side:
        """Turns the two numbers of a pair into numbers of a sample."""
        pair = torch.arange(len(some), device=some.device).view(1, -1, 1)
        return side._replace(index=some[pair, side.index])

    def walk(many: bool) -> Iterator[Block]:
        for k in range(0, len(places), step):
            some = places[k : k + step]
            ends = low[:, some], high[:, some]
            below, above = (numbers(side, some) for side in convex.largest(*ends, many))
            yield Block(some[:, 0], below, above)
            below, above = (numbers(side, some) for side in convex.largest(-ends[1], -ends[0], many))
            yield Block(some[:, 1], _opposite(above), _opposite(below))

    return Blocks(features, features, False, True, lower.dtype, walk)


def ends(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the exact range: both numbers of a pair rise with each of its inputs."""
    return max_min_operator(lower), max_min_operator(upper)
