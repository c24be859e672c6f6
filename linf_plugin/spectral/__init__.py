"""Bounds of the spectral norm of linear layers, certified and for training."""

from .bounding import Bound, bound, norm
from .geometry import Convolution
from .methods import SPECTRAL_METHODS, Method
from .reporting import Report, report

__all__ = ["SPECTRAL_METHODS", "Bound", "Convolution", "Method", "Report", "bound", "norm", "report"]
