"""ONNX files of ℓ∞-distance nets, with their certificates.  Stock onnxruntime runs them.

On the command line this is ``linf-export``; in Python it is ``export``, ``session`` and ``run``.  ``linf_onnx_kwargs``
and ``attach`` are for your own models with distance layers.  Importing this package imports neither torch nor ONNX: a
name is imported on first use.
"""

from typing import TYPE_CHECKING

from .late import former_modules, names

if TYPE_CHECKING:
    from .exporting import export
    from .functions.library import attach
    from .running.session import run, session
    from .writing.translate import linf_onnx_kwargs

__all__ = ["attach", "export", "linf_onnx_kwargs", "run", "session"]

__getattr__ = names(
    __name__,
    {
        "attach": ".functions.library",
        "export": ".exporting",
        "linf_onnx_kwargs": ".writing.translate",
        "run": ".running.session",
        "session": ".running.session",
    },
)
former_modules(__name__)
