"""Figures of accuracies: over ε, and certified against clean with the Pareto front."""

import itertools
import statistics
import textwrap
from collections.abc import Callable, Sequence

from ...results.schema import MethodResult
from ..labels import SIDES, at_right, beside_points, settle, short
from ..rows import Row
from ..words import eps_text, in_its_norm
from . import colours
from .drawing import figure_of, multiples, multiples_heights

MOST_LABELS = 6  # names that stand beside their points
BELOW = "outside lower left"  # where a legend stands
NEAR = 10.0  # points of certified accuracy below the best that the enlarged front shows
FAR = 0.09  # part of an axis between two ticks at measured ε


def curves(rows: list[Row], titles: list[str]) -> str:
    """Returns certified accuracy over ε, all methods in one drawing."""
    marks = colours.markers(rows)

    def draw(figure, wide: bool) -> None:
        axis, ends, lines = figure.subplots(), [], []
        for i, row in enumerate(rows):
            values, certified, _ = lines_of(row)
            lines += axis.plot(values, certified, marker=marks[i], **_style(i))
            ends.append((values[-1], certified[-1], titles[i], colours.mark(i)))
        axis.set(xlabel=_epsilon(rows), ylabel="certified accuracy (%)", ylim=(0, 100), xlim=(0, None))
        _headline(axis, rows)
        if wide:
            _ticks(axis, rows)
            settle(figure, [(axis, at_right(axis, ends, 12.5, colours.text_of))])
        else:
            _legend(figure, lines, titles)

    height = 190 + 12.0 * len(rows)
    return figure_of("curves", "Certified accuracy over ε", draw, (380, 130 + height + 8 * len(rows)), len(rows))


def bands(rows: list[Row], titles: list[str]) -> str:
    """Returns a panel for each method: certified accuracy, and a band up to the accuracy under attack."""
    marks = colours.markers(rows)

    def draw(figure, wide: bool) -> None:
        axes = multiples(figure, len(rows), wide)
        for i, (axis, row) in enumerate(zip(axes, rows)):
            for other in rows:
                values, certified, _ = lines_of(other)
                axis.plot(values, certified, color=colours.DRAWN["soft"], linewidth=0.8, alpha=0.45)
            values, certified, attacked = lines_of(row)
            if attacked:
                axis.fill_between(values, certified, attacked, color=colours.mark(i), alpha=0.35, linewidth=0)
                axis.plot(values, attacked, "--", color=colours.mark(i), linewidth=1.2)
            axis.plot(values, certified, marker=marks[i], **_style(i))
            name_panel(axis, titles[i], i, wide)
            _headline(axis, rows)
            axis.set(ylim=(0, 100), xlim=(0, None), yticks=(0, 25, 50, 75, 100))
            axis.tick_params(axis="x", pad=7)  # the zeros of both axes stay apart
            axis.locator_params(axis="x", nbins=4)
        figure.supxlabel(_epsilon(rows), fontsize="medium")
        figure.supylabel("accuracy (%)", fontsize="medium")

    title = "Certified and attacked accuracy over ε of each method"
    return figure_of("bands", title, draw, multiples_heights(len(rows)), len(rows))


def front(rows: list[Row], titles: list[str], eps: float) -> str:
    """Returns certified against clean accuracy, with the Pareto front."""
    title = f"Certified accuracy at ε = {eps_text(eps)} against clean accuracy, with the Pareto front"
    return _front("front", title, rows, titles, eps, range(len(rows)))


def front_enlarged(rows: list[Row], titles: list[str], eps: float) -> str | None:
    """Returns the same for the methods that certify nearly as much as the best, or None if that shows nothing new."""
    certified = [100 * row.mean(lambda m: m.proved(eps)) for row in rows]
    near = [i for i, value in enumerate(certified) if value >= max(certified) - NEAR]
    if len(near) in (1, len(rows)):
        return None
    title = f"Certified accuracy at ε = {eps_text(eps)} against clean accuracy, enlarged"
    return _front("enlarged", title, rows, titles, eps, near)


