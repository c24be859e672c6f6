"""Stands in for tqdm where it is not installed: progress bars are all that the package wants of it."""

import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

from .record import LeftOut


class _Bar:
    """Iterates, and shows nothing."""

    def __init__(self, iterable=(), **_):
        self.iterable = iterable

    def __iter__(self):
        return iter(self.iterable)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name: str):
        return lambda *_, **__: None  # update, set_postfix, close, …

    @staticmethod
    def write(text: str, file=None, end: str = "\n", **_) -> None:
        print(text, file=file or sys.stdout, end=end)


def stand_in() -> None:
    """Makes ``from tqdm import tqdm`` work."""
    if find_spec("tqdm") is None:
        module = types.ModuleType("tqdm")
        module.tqdm, module.__spec__ = _Bar, ModuleSpec("tqdm", None, origin=__file__)  # torch looks for a spec
        sys.modules["tqdm"] = module


def need(*packages: str) -> None:
    """Raises LeftOut where one is not installed."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise LeftOut(f"not installed: {', '.join(missing)}")
