"""The attacks that a recipe can name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .pgd import pgd_survives


@dataclass(frozen=True)
class Attack:
    """An attack.

    label: its name in tables.  norm: exponent of the norm in which it moves images.  survives: (model, x, labels, eps,
    seed, arguments) → (N,) bool, the images that are classified correctly both before and after the attack.
    """

    label: str
    norm: float
    survives: Callable


ATTACKS = {"pgd": Attack("PGD", math.inf, pgd_survives)}


def label_of(attack: str) -> str:
    """Returns the label of an attack in tables.  An unknown name is its own label."""
    return ATTACKS[attack].label if attack in ATTACKS else attack
