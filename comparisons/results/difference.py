"""Which samples only one of two methods certifies."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..certificates import BEST, symbol_of_norm
from . import file, samples
from .samples import Samples

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Side:
    """One of the two.

    name: for readers.  eps: the headline of its results.  norm: exponent of their norm.  Both are None for a file
    without results.
    """

    name: str
    rows: Samples
    eps: float | None
    norm: float | None = None


@dataclass(frozen=True, eq=False)
class Difference:
    """Numbers of samples, (N,) each: those that both certify at ``eps``, only the first, only the second, and neither.

    sides: their names.
    """

    eps: float
    certificate: str
    sides: tuple[str, str]
    both: "np.ndarray"
    only_first: "np.ndarray"
    only_second: "np.ndarray"
    neither: "np.ndarray"


def side(place: str) -> Side:
    """Reads one side: FOLDER:METHOD, a folder with one method, or a file of samples.

    Raises:
        FileNotFoundError: there is no such file, or no results.json in the folder.
        ValueError: the file is not one of ours, the folder has no such method, or an older version wrote it without
            a file of samples.
    """
    if place.endswith(".csv"):
        return Side(Path(place).name.removesuffix(samples.file_of("")), samples.read(place), *_headline(Path(place)))
    folder, _, method = (place, "", "") if Path(place).exists() or ":" not in place else place.rpartition(":")
    results = file.read(folder)
    known = ", ".join(results.methods) or "none"
    if not method and len(results.methods) != 1:
        raise ValueError(f"{place} has the methods {known}: name one, as {place}:METHOD")
    method = method or next(iter(results.methods))
    if method not in results.methods:
        raise ValueError(f"{folder} has no method {method}; its methods: {known}")
    name = results.methods[method].samples
    if name is None:
        raise ValueError(f"{method} in {folder} has no file of samples: it was measured by an earlier version")
    there = Path(folder)
    there = there.parent if there.suffix == ".json" else there
    return Side(method, samples.read(there / name), results.eps, results.norm)


def _headline(path: Path) -> tuple[float | None, float | None]:
    """Returns the headline and the norm of the results beside a file of samples, if they name it."""
    try:
        results = file.read(path.parent)
    except (ValueError, OSError):
        return None, None
    named = any(m.samples == path.name for m in results.methods.values())
    return (results.eps, results.norm) if named else (None, None)


def difference(first: Side, second: Side, eps: float | None = None, certificate: str = BEST) -> Difference:
    """Compares the samples that two methods certify.

    Args:
        eps: radius > 0; by default the headline of both.
        certificate: a name, or "best".

    Raises:
        ValueError: the files are about other data or balls of two norms; there is no headline, or not the same one; a
            side does not have the certificate.
    """
    _check_same_data(first, second)
    if None not in (first.norm, second.norm) and first.norm != second.norm:
        one, two = (f"{each.name} is certified in {symbol_of_norm(each.norm)} balls" for each in (first, second))
        raise ValueError(f"{one}, and {two}: their radii cannot be compared")
    names = (first.name, second.name) if first.name != second.name else (f"A ({first.name})", f"B ({second.name})")
    if eps is None:
        found = {each.eps for each in (first, second)} - {None}
        if len(found) != 1:
            what = f"the headlines are {first.eps:g} and {second.eps:g}" if found else "no results name these files"
            raise ValueError(f"{what}: give --eps")
        (eps,) = found
    by = []
    for each in (first, second):
        try:
            by.append(each.rows.certified(eps, certificate))
        except ValueError as error:
            raise ValueError(f"{each.name}: {error}") from error
    one, two = by
    numbers = first.rows.frame["sample"].to_numpy()
    return Difference(
        eps,
        certificate,
        names,
        both=numbers[one & two],
        only_first=numbers[one & ~two],
        only_second=numbers[two & ~one],
        neither=numbers[~one & ~two],
    )


def _check_same_data(first: Side, second: Side) -> None:
    for column in ("sample", "label"):
        one, two = (each.rows.frame[column].to_numpy() for each in (first, second))
        if len(one) != len(two):
            raise ValueError(f"{first.name} and {second.name} are not of the same data: {len(one)} and {len(two)} rows")
        if (one != two).any():
            row = int((one != two).argmax())
            raise ValueError(
                f"{first.name} and {second.name} are not of the same data: in row {row} the {column} is {one[row]} and "
                f"{two[row]}"
            )
