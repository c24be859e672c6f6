"""Trains, certifies, attacks and compares ℓ∞-distance nets and their rivals.

On the command line this is ``linf-compare``.  In Python it is ``run``, and the tables of the parts that a recipe names:
add a row, and a recipe may name it.  Importing this package imports no torch: a name is imported on first use.
"""

from typing import TYPE_CHECKING

from onnx_export.late import former_modules, names

if TYPE_CHECKING:
    from linf_plugin.models.architectures import ARCHITECTURES

    from .api import run
    from .attacks.attack import ATTACKS, Attack
    from .methods import AUGMENTATIONS, INITIALISATIONS, LOSSES, METHODS, OPTIMIZERS
    from .methods.kinds import Method

__all__ = [
    "ARCHITECTURES",
    "ATTACKS",
    "AUGMENTATIONS",
    "INITIALISATIONS",
    "LOSSES",
    "METHODS",
    "OPTIMIZERS",
    "Attack",
    "Method",
    "run",
]

__getattr__ = names(
    __name__,
    {
        "ARCHITECTURES": "linf_plugin.models.architectures",
        "ATTACKS": ".attacks.attack",
        "AUGMENTATIONS": ".methods.augmentations",
        "INITIALISATIONS": ".methods.initialisations",
        "LOSSES": ".methods.losses",
        "METHODS": ".methods.kinds",
        "OPTIMIZERS": ".methods.optimizers",
        "Attack": ".attacks.attack",
        "Method": ".methods.kinds",
        "run": ".api",
    },
)
former_modules(__name__)
