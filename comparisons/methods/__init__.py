"""What a recipe's words mean: methods, losses, optimisers."""

from .kinds import METHODS
from .losses import LOSSES
from .optimizers import OPTIMIZERS

__all__ = ["LOSSES", "METHODS", "OPTIMIZERS"]
