"""ℓ∞-distance layers and the layers that stand between them."""

from .activations import MaxMin, ParamRamp
from .base import distance_layers, set_p
from .distance import LinfDistConv2d, LinfDistLinear
from .lipschitz import flat_layers, lipschitz_bound
from .shifts import CenterCrop, MeanShift, Negate, Normalize, reestimate_means
from .sort import SortDistLinear

__all__ = [
    "CenterCrop",
    "LinfDistConv2d",
    "LinfDistLinear",
    "MaxMin",
    "MeanShift",
    "Negate",
    "Normalize",
    "ParamRamp",
    "SortDistLinear",
    "distance_layers",
    "flat_layers",
    "lipschitz_bound",
    "reestimate_means",
    "set_p",
]
