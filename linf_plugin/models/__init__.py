"""Nets that are built from data: a spec lists the layers, and an architecture makes the spec."""

from .architectures import ARCHITECTURES, build
from .net import LAYERS, Net

__all__ = ["ARCHITECTURES", "LAYERS", "Net", "build"]
