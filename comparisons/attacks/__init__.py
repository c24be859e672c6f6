"""What an attacker reaches: one attack a file, and the table of those that a recipe can name."""

from .attack import ATTACKS
from .pgd import pgd_survives

__all__ = ["ATTACKS", "pgd_survives"]
