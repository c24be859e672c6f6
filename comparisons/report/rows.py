"""One row a method: its runs, which differ only in the seed, and the figures that tables and pictures need of them."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from ..results.schema import NO_RECIPE, MethodResult, Results, with_changes
from .seeds import groups
from .statistics import interval
from .words import known, mean

BASELINE = "ibp"  # the kind of method that costs are compared with
MARK = "†"  # of training times that differ
UNEVEN = 1.5  # training times of one recipe that differ by a larger factor are marked


@dataclass(frozen=True, eq=False)
class Row:
    """A method in runs that differ only in the seed.  runs: seed → (run, name of the method in it), sorted by seed."""

    runs: dict[int, tuple[Results, str]]

    @property
    def first(self) -> tuple[Results, str]:
        return next(iter(self.runs.values()))

    @property
    def measured(self) -> list[MethodResult]:
        return [run.methods[name] for run, name in self.runs.values()]

    @property
    def m(self) -> MethodResult:
        """The figures of the first seed."""
        return self.measured[0]

    @property
    def recipe(self) -> str:
        run, _ = self.first
        return with_changes(run.recipe, run.changed) if run.recipe != NO_RECIPE else "given net"

    @property
    def seeds(self) -> str:
        return ", ".join(map(str, self.runs))

    @property
    def minutes(self) -> float | None:
        """The mean minutes of training."""
        return self.mean(minutes_of)

    @property
    def trials(self) -> int | None:
        return self.m.trials

    def mean(self, figure: Callable[[MethodResult], float | None]) -> float | None:
        """Returns the mean over the seeds of a figure, or None if a run lacks it."""
        found = [figure(m) for m in self.measured]
        return None if None in found else statistics.fmean(found)

    def percent(self, accuracy: Callable[[MethodResult], float]) -> str:
        """Returns an accuracy in percent: its mean ± standard deviation over seeds."""
        return mean([accuracy(m) for m in self.measured])

    def interval(self, accuracy: Callable[[MethodResult], float]) -> tuple[float, float]:
        """Returns the Clopper–Pearson interval of an accuracy.

        Seeds share their test samples, so they are not pooled.  With several seeds this reaches from the lowest to the
        highest end of their intervals.
        """
        found = [interval(accuracy(run.methods[name]), run.test_samples) for run, name in self.runs.values()]
        return min(low for low, _ in found), max(high for _, high in found)


def rows_of(runs: list[Results]) -> list[Row]:
    """Returns the methods of runs, in their order."""
    return [Row(dict(sorted(group.items(), key=lambda item: (item[0] is None, item[0])))) for group in groups(runs)]


def rows_of_run(run: Results) -> list[Row]:
    """Returns the methods of one run, in their order."""
    return [Row({m.identity.seed: (run, name)}) for name, m in run.methods.items()]


def titles(rows: list[Row]) -> list[str]:
    """Returns a name of each row.  Rows with one label have their recipes in it, and a number if that is not enough."""
    labels = [row.m.label for row in rows]
    found = [
        label if labels.count(label) == 1 else f"{label} ({row.recipe})"
        for label, row in zip(labels, rows, strict=True)
    ]
    return [
        name if found.count(name) == 1 else f"{name} no. {found[: i + 1].count(name)}" for i, name in enumerate(found)
    ]


def minutes_of(m: MethodResult) -> float | None:
    """Returns the minutes of training, or of its epochs if no total was written; None if neither is known."""
    t = m.training
    if t.seconds is not None:
        return t.seconds / 60
    return None if t.epochs is None or t.seconds_per_epoch is None else t.epochs * t.seconds_per_epoch / 60


def minutes_text(minutes: float | None) -> str:
    return known(minutes, ".1f" if minutes is not None and minutes >= 10 else ".2f")


def times_baseline(row: Row, figure: Callable[[MethodResult], float | None]) -> float | None:
    """Returns the mean ratio of a cost to that of IBP, each time in one run; None if a run has no IBP or no such cost.

    Times are compared only within a run, because another run may be of another machine.
    """
    ratios = []
    for run, name in row.runs.values():
        base = next((m for m in run.methods.values() if m.kind == BASELINE), None)
        ours, theirs = figure(run.methods[name]), None if base is None else figure(base)
        if not theirs or ours is None or base.device != run.methods[name].device:
            return None
        ratios.append(ours / theirs)
    return statistics.fmean(ratios)


def uneven(rows: list[Row]) -> dict[int, float]:
    """Returns which methods trained more than 1.5 times as long as the shortest training of their recipe.

    The result is the index of a row → how many times as long.
    """
    shortest: dict[tuple, float] = {}
    keys = [(row.first[0].recipe, row.first[0].changed) for row in rows]
    for key, row in zip(keys, rows, strict=True):
        if row.minutes:  # the training of a given net is not known
            shortest[key] = min(row.minutes, shortest.get(key, row.minutes))
    found = {i: row.minutes / shortest[key] for i, (key, row) in enumerate(zip(keys, rows)) if row.minutes}
    return {i: ratio for i, ratio in found.items() if ratio > UNEVEN}


def said_uneven(rows: list[Row]) -> str:
    """Returns a sentence about unequal training times; empty if there are none."""
    found = uneven(rows)
    if not found:
        return ""
    return (
        f"{MARK} This training took more than {UNEVEN:g} times as long as the shortest of the recipe. The methods did "
        f"not have the same time: the longest took {max(found.values()):.1f} times as long as the shortest."
    )
