"""Optional packages: which extra of this package installs each, and the one error that says so.

The layers, the operators and the training need only torch and NumPy.
"""

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec

OPTIONAL = {  # what is imported → the extra that installs it
    "auto_LiRPA": "bounds",
    "appdirs": "bounds",
    "packaging": "bounds",
    "scipy": "bounds",
    "tqdm": "bounds",
    "google": "onnx",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "safetensors": "onnx",
    "PIL": "compare",
    "art": "compare",
    "filelock": "compare",
    "jinja2": "compare",
    "matplotlib": "compare",
    "pandas": "compare",
    "sklearn": "compare",
    "optuna": "search",
    "maraboupy": "marabou",
    "onnx2torch": "onnx-models",
}
INCLUDES = {"compare": ("bounds",), "search": ("compare", "bounds")}  # extras of an extra
DISTRIBUTED_AS = {
    "PIL": "Pillow",
    "art": "adversarial-robustness-toolbox",
    "google": "protobuf",
    "sklearn": "scikit-learn",
}
INSTALL_AUTO_LIRPA = "pip install --no-deps auto-LiRPA==0.3"
ALSO = {  # what the command alone does not tell
    "auto_LiRPA": f", and then {INSTALL_AUTO_LIRPA} (--no-deps, because its metadata ask for an old torch)",
    "maraboupy": " (it exists for Python 3.11, on Linux for x86-64 and on macOS)",
    "onnx2torch": "; or, without torchvision, pip install --no-deps onnx2torch",
}


def missing(package: str, within: str | None = None) -> ImportError:
    """Returns the error for an optional package that is not installed: it names the extra and the command of pip.

    within: the extra that the whole program needs; it is named where it includes the extra of the package.
    """
    extra, name = OPTIONAL[package], DISTRIBUTED_AS.get(package, package)
    if extra in INCLUDES.get(within or extra, ()):
        extra = within or extra
    command = f"pip install 'linf-plugin[{extra}]'"
    return ImportError(f"{name} is not installed: {command}{ALSO.get(package, '')}", name=package)


@contextlib.contextmanager
def named(within: str | None = None) -> Iterator[None]:
    """Inside, an import of an optional package that is not installed raises the error of ``missing``."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A module that is absent from an installed package is another fault.
        if package not in OPTIONAL or _installed(package):
            raise
        raise missing(package, within) from error


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # somebody blocks it
        return False
