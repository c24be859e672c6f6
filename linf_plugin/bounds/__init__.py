"""Bounds through auto_LiRPA.  Importing this package makes auto_LiRPA importable on current torch and NumPy
and registers interval and linear rules for the distance operators."""

from ..certificates.cascade import CERTIFICATES, Certificate, certify, certify_each, margin_bound, specification
from .compute import compute_bounds
from .register import register

register()

__all__ = [
    "CERTIFICATES",
    "Certificate",
    "certify",
    "certify_each",
    "compute_bounds",
    "margin_bound",
    "register",
    "specification",
]
