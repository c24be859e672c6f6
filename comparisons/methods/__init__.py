"""The meaning of the names in a recipe: the kinds of methods, and a registry for each part of a method."""

from .augmentations import AUGMENTATIONS
from .initialisations import INITIALISATIONS
from .kinds import METHODS
from .losses import LOSSES
from .optimizers import OPTIMIZERS

__all__ = ["AUGMENTATIONS", "INITIALISATIONS", "LOSSES", "METHODS", "OPTIMIZERS"]
