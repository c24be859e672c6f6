"""The attacks that a recipe can name."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from .apgd import apgd
from .pgd import pgd
from .pgd_margin import pgd_margin
from .square import square

GIVEN = ("model", "x", "labels", "eps", "seed", "climbed", "norm")  # arguments of ``find`` that no recipe gives


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
    "pgd-l2": Attack("PGD, ℓ2", 2.0, partial(pgd, norm=2.0), climbs=True),
    "pgd-margin-l2": Attack("PGD on margins, ℓ2", 2.0, partial(pgd_margin, norm=2.0), climbs=True),
    "apgd-l2": Attack("Auto-PGD, ℓ2", 2.0, partial(apgd, norm=2.0), climbs=True),
    "square-l2": Attack("Square, ℓ2", 2.0, partial(square, norm=2.0)),
}


def of_norm(norm: float) -> list[str]:
    """Returns the names of the attacks in balls of a norm."""
    return [name for name, attack in ATTACKS.items() if attack.norm == norm]


def label_of(attack: str) -> str:
    """Returns the label of an attack in tables.  An unknown name is its own label."""
    return ATTACKS[attack].label if attack in ATTACKS else attack
