"""Runs, the folders that they lie in, and the files beside their results.json."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..certificates import symbol_of_norm
from ..results import file, samples
from ..results.schema import Results
from .words import check_same, differences, eps_text

DIGESTS_OF_DATA = "digests of the data"


@dataclass(frozen=True, eq=False)
class Gathered:
    """A run, and the folder with its other files.  name: how messages call it."""

    results: Results
    folder: Path
    name: str = ""

    def samples(self, method: str) -> samples.Samples | None:
        """Returns what was found about each sample, or None if this method has no such file.

        Raises ValueError if the file is not one of ours.
        """
        path = self._beside(self.results.methods[method].samples)
        return samples.read(path) if path is not None and path.is_file() else None

    def points(self, method: str) -> Path | None:
        """Returns the file of adversarial points, or None if this method has none."""
        path = self._beside(self.results.methods[method].points)
        return path if path is not None and path.is_file() else None

    def _beside(self, name: str | None) -> Path | None:
        return None if name is None else self.folder / name


def gather(paths: Iterable[str | Path]) -> list[Gathered]:
    """Reads the results in folders, or in copies of results.json.

    A folder without a results.json stands for its subfolders with one.

    Raises:
        FileNotFoundError: a folder and its subfolders have no results.json.
        ValueError: a file is not one of ours, or has no method.
    """
    found: dict[Path, Gathered] = {}
    for path in map(Path, paths):
        for each in _subfolders(path) or [path]:
            folder = each.parent if each.suffix == ".json" else each
            found[each] = Gathered(file.read(each), folder, str(each))
            if not found[each].results.methods:
                raise ValueError(f"{each} has no results of a method")
    return list(found.values())


def _subfolders(path: Path) -> list[Path]:
    if path.suffix == ".json" or (path / file.FILE).is_file() or not path.is_dir():
        return []
    return sorted((each.parent for each in path.glob(f"*/{file.FILE}")), key=_natural)


def _natural(path: Path) -> list:
    """Sorts seed-2 before seed-10."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", path.name)]


def check_comparable(runs: list[Gathered]) -> None:
    """Raises ValueError if runs differ in what one page needs: data, norm, headline ε, and the measured part.

    The message lists what differs, and which run has what.
    """
    facts = {
        "data set": lambda r: r.dataset,
        DIGESTS_OF_DATA: _digests,
        "norm": lambda r: symbol_of_norm(r.norm),
        "ε": lambda r: eps_text(r.eps),
        "held-out part": lambda r: f"{r.held_out:g}" if r.held_out else "none, the test set",
    }
    found = differences([(run.name, run.results) for run in runs], facts)
    if "data set" in found:  # which then also have other digests
        found.pop(DIGESTS_OF_DATA, None)
    check_same("results", found)
    seen: dict[tuple, str] = {}
    for run in runs:
        for name, m in run.results.methods.items():
            key = run.results.recipe, run.results.changed, name, m.identity.seed, m.identity.settings
            if m.identity.settings is not None and seen.setdefault(key, run.name) != run.name:
                raise ValueError(f"{seen[key]} and {run.name} both have seed {m.identity.seed} of {name}")


def _digests(run: Results) -> set[str]:
    """Returns the digests of the data behind the figures, shortened.  Unknown digests agree with any."""
    used = slice(None) if run.held_out else slice(1, None)  # nobody measured on the rest
    found = {m.digests[used] for m in run.methods.values() if m.digests is not None}
    return {" ".join(digest[:12] for digest in digests) for digests in found}
