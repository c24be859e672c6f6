"""Certificates of nets with noise, which hold with a stated probability or in expectation.

Importing this package needs no SciPy.  A name that needs it is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .. import extras

if TYPE_CHECKING:
    from .classes import Entropy, class_counts, entropy
    from .counts import least_draws, lower, upper
    from .expected import ExpectedRisk, expected_risk
    from .noise import DIVERGENCES, NoiseShift, certified_risk_gap, noise_shifts, renyi, total_variation
    from .radii import NOISES, Noise, gaussian_radius, uniform_radius_l1, uniform_radius_linf
    from .result import Smoothed
    from .sampling import draw_counts
    from .several import several_radius
    from .smooth import certify

_HOMES = {
    "DIVERGENCES": "noise",
    "Entropy": "classes",
    "ExpectedRisk": "expected",
    "NOISES": "radii",
    "Noise": "radii",
    "NoiseShift": "noise",
    "Smoothed": "result",
    "certified_risk_gap": "noise",
    "certify": "smooth",
    "class_counts": "classes",
    "draw_counts": "sampling",
    "entropy": "classes",
    "expected_risk": "expected",
    "gaussian_radius": "radii",
    "least_draws": "counts",
    "lower": "counts",
    "noise_shifts": "noise",
    "renyi": "noise",
    "several_radius": "several",
    "total_variation": "noise",
    "uniform_radius_l1": "radii",
    "uniform_radius_linf": "radii",
    "upper": "counts",
}

__all__ = [
    "DIVERGENCES",
    "NOISES",
    "Entropy",
    "ExpectedRisk",
    "Noise",
    "NoiseShift",
    "Smoothed",
    "certified_risk_gap",
    "certify",
    "class_counts",
    "draw_counts",
    "entropy",
    "expected_risk",
    "gaussian_radius",
    "least_draws",
    "lower",
    "noise_shifts",
    "renyi",
    "several_radius",
    "total_variation",
    "uniform_radius_l1",
    "uniform_radius_linf",
    "upper",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extras.named():
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
