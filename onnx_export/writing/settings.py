"""How a file is written: its flavour, its certificate and its norm, the kind of its input."""

import math
from dataclasses import dataclass
from typing import NamedTuple


class Flavour(NamedTuple):
    """A set of operators in which files are written.

    text: a description for users.
    for_verifiers: whether it is for other verifiers.  Such files have no certificates, take no bytes, and have batch 1
        and only the output logits.
    """

    text: str
    for_verifiers: bool = False


FLAVOURS = {
    "function": Flavour("nodes linf::LinfDist with bodies in standard operators, which a native operator may replace"),
    "inlined": Flavour("only standard operators"),
    "maxpool": Flavour("for verifiers: Conv, Add and MaxPool; batch 1, only logits", for_verifiers=True),
    "relu": Flavour("for verifiers: Conv, Add and Relu; batch 1, only logits", for_verifiers=True),
}
VERIFIER_FLAVOURS = tuple(name for name, flavour in FLAVOURS.items() if flavour.for_verifiers)

CERTIFICATE_CHOICES = {  # what ``export`` is asked for → in words
    "auto": "the Lipschitz radius; for nets with linear layers or ReLUs also an interval bound, if ε is known",
    "lipschitz": "the Lipschitz radius",
    "interval": "the Lipschitz radius, and an interval bound for one ε",
    "none": "no certificate",
}

RADIUS_NORMS = {  # norm of the certified radius → in words
    "linf": "any net; (largest − second largest logit − rounding) / (2·L), and interval bounds",
    "l2": "nets whose layers have ℓ2 bounds; a bound for each pair of classes",
}

PIXELS = {  # kind of input → (unit of radii, units in the pixel range)
    "float": ("pixel value, images in [0, 1]", 1),
    "byte": ("grey level, images of 0 to 255", 255),
}


@dataclass(frozen=True)
class Settings:
    """How a file is written.

    Attributes:
        flavour: a key of ``FLAVOURS``.
        pixels: a key of ``PIXELS``.
        certified: whether there is a certified radius.
        interval: whether there is also an interval bound.
        epsilon: the ε of the metadata, and of the interval bound.
        norm: that of the radius and of ε, a key of ``RADIUS_NORMS``.
    """

    flavour: str = "function"
    pixels: str = "float"
    certified: bool = True
    interval: bool = False
    epsilon: float | None = None
    norm: str = "linf"


def is_epsilon(value: float, norm: str) -> bool:
    """Whether a number can be the ε of a file: positive and finite, and at most the pixel range in ℓ∞."""
    return 0 < value < math.inf and (norm != "linf" or value <= 1)
