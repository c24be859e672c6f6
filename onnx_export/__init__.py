"""ONNX files of ℓ∞-distance nets, with their certificates.  Stock onnxruntime runs them.

On the command line this is ``linf-export``; in Python it is ``export``, ``session`` and ``run``.  ``linf_onnx_kwargs``
and ``attach`` are for your own models with distance layers.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .exporting import export
    from .functions.library import attach
    from .running.session import run, session
    from .writing.translate import linf_onnx_kwargs

__all__ = ["attach", "export", "linf_onnx_kwargs", "run", "session"]

# Name → its module.  They are imported when they are used, so that `linf-export --help` imports none of them.
_MODULES = {
    "attach": ".functions.library",
    "export": ".exporting",
    "linf_onnx_kwargs": ".writing.translate",
    "run": ".running.session",
    "session": ".running.session",
}


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name], __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
