"""Certificates: what is proved about a net's predictions.

Importing this package needs neither auto_LiRPA nor SciPy.  A name that needs one of them is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING

from .. import extras
from .lipschitz import sound_radius
from .margin import certified_radius, margin, pairwise_radius
from .pairs import pair_bounds
from .table import CERTIFICATES, Certificate

if TYPE_CHECKING:
    from .cascade import certify, certify_each, margin_bound
    from .curve import Curve, certify_curve
    from .exact.radius import ExactRadius, exact_radius
    from .result import Certified

_LATER = {
    "Certified": "result",
    "Curve": "curve",
    "ExactRadius": "exact.radius",
    "certify": "cascade",
    "certify_curve": "curve",
    "certify_each": "cascade",
    "exact_radius": "exact.radius",
    "margin_bound": "cascade",
}

__all__ = [
    "CERTIFICATES",
    "Certificate",
    "Certified",
    "Curve",
    "ExactRadius",
    "certified_radius",
    "certify",
    "certify_curve",
    "certify_each",
    "exact_radius",
    "margin",
    "margin_bound",
    "pair_bounds",
    "pairwise_radius",
    "sound_radius",
]


def __getattr__(name: str):
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extras.named():
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
