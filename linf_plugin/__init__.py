"""ℓ∞-distance nets and 1-Lipschitz nets: operators, layers, certificates.

    y_k = max_i |x_i − w_ki| + b_k

Import ``linf_plugin.bounds`` (auto_LiRPA) and ``linf_plugin.training`` yourself; this module does not import them.
"""

from . import moved, spectral
from .certificates.lipschitz import sound_radius
from .certificates.margin import certified_radius, margin
from .checkpoint import load, save
from .layers.activations import MaxMin, ParamRamp
from .layers.aol import AOLConv2d, AOLLinear
from .layers.base import set_p
from .layers.circulant import DiagonalCirculant
from .layers.cpl import CPLConv2d, CPLLinear
from .layers.distance import LinfDistConv2d, LinfDistLinear
from .layers.fixed import AveragePool, NormalizedRows, PadChannels, UnshufflePixels
from .layers.lipschitz import lipschitz_bound
from .layers.noise import GaussianNoise, LaplaceNoise, UniformNoise
from .layers.potential import PotentialConv2d, PotentialLinear
from .layers.shifts import MeanShift, Negate, Normalize, reestimate_means
from .layers.sll import SLLConv2d, SLLLinear
from .layers.sort import SortDistLinear
from .models.architectures import ARCHITECTURES, build
from .models.folded import fold_batch_norm
from .models.materialised import materialise
from .models.net import Net
from .ops import dist, sorted_dist
from .state import StateWarning

__version__ = "0.1.0"

moved.install()

__all__ = [
    "ARCHITECTURES",
    "AOLConv2d",
    "AOLLinear",
    "AveragePool",
    "CPLConv2d",
    "CPLLinear",
    "DiagonalCirculant",
    "GaussianNoise",
    "LaplaceNoise",
    "LinfDistConv2d",
    "LinfDistLinear",
    "MaxMin",
    "MeanShift",
    "Negate",
    "Net",
    "Normalize",
    "NormalizedRows",
    "PadChannels",
    "ParamRamp",
    "PotentialConv2d",
    "PotentialLinear",
    "SLLConv2d",
    "SLLLinear",
    "SortDistLinear",
    "StateWarning",
    "UniformNoise",
    "UnshufflePixels",
    "build",
    "certified_radius",
    "dist",
    "fold_batch_norm",
    "lipschitz_bound",
    "load",
    "margin",
    "materialise",
    "reestimate_means",
    "save",
    "set_p",
    "sorted_dist",
    "sound_radius",
    "spectral",
]
