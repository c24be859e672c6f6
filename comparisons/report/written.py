"""The files that ``linf-compare run`` and ``report`` write for readers: a table and a picture."""

import sys
from collections.abc import Iterable
from pathlib import Path

from linf_plugin.files import check_absent, write_text

from ..results.schema import MethodResult, Results
from .plots import certified_against_eps
from .tables import over_seeds, table


def write_report(results: list[Results], folder: Path, replace: bool = True) -> str:
    """Writes both and returns the text of the table.  Raises WouldReplace where others are in the folder, without
    ``replace``."""
    text = "\n".join(filter(None, [over_seeds(results), *(table(r) for r in results)]))
    names = ("table.md", "certified.png") if len(results) == 1 else ("comparison.md", "comparison.png")
    page, picture = (folder / name for name in names)
    same = page.is_file() and page.read_text(encoding="utf-8") == text
    check_absent(page, replace or same)
    if not (same and picture.exists()):
        write_text(page, text)
        certified_against_eps(results, picture)
    return text


def say_what_has_no_digest(entries: Iterable[MethodResult]) -> None:
    """A line on stderr, where some results name no digest of their data."""
    without = sum(m.data is None for m in entries)
    if without:
        print(
            f"linf-compare: {without} results are of a version that kept no digest of the data: they could not be "
            "compared, and are taken to be of the published images",
            file=sys.stderr,
        )
