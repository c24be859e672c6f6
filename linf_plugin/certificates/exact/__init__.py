"""The exact radius of one input on a small net."""

from .radius import ExactRadius, exact_radius

__all__ = ["ExactRadius", "exact_radius"]
