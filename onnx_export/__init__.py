"""ONNX files of ℓ∞-distance nets that stock onnxruntime runs, with their certificates.

``linf-export`` on the command line; ``export`` and ``session`` from Python; ``linf_onnx_kwargs`` and
``attach`` for a model of your own with distance layers in it.
"""

from .export import export
from .functions.library import attach
from .running.session import run, session
from .writing.translate import linf_onnx_kwargs

__all__ = ["attach", "export", "linf_onnx_kwargs", "run", "session"]
