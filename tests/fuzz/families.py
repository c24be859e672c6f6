"""The families of nets that are fuzzed."""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from . import brought, drawn, lipschitz_nets, nets
from .cases import Case
from .exported import OWN, TORCH

IN_L2 = (*OWN, *OWN, TORCH[0])  # mostly those of this package


class Family(NamedTuple):
    """Where nets come from, and how many of them are looked at, with how many points and attacks in all.

    norm: of the balls.
    exporters: what writes ONNX files of these nets, by turns; none if PyTorch alone runs them.
    """

    title: str
    draw: Callable[[int, int, int], tuple[Case, random.Random]]
    build: Callable[[dict], nn.Module]
    nets: int
    points: int
    attacks: int
    norm: float = math.inf
    exporters: tuple[str, ...] = ()


FAMILIES = {
    "layers": Family("Sequences of the layers of this package", nets.draw, nets.build, 240, 1_200_000, 12_000),
    "brought": Family(
        "Nets as people bring them", brought.draw, brought.build, 234, 1_000_000, 10_000, exporters=TORCH
    ),
    "drawn": Family("Random graphs", drawn.draw, drawn.build, 300, 600_000, 6_000, exporters=TORCH),
    "l2": Family("Nets that are certified in ℓ2", lipschitz_nets.draw, nets.build, 216, 300_000, 4_000, 2.0, IN_L2),
}
