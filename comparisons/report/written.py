"""Writes the files of ``linf-compare run`` and ``report`` for readers: a table and a picture."""

import sys
from collections.abc import Iterable
from pathlib import Path

from linf_plugin.files import check_absent, write_text

from ..results.schema import MethodResult, Results
from .beside import beside
from .plots import certified_against_eps
from .seeds import over_seeds
from .tables import table


def write_report(results: list[Results], folder: Path, replace: bool = True) -> str:
    """Writes table and picture, and returns the text of the table.

    Raises WouldReplace if the folder has another table and ``replace`` is false.
    """
    text = "\n".join(filter(None, [beside(results), over_seeds(results), *(table(r) for r in results)]))
    names = ("table.md", "certified.png") if len(results) == 1 else ("comparison.md", "comparison.png")
    page, picture = (folder / name for name in names)
    same = page.is_file() and page.read_text(encoding="utf-8") == text
    check_absent(page, replace or same)
    if not (same and picture.exists()):
        write_text(page, text)
        certified_against_eps(results, picture)
    return text


def say_what_has_no_digest(entries: Iterable[MethodResult]) -> None:
    """Prints a line to stderr if some results have no digest of their data."""
    without = sum(m.data is None for m in entries)
    if without:
        print(
            f"linf-compare: {without} results are of a version that stored no digest of the data: the data could not "
            "be compared, and are taken to be the published images",
            file=sys.stderr,
        )
