"""Certificates of nets with noise, which hold with a stated probability or in expectation.

Importing this package does not import SciPy.  A name that needs it is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING

from .. import extras

if TYPE_CHECKING:
    from .classes import Entropy, class_counts, entropy
    from .expected import ExpectedRisk, expected_risk
    from .noise import DIVERGENCES, NoiseShift, certified_risk_gap, noise_shifts, renyi, total_variation

_HOMES = {
    "DIVERGENCES": "noise",
    "Entropy": "classes",
    "ExpectedRisk": "expected",
    "NoiseShift": "noise",
    "certified_risk_gap": "noise",
    "class_counts": "classes",
    "entropy": "classes",
    "expected_risk": "expected",
    "noise_shifts": "noise",
    "renyi": "noise",
    "total_variation": "noise",
}

__all__ = [
    "DIVERGENCES",
    "Entropy",
    "ExpectedRisk",
    "NoiseShift",
    "certified_risk_gap",
    "class_counts",
    "entropy",
    "expected_risk",
    "noise_shifts",
    "renyi",
    "total_variation",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extras.named():
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
