"""Writes the files of ``linf-compare run`` and ``report`` for readers: tables in three formats, and a picture."""

import math
import sys
from collections.abc import Iterable
from pathlib import Path

from linf_plugin.files import WouldReplace, write_text

from ..certificates import symbol_of_norm
from ..results.schema import MethodResult, Results
from . import formats
from .beside import beside
from .duels import duels_section, proved
from .gathered import Gathered
from .plots import certified_against_eps
from .rows import rows_of
from .seeds import over_seeds
from .tables import table
from .words import any_other_norm, eps_text


def text_of(runs: list[Gathered]) -> str:
    """Returns the text of table.md, from results and the samples files beside them."""
    runs = sorted(runs, key=lambda run: run.results.norm, reverse=True)  # those in ℓ∞ come first
    results = [run.results for run in runs]
    both = any_other_norm(results)
    parts = [beside(results), over_seeds(results), *(table(run, both) for run in results), *_differences(runs)]
    return "\n".join(filter(None, parts))


def _differences(runs: list[Gathered]) -> list[str]:
    """Returns the tests between methods, for each data set and ε."""
    same: dict[tuple, list[Gathered]] = {}
    for run in runs:
        r = run.results
        used = {m.digests if r.held_out or m.digests is None else m.digests[1:] for m in r.methods.values()}
        same.setdefault((r.dataset, frozenset(used), r.norm, r.eps, r.held_out), []).append(run)
    found = []
    for (dataset, _, norm, eps, _), some in same.items():
        text = duels_section(rows_of([run.results for run in some]), proved(some, eps), eps)
        if len(same) > 1:
            where = f": {dataset}, ε = {eps_text(eps)}" + f" in {symbol_of_norm(norm)}" * (norm != math.inf)
            text = text.replace("\n", f"{where}\n", 1)
        found.append(text)
    return found


def write_report(results: list[Results], folder: Path) -> str:
    """Writes tables and picture of runs into the folder where they lie, and returns the text of the table."""
    return write_tables([Gathered(each, folder, str(folder)) for each in results], folder)


def write_tables(runs: list[Gathered], folder: Path, replace: bool = True) -> str:
    """Writes tables and picture, and returns the text of the table.

    Raises WouldReplace if the folder has another table and ``replace`` is false.
    """
    results, name = [run.results for run in runs], "table" if len(runs) == 1 else "comparison"
    text = text_of(runs)
    texts = {".md": text, ".tex": formats.latex(results), ".csv": formats.csv(results)}
    written = {folder / f"{name}{ending}": content for ending, content in texts.items()}
    picture = folder / ("certified.png" if len(runs) == 1 else "comparison.png")
    stale = [path for path, content in written.items() if not _holds(path, content)]
    if not replace and (taken := [path for path in stale if path.exists()]):
        raise WouldReplace(f"{taken[0]} exists")
    redraw = folder / f"{name}.md" in stale or not picture.exists()
    for path in stale:
        write_text(path, written[path])
    if redraw:
        certified_against_eps(results, picture)
    return text


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()


def say_what_has_no_digest(entries: Iterable[MethodResult]) -> None:
    """Prints a line to stderr if some results have no digest of their data."""
    without = sum(m.data is None for m in entries)
    if without:
        print(
            f"linf-compare: {without} results are of a version that stored no digest of the data: the data could not "
            "be compared, and are taken to be the published images",
            file=sys.stderr,
        )
