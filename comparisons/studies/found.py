"""The studies: every module of this folder that defines ``STUDY``.  Found without importing them."""

import ast
import importlib
from pathlib import Path


def summaries() -> dict[str, str]:
    """Name of each study → the first line of its module's docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\nSTUDY = " in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0]
    return found


def load(name: str):
    """The ``Study`` of that name.  Raises ValueError where there is none."""
    if name not in summaries():
        raise ValueError(f"no study {name!r}; studies: {', '.join(summaries())}")
    return importlib.import_module(f"{__package__}.{name}").STUDY
