"""ℓ∞-distance layers, 1-Lipschitz layers in ℓ2, and the layers that stand between them."""

from . import reported as reported  # it tells ``linf_plugin.spectral`` of the layers
from .activations import MaxMin, ParamRamp
from .aol import AOLConv2d, AOLLinear
from .base import distance_layers, set_p
from .circulant import DiagonalCirculant
from .cpl import CPLConv2d, CPLLinear
from .distance import LinfDistConv2d, LinfDistLinear
from .fixed import AveragePool, NormalizedRows, PadChannels, UnshufflePixels
from .lipschitz import flat_layers, lipschitz_bound
from .noise import GaussianNoise, LaplaceNoise, UniformNoise
from .potential import PotentialConv2d, PotentialLinear
from .shifts import CenterCrop, MeanShift, Negate, Normalize, reestimate_means
from .sll import SLLConv2d, SLLLinear
from .sort import SortDistLinear

__all__ = [
    "AOLConv2d",
    "AOLLinear",
    "AveragePool",
    "CPLConv2d",
    "CPLLinear",
    "CenterCrop",
    "DiagonalCirculant",
    "GaussianNoise",
    "LaplaceNoise",
    "LinfDistConv2d",
    "LinfDistLinear",
    "MaxMin",
    "MeanShift",
    "Negate",
    "Normalize",
    "NormalizedRows",
    "PadChannels",
    "ParamRamp",
    "PotentialConv2d",
    "PotentialLinear",
    "SLLConv2d",
    "SLLLinear",
    "SortDistLinear",
    "UniformNoise",
    "UnshufflePixels",
    "distance_layers",
    "flat_layers",
    "lipschitz_bound",
    "reestimate_means",
    "set_p",
]
