"""Nets that a Python file of the user builds.  The file is run, as by ``python FILE``: it is the user's own code."""

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from torch import nn


def load_model(place: str) -> nn.Module:
    """Runs a function in a Python file, and returns the net that it returns, in evaluation mode.

    Args:
        place: FILE.py:FUNCTION.  The function takes no arguments.  The file may import its neighbours.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: ``place`` is not of this form, the file has no such function, or the code raises an error.  The
            message names the line.
        TypeError: the function takes arguments, or returns no ``nn.Module``.
    """
    file, colon, name = place.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"a model is given as FILE.py:FUNCTION, got {place!r}")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    function = getattr(_run(path), name, None)
    if not callable(function):
        raise ValueError(f"{path} has no function {name}")
    if not _needs_nothing(function):
        raise TypeError(f"{name} of {path} must take no arguments: write a function that calls it")
    try:
        model = function()
    except (Exception, SystemExit) as error:
        raise ValueError(_said(f"{name} of {path}", error)) from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} of {path} must return a torch.nn.Module, got {type(model).__name__}")
    return model.eval()


def _run(path: Path) -> ModuleType:
    name = f"model_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # it stays: the net may import a neighbour only when it runs
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(_said(str(path), error)) from error
    return module


def _needs_nothing(function: object) -> bool:
    try:
        inspect.signature(function).bind()  # type: ignore[arg-type] # it was found to be callable
    except TypeError:
        return False
    except ValueError:  # a builtin may have no signature
        return True
    return True


def _said(what: str, error: BaseException) -> str:
    line = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())
    where = f"{line.filename}, line {line.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        where, reason = f"{error.filename}, line {error.lineno}", error.msg
    return f"{what} raised {type(error).__name__}{': ' * bool(reason)}{reason} ({where})"
