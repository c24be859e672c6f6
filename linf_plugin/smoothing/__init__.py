"""Randomised smoothing: certificates that hold with a stated probability, of a net that is asked under noise.

Importing this package needs no SciPy.  The names that need it are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .. import extras

if TYPE_CHECKING:
    from .counts import least_draws, lower, upper
    from .radii import NOISES, Noise, gaussian_radius, uniform_radius_l1, uniform_radius_linf
    from .result import Smoothed
    from .sampling import draw_counts
    from .several import several_radius
    from .smooth import certify

_PLACES = {
    "NOISES": "radii",
    "Noise": "radii",
    "Smoothed": "result",
    "certify": "smooth",
    "draw_counts": "sampling",
    "gaussian_radius": "radii",
    "least_draws": "counts",
    "lower": "counts",
    "several_radius": "several",
    "uniform_radius_l1": "radii",
    "uniform_radius_linf": "radii",
    "upper": "counts",
}

__all__ = [
    "NOISES",
    "Noise",
    "Smoothed",
    "certify",
    "draw_counts",
    "gaussian_radius",
    "least_draws",
    "lower",
    "several_radius",
    "uniform_radius_l1",
    "uniform_radius_linf",
    "upper",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with extras.named():
        return getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
