"""What a recipe's words mean: kinds of methods, and a registry for each of their parts."""

from .augmentations import AUGMENTATIONS
from .initialisations import INITIALISATIONS
from .kinds import METHODS
from .losses import LOSSES
from .optimizers import OPTIMIZERS

__all__ = ["AUGMENTATIONS", "INITIALISATIONS", "LOSSES", "METHODS", "OPTIMIZERS"]
