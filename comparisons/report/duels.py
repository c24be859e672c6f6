"""McNemar's test between the certificates of each two methods: how often only one of them certifies a sample."""

from dataclasses import dataclass, replace
from typing import Any

from linf_plugin import extras

from .gathered import Gathered
from .rows import Row, titles
from .statistics import holm, mcnemar
from .words import NONE, eps_text, markdown_rows


@dataclass(frozen=True)
class Duel:
    """What two methods certify of the same samples.

    only_first, only_second: how many samples only one of them certifies.  p: of McNemar's exact test; ``duels``
    corrects it for the number of pairs.  samples: how many both were measured on.
    """

    only_first: int
    only_second: int
    p: float
    samples: int


@dataclass(frozen=True)
class Proved:
    """What one run certifies at one ε: pandas Series with the numbers of the samples as index.

    certified: bool.  labels: of the samples.
    """

    certified: Any
    labels: Any


def proved(runs: list[Gathered], eps: float) -> dict[tuple[int, str], Proved]:
    """Returns (id of the results, name of a method) → what it certifies at ε, where there is a samples file."""
    with extras.named():
        import pandas

    found = {}
    for run in runs:
        for name in run.results.methods:
            if (samples := run.samples(name)) is not None:
                labels = samples.frame.set_index("sample")["label"]
                certified = samples.certified(eps) if eps > 0 else samples.survives(0.0)  # a point certifies itself
                found[id(run.results), name] = Proved(pandas.Series(certified, labels.index), labels)
    return found


def duels(rows: list[Row], of: dict[tuple[int, str], Proved]) -> dict[tuple[int, int], Duel]:
    """Returns (i, j), i < j → the duel of two rows.  A pair without samples files is left out.

    Seeds share their test samples, so they are not pooled: of the seeds that both methods have, the one with the
    largest p counts.  Methods without a common seed are compared by their first runs.  The p-values are then corrected
    for the number of pairs by Holm's method.

    Raises:
        ValueError: two files have different labels for one sample.
    """
    found = {}
    for i, first in enumerate(rows):
        for j, second in enumerate(rows[i + 1 :], i + 1):
            seeds = [(seed, seed) for seed in first.runs if seed in second.runs]
            seeds = seeds or [(next(iter(first.runs)), next(iter(second.runs)))]
            pairs = [(of.get(_key(first, a)), of.get(_key(second, b))) for a, b in seeds]
            fought = [_duel(a, b) for a, b in pairs if a is not None and b is not None]
            if fought:
                found[i, j] = max(fought, key=lambda duel: duel.p)
    corrected = holm([duel.p for duel in found.values()])
    return {pair: replace(duel, p=p) for (pair, duel), p in zip(found.items(), corrected)}


def _key(row: Row, seed: int) -> tuple[int, str]:
    run, name = row.runs[seed]
    return id(run), name


def _duel(first: Proved, second: Proved) -> Duel:
    both = first.certified.index.intersection(second.certified.index)
    if not first.labels.loc[both].equals(second.labels.loc[both]):
        raise ValueError("two samples files have different labels for one sample: they are not of the same samples")
    a, b = first.certified.loc[both], second.certified.loc[both]
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    return Duel(only_first, only_second, mcnemar(only_first, only_second), len(both))


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def about_duels(eps: float) -> str:
    """Returns what the cells of the matrix say."""
    return (
        f"p-values of McNemar's exact test between the certificates of two methods at ε = {eps_text(eps)}, corrected "
        "for the number of pairs by Holm's method. In brackets: samples that only the method of the row certifies : "
        "only that of the column. With several seeds, the figures are those of the seed with the largest p."
    )


def duels_section(rows: list[Row], of: dict[tuple[int, str], Proved], eps: float) -> str:
    """Returns Markdown: the matrix of p-values; empty if no two methods have samples files."""
    found = duels(rows, of)
    if not found:
        return ""
    numbers = range(1, len(rows))
    lines = [
        [f"{i + 1}. {title}", *(_cell(found.get((i, j))) if j > i else "" for j in numbers)]
        for i, title in enumerate(titles(rows)[:-1])
    ]
    last = f"{len(rows)}. {titles(rows)[-1]}"
    table = markdown_rows(["method", *(f"{j + 1}." for j in numbers)], [*lines, [last, *[""] * len(numbers)]])
    return f"## Which methods differ\n\n{about_duels(eps)}\n\n{table}\n"


def _cell(duel: Duel | None) -> str:
    return NONE if duel is None else f"{p_text(duel.p)} ({duel.only_first} : {duel.only_second})"
