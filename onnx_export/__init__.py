"""ONNX files of ℓ∞-distance nets, with their certificates.  Stock onnxruntime runs them.

On the command line this is ``linf-export``; in Python it is ``export``, ``session`` and ``run``.  ``linf_onnx_kwargs``
and ``attach`` are for your own models with distance layers.
"""

from .export import export
from .functions.library import attach
from .running.session import run, session
from .writing.translate import linf_onnx_kwargs

__all__ = ["attach", "export", "linf_onnx_kwargs", "run", "session"]
