"""The attacks that a recipe can name."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .pgd import pgd_survives


@dataclass(frozen=True)
class Attack:
    """label: in tables.  norm: exponent of the norm in which it moves images.  survives: (model, x, labels, eps, seed,
    arguments) → (N,) bool, the images that are classified correctly before and after it."""

    label: str
    norm: float
    survives: Callable


ATTACKS = {"pgd": Attack("PGD", math.inf, pgd_survives)}


def label_of(attack: str) -> str:
    """How tables call it: the name itself where it is not known."""
    return ATTACKS[attack].label if attack in ATTACKS else attack
