"""Training of ℓ∞-distance nets: schedules, losses, optimiser settings, augmentation, and one loop."""

from .augment import shift_and_flip
from .loop import fit
from .losses import clipped_hinge, hinge, interval_cross_entropy, interval_hinge
from .optim import adam
from .schedule import Schedule, Step

__all__ = [
    "Schedule", "Step", "adam", "clipped_hinge", "fit", "hinge", "interval_cross_entropy", "interval_hinge",
    "shift_and_flip",
]
