"""Bounds of the spectral norm of linear layers, certified and for training."""

from .bounding import Bound, bound, norm
from .geometry import Convolution
from .methods import METHODS, Method

__all__ = ["METHODS", "Bound", "Convolution", "Method", "bound", "norm"]
