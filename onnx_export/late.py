"""Packages that are imported without torch: public names and former modules are imported on first use."""

import importlib
import sys
from collections.abc import Callable


def names(package: str, modules: dict[str, str]) -> Callable[[str], object]:
    """Returns a ``__getattr__`` for a package: it imports public names on first use.

    Args:
        package: its name.
        modules: public name → the module of the package that has it.  No module may have the name itself, because the
            import of a module puts it into the package.
    """

    def find(name: str) -> object:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from linf_plugin import extras

        with extras.named():
            return getattr(importlib.import_module(modules[name], package), name)

    return find


def former_modules(package: str) -> None:
    """Makes modules of the package that have moved importable.  ``linf_plugin.moved`` lists them."""

    class Former:
        @staticmethod
        def find_spec(fullname: str, path=None, target=None):
            if not fullname.startswith(f"{package}."):
                return None
            from linf_plugin.moved import find_spec

            return find_spec(fullname)

    sys.meta_path.append(Former)
