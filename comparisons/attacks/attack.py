"""The attacks that a recipe can name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .apgd import apgd
from .pgd import pgd
from .pgd_margin import pgd_margin
from .square import square

GIVEN = ("model", "x", "labels", "eps", "seed", "climbed")  # arguments of ``find`` that no recipe gives


@dataclass(frozen=True)
class Attack:
    """An attack.

    label: its name in tables.  norm: exponent of the norm in which it moves images.  find: (model, x, labels, eps, *,
    seed, arguments) → points (N, *) in the ball and in [0, 1], each of which the model misclassifies, and x where the
    attack found none.  climbs: whether it follows gradients; ``find`` then takes also ``climbed``, the net whose
    gradients it follows.
    """

    label: str
    norm: float
    find: Callable
    climbs: bool = False


ATTACKS = {
    "pgd": Attack("PGD", math.inf, pgd, climbs=True),
    "pgd-margin": Attack("PGD on margins", math.inf, pgd_margin, climbs=True),
    "apgd": Attack("Auto-PGD", math.inf, apgd, climbs=True),
    "square": Attack("Square", math.inf, square),
}


def label_of(attack: str) -> str:
    """Returns the label of an attack in tables.  An unknown name is its own label."""
    return ATTACKS[attack].label if attack in ATTACKS else attack
