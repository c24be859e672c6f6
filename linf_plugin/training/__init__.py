"""Training of ℓ∞-distance nets: schedules, losses, optimiser settings, augmentation and one training loop."""

from .augment import shift_and_flip
from .log import Log
from .loop import Trained, fit
from .losses import clipped_hinge, hinge, interval_cross_entropy, interval_hinge, ramp
from .optim import adam
from .schedule import Schedule, Step

__all__ = [
    "Log",
    "Schedule",
    "Step",
    "Trained",
    "adam",
    "clipped_hinge",
    "fit",
    "hinge",
    "interval_cross_entropy",
    "interval_hinge",
    "ramp",
    "shift_and_flip",
]
