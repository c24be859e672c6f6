"""Finds the studies: all modules of this folder that define ``STUDY``.  It imports none of them to find them."""

import ast
import importlib
from pathlib import Path


def summaries() -> dict[str, str]:
    """Returns the name of each study → the first line of its module's docstring."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "\nSTUDY = " in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").split("\n", 1)[0]
    return found


def load(name: str):
    """Returns the ``Study`` of that name.  Raises ValueError if none has it."""
    if name not in summaries():
        raise ValueError(f"no study {name!r}; studies: {', '.join(summaries())}")
    return importlib.import_module(f"{__package__}.{name}").STUDY
