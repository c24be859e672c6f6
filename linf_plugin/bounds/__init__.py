"""Bounds through auto_LiRPA.  Importing this package makes auto_LiRPA importable on current torch and NumPy
and registers interval and linear rules for the distance operators."""

from .register import register

register()