def _front(name: str, title: str, rows: list[Row], titles: list[str], eps: float, shown: Sequence[int]) -> str:
    """Returns the figure of the methods with the numbers ``shown``, in the colours that they have beside all others."""
    marks = colours.markers(rows)
    clean, certified = (_percents(rows, of) for of in (lambda m: m.clean, lambda m: m.proved(eps)))
    points = [(statistics.fmean(x), statistics.fmean(y)) for x, y in zip(clean, certified)]
    best = sorted(points[i] for i in pareto(points) if i in shown)

    def draw(figure, wide: bool) -> None:
        axis, lines = figure.subplots(), []
        for i in shown:
            x, y = points[i]
            if len(clean[i]) > 1:
                spread = {"xerr": statistics.stdev(clean[i]), "yerr": statistics.stdev(certified[i])}
                axis.errorbar(x, y, **spread, fmt="none", ecolor=colours.mark(i), elinewidth=1, alpha=0.6)
            lines += axis.plot(x, y, marker=marks[i], **_style(i) | {"ms": 10, "linestyle": "none"})
        axis.margins(0.12)
        (left, _), (bottom, _) = axis.get_xlim(), axis.get_ylim()
        xs, ys = zip((left, best[0][1]), *best, (best[-1][0], bottom))
        axis.step(xs, ys, "--", where="pre", color=colours.DRAWN["soft"], linewidth=1.3, zorder=1)
        axis.set(xlim=(left, None), ylim=(bottom, None), xlabel="clean accuracy (%)", ylabel="certified accuracy (%)")
        if wide and len(shown) <= MOST_LABELS:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            named = [(*points[i], titles[i], colours.mark(i)) for i in shown]
            beside_points(axis, named, 12.5, colours.text_of, sorted(SIDES, key=_straight))
        else:
            _legend(figure, lines, [titles[i] for i in shown], "outside right upper" if wide else BELOW)

    return figure_of(name, title, draw, (400, 310 + 20.0 * len(shown)), len(rows))


def pareto(points: list[tuple[float, float]]) -> list[int]:
    """Returns the points that no other point beats: as good in both coordinates and better in one."""

    def beaten(i: int) -> bool:
        (x, y) = points[i]
        return any(a >= x and b >= y and (a > x or b > y) for a, b in points)

    return [i for i in range(len(points)) if not beaten(i)]


def lines_of(row: Row) -> tuple[list[float], list[float], list[float]]:
    """Returns ε, and the certified and the attacked accuracy there in percent: means over seeds.

    At ε = 0 both are the clean accuracy.  The attacked accuracy is the lowest of all attacks; it is empty if no attack
    was run.
    """
    run, _ = row.first
    values = [0.0, *(eps for eps in sorted(run.eps_values) if eps > 0)]
    certified = [100 * row.mean(lambda m, eps=eps: m.proved(eps) if eps else m.clean) for eps in values]
    if not all(m.attacked for m in row.measured):
        return values, certified, []
    attacked = [100 * row.mean(lambda m, eps=eps: _attacked(m, eps) if eps else m.clean) for eps in values]
    return values, certified, attacked


def _attacked(m: MethodResult, eps: float) -> float:
    return min(accuracy[eps] for accuracy in m.attacked.values())


def _percents(rows: list[Row], of: Callable[[MethodResult], float]) -> list[list[float]]:
    return [[100 * of(m) for m in row.measured] for row in rows]


def _style(i: int) -> dict:
    return {"color": colours.mark(i), "ms": 8, "mec": colours.DRAWN["page"], "mew": 0.8, "linewidth": 1.8}


def _epsilon(rows: list[Row]) -> str:
    return f"ε{in_its_norm(rows[0].first[0])}"


def _headline(axis, rows: list[Row]) -> None:
    axis.axvline(rows[0].first[0].eps, color=colours.DRAWN["soft"], linewidth=1, linestyle=":", zorder=1)


def _ticks(axis, rows: list[Row]) -> None:
    values = sorted({0.0, *(eps for row in rows for eps in row.first[0].eps_values)})
    if all(b - a > FAR * values[-1] for a, b in itertools.pairwise(values)):
        axis.set_xticks(values, [eps_text(eps) if eps else "0" for eps in values])


def name_panel(axis, title: str, i: int, wide: bool) -> None:
    size = 12.5 if wide else 11
    lines = textwrap.fill(title, 26 if wide else 20)
    axis.set_title(lines, loc="left", fontsize=size, color=colours.text(i))


def _straight(side: tuple) -> bool:
    """Whether a label beside a point lies on one of its error bars."""
    return side[0] == 0 or side[1] == 0


def _legend(figure, lines: list, titles: list[str], place: str = BELOW) -> None:
    """Names lines beside a drawing.  A legend leaves out names that begin with _, so they are set afterwards."""
    legend = figure.legend(lines, ["name"] * len(lines), loc=place, ncols=1, fontsize=11.5)
    for text, title in zip(legend.get_texts(), titles, strict=True):
        text.set_text(short(title))
