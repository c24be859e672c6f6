"""ℓ∞-distance nets: operators, layers, certificates.

    y_k = max_i |x_i − w_ki| + b_k

``linf_plugin.bounds`` (auto_LiRPA) and ``linf_plugin.training`` are imported on demand.
"""

from .certificates import certified_radius, margin
from .checkpoint import load, save
from .layers import (
    LinfDistConv2d,
    LinfDistLinear,
    MeanShift,
    Negate,
    Normalize,
    SortDistLinear,
    lipschitz_bound,
    reestimate_means,
    set_p,
)
from .models import ARCHITECTURES, Net, build
from .ops import dist, sorted_dist
from .rounding import sound_radius
from .state import StateWarning

__version__ = "0.1.0"

__all__ = [
    "ARCHITECTURES",
    "LinfDistConv2d",
    "LinfDistLinear",
    "MeanShift",
    "Negate",
    "Net",
    "Normalize",
    "SortDistLinear",
    "StateWarning",
    "build",
    "certified_radius",
    "dist",
    "lipschitz_bound",
    "load",
    "margin",
    "reestimate_means",
    "save",
    "set_p",
    "sorted_dist",
    "sound_radius",
]
