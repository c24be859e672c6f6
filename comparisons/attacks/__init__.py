"""What an attacker reaches: one attack a file, the table of those that a recipe can name, and surrogates to climb."""

from .attack import ATTACKS
from .attacked import Attacked, attack_all, pgd_survives
from .surrogates import SURROGATES

__all__ = ["ATTACKS", "SURROGATES", "Attacked", "attack_all", "pgd_survives"]
