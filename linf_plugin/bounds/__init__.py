"""Bounds through auto_LiRPA.

Importing this package makes auto_LiRPA importable on current torch and NumPy.  It also registers interval and linear
rules for the distance operators.
"""

from ..moved import former
from .compute import compute_bounds
from .register import register
from .specification import specification

register()

__all__ = ["compute_bounds", "register", "specification"]

__getattr__ = former(__name__)
