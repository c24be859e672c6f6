"""The tables of the page, as data: cells with a text and a value to sort by."""

from collections.abc import Callable
from dataclasses import dataclass, field

from ...certificates import BEST, in_order
from ...certificates import label_of as certificate_label
from ...results.schema import MethodResult
from ..costs import certificates_timed, per_epoch, seconds_of, times
from ..duels import Duel, p_text
from ..rows import MARK, Row, minutes_text, said_uneven, times_baseline, uneven
from ..words import (
    ABOUT_RADII,
    NONE,
    attack_columns,
    attacked_accuracy,
    count,
    images,
    interval_text,
    known,
    radii,
    radius_text,
)

SMALL = 0.05  # p-values below it stand out


@dataclass(frozen=True)
class Cell:
    """A cell.  value: what it is sorted by, a number or a text; None stands last.  strong: whether it stands out."""

    text: str
    value: float | str | None = None
    strong: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.  header: of the columns.  rows: cells, the first of which names the method.  notes: below the table.

    sortable: whether a click on a header sorts it.
    """

    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)
    sortable: bool = True


def _accuracy(row: Row, of: Callable[[MethodResult], float | None]) -> Cell:
    if any(of(m) is None for m in row.measured):
        return Cell(NONE)
    return Cell(row.percent(of), row.mean(of))


def accuracies(rows: list[Row], titles: list[str], eps: float) -> Grid:
    """Returns the table of accuracies at the headline ε."""
    runs = [row.first[0] for row in rows]
    attacks = attack_columns(m for row in rows for m in row.measured)
    computed = in_order(list(dict.fromkeys(name for row in rows for m in row.measured for name in m.certified)))
    computed = [] if computed == [BEST] else [name for name in computed if name != BEST]
    longer, several = uneven(rows), len({images(run) for run in runs}) > 1
    lines = []
    for i, (row, title) in enumerate(zip(rows, titles, strict=True)):
        low, high = row.interval(lambda m: m.proved(eps))
        lines.append(
            [
                Cell(title, title.casefold()),
                *([Cell(images(row.first[0]), row.first[0].test_samples)] * several),
                Cell(row.seeds, len(row.runs)),
                Cell(f"{MARK} " * (i in longer) + minutes_text(row.minutes), row.minutes),
                _accuracy(row, lambda m: m.clean),
                *(_accuracy(row, lambda m, name=name: attacked_accuracy(m, name, eps)) for name in attacks),
                _accuracy(row, lambda m: m.proved(eps)),
                Cell(interval_text((low, high)), low),
                *(Cell(radius_text(r, eps), r) for r in radii(row.first[0], eps).values()),
                *(_accuracy(row, lambda m, name=name: _by(m, name, eps)) for name in computed),
                Cell(known(row.trials), row.trials),
            ]
        )
    header = ["method", *["of"] * several, "seeds", "minutes", "clean %"]
    header += [f"{label} %" for label in attacks.values()]
    header += [
        "certified %",
        "95 % confidence",
        *radii(runs[0], eps),
        *(f"by {certificate_label(name)} %" for name in computed),
        "trials",
    ]
    notes = [
        "Minutes: of training, for one seed. Clean: correct. Attacks: still correct after them. Certified: "
        "by the best theorem of each sample. Trials: trainings behind the settings, where they were counted.",
        "95 % confidence: the Clopper–Pearson interval of the certified accuracy. With several seeds it reaches from "
        "the lowest to the highest end, because seeds share test samples. ± is the standard deviation over seeds.",
        ABOUT_RADII,
        *filter(None, [said_uneven(rows)]),
    ]
    return Grid(header, lines, notes)


def intervals(rows: list[Row], titles: list[str], eps: float) -> Grid:
    """Returns the table of Clopper–Pearson intervals of all accuracies."""
    attacks = attack_columns(m for row in rows for m in row.measured)
    accuracy: list[Callable[[MethodResult], float | None]] = [lambda m: m.clean]
    accuracy += [lambda m, name=name: attacked_accuracy(m, name, eps) for name in attacks]
    accuracy += [lambda m: m.proved(eps)]
    lines = []
    for row, title in zip(rows, titles, strict=True):
        found = [None if any(of(m) is None for m in row.measured) else row.interval(of) for of in accuracy]
        cells = [Cell(NONE) if ends is None else Cell(interval_text(ends), ends[0]) for ends in found]
        lines.append([Cell(title, title.casefold()), *cells])
    header = ["method", "clean %", *(f"{label} %" for label in attacks.values()), "certified %"]
    return Grid(header, lines)


def _by(m: MethodResult, certificate: str, eps: float) -> float | None:
    return m.certified[certificate].accuracy.get(eps) if certificate in m.certified else None


def costs(rows: list[Row], titles: list[str]) -> Grid:
    """Returns the table of costs.  Its ratios are to IBP in the same run."""
    timed = certificates_timed([m for row in rows for m in row.measured])
    thing = rows[0].first[0].thing
    columns: dict[str, Callable[[Row], Cell]] = {
        "parameters": lambda row: Cell(count(row.m.parameters), row.m.parameters),
        f"pairs/{thing}": lambda row: Cell(count(row.m.pairs_per_sample), row.m.pairs_per_sample),
        "s/epoch": lambda row: _mean(row, per_epoch, ".2f"),
        "to IBP": lambda row: _ratio(row),
        "MiB": lambda row: _mean(row, lambda m: m.training.peak_memory_mib, ".0f"),
        "certify s": lambda row: _mean(row, lambda m: m.certify_seconds, ".1f"),
        "attack s": lambda row: _mean(row, lambda m: m.attack_seconds, ".1f"),
    }
    for name in timed:
        columns[f"{certificate_label(name)} s"] = lambda row, name=name: _mean(
            row, lambda m: seconds_of(m).get(name), ".1f"
        )
    if len({_device(row) for row in rows}) > 1:
        columns["hardware"] = lambda row: Cell(_device(row), _device(row))
    lines = [
        [Cell(title, title.casefold()), *(of(row) for of in columns.values())]
        for row, title in zip(rows, titles, strict=True)
    ]
    notes = [
        "To IBP: seconds per epoch as a multiple of those of IBP in the same run, on the same machine. A pair is one "
        "|x − w| or one multiplication in the forward pass. MiB: peak memory of training. Seconds of certificates and "
        "attacks are for all samples and all ε."
    ]
    return Grid(["method", *columns], lines, notes)


def _device(row: Row) -> str:
    return row.m.device or row.first[0].device


def _mean(row: Row, of: Callable[[MethodResult], float | None], form: str) -> Cell:
    value = row.mean(of)
    return Cell(known(value, form), value)


def _ratio(row: Row) -> Cell:
    ratio = times_baseline(row, per_epoch)
    return Cell(times(ratio), ratio)


def matrix(titles: list[str], found: dict[tuple[int, int], Duel]) -> Grid:
    """Returns the matrix of p-values.  Cells below the diagonal show the same pair from the other side."""
    lines = []
    for i, title in enumerate(titles):
        cells = []
        for j in range(len(titles)):
            duel = found.get((min(i, j), max(i, j)))
            ours, theirs = (0, 0) if duel is None else (duel.only_first, duel.only_second)
            ours, theirs = (ours, theirs) if i < j else (theirs, ours)
            text = "" if i == j else NONE if duel is None else f"{p_text(duel.p)} ({ours} : {theirs})"
            cells.append(Cell(text, strong=duel is not None and duel.p < SMALL))
        lines.append([Cell(f"{i + 1}. {title}"), *cells])
    header = ["method", *(f"{i + 1}." for i in range(len(titles)))]
    return Grid(header, lines, [f"Bold: p below {SMALL:g}."], sortable=False)
