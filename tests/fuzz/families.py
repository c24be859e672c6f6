"""The families of nets that are fuzzed."""

import random
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from . import brought, drawn, nets
from .cases import Case


class Family(NamedTuple):
    """Where nets come from, and how many of them are looked at, with how many points and attacks in all."""

    title: str
    draw: Callable[[int, int, int], tuple[Case, random.Random]]
    build: Callable[[dict], nn.Module]
    nets: int
    points: int
    attacks: int


FAMILIES = {
    "layers": Family("Sequences of the layers of this package", nets.draw, nets.build, 240, 1_200_000, 12_000),
    "brought": Family("Nets as people bring them", brought.draw, brought.build, 234, 1_000_000, 10_000),
    "drawn": Family("Random graphs", drawn.draw, drawn.build, 300, 600_000, 6_000),
}
