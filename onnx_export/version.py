"""The version of this package, without an import of ``linf_plugin``, which imports torch."""

import re
from importlib.util import find_spec
from pathlib import Path


def version() -> str:
    """Returns ``linf_plugin.__version__``."""
    text = Path(find_spec("linf_plugin").origin).read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]
