"""Importing the package is light: optional packages are imported only when they are needed."""

import subprocess
import sys
from pathlib import Path

import linf_plugin

HEAVY = (
    "auto_LiRPA",
    "art",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "sklearn",
    "linf_plugin.bounds",
    "linf_plugin.training",
    "linf_plugin.tracing",
    "linf_plugin.certificates.cascade",
    "scipy",
)


def test_import_is_light():
    code = f"import sys, linf_plugin; print([name for name in {HEAVY} if name in sys.modules])"
    root = Path(linf_plugin.__file__).parents[1]
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_face_is_complete():
    for name in linf_plugin.__all__:
        assert getattr(linf_plugin, name) is not None
    constants_first = sorted(linf_plugin.__all__, key=lambda name: (name != "ARCHITECTURES", name))  # as ruff does
    assert constants_first == linf_plugin.__all__
