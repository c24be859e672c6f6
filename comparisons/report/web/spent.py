"""Figures of costs: seconds of training for each epoch, and seconds of each certificate."""

from ...certificates import label_of as certificate_label
from ..costs import certificates_timed, per_epoch, seconds_of, times
from ..labels import short
from ..rows import Row, times_baseline
from ..words import known
from . import colours
from .drawing import figure_of

MARKS = "oDs^vPX*"  # of certificates


def training(rows: list[Row], titles: list[str]) -> str:
    """Returns bars: seconds of each epoch, with the ratio to IBP."""

    def draw(figure, wide: bool) -> None:
        axis = _named(figure.subplots(), titles, wide)
        seconds = [row.mean(per_epoch) for row in rows]
        longest = max((s for s in seconds if s is not None), default=1.0) or 1.0
        for i, (row, s) in enumerate(zip(rows, seconds)):
            axis.barh(i, s or 0.0, height=0.42, color=colours.mark(i))
            ratio = times_baseline(row, per_epoch)
            text = "not known" if s is None else f"{_short(s)} s" + f"  ({times(ratio)})" * (ratio is not None)
            axis.annotate(text, (s or 0.0, i), (5, 0), textcoords="offset points", va="center", fontsize=11)
        axis.set(xlabel="seconds of training for each epoch", xlim=(0, longest * (1.25 if wide else 1.75)))

    return figure_of("training", "Seconds of training for each epoch", draw, _heights(rows), len(rows))


def certifying(rows: list[Row], titles: list[str]) -> str:
    """Returns dots: seconds of each certificate for one sample at one ε; empty if no run has recorded them."""
    timed = certificates_timed([m for row in rows for m in row.measured])
    if not timed:
        return ""

    def draw(figure, wide: bool) -> None:
        axis = _named(figure.subplots(), titles, wide)
        for k, certificate in enumerate(timed):
            found = [(i, per_sample(row, certificate)) for i, row in enumerate(rows)]
            found = [(i, s) for i, s in found if s]
            for i, s in found:
                style = {"ms": 9, "linestyle": "none", "mec": colours.DRAWN["page"], "mew": 0.8, "alpha": 0.9}
                axis.plot(s, i, MARKS[k % len(MARKS)], color=colours.mark(i), **style)
        axis.set(xscale="log", xlabel="seconds of each certificate for one sample at one ε")
        _mark_decades(axis)
        handles = [
            axis.plot([], [], MARKS[k % len(MARKS)], color=colours.DRAWN["soft"], ms=9, label=certificate_label(name))[
                0
            ]
            for k, name in enumerate(timed)
        ]
        columns = len(timed) if wide else 2
        figure.legend(handles=handles, loc="outside lower left", ncols=columns, columnspacing=1.2)

    wide, narrow = _heights(rows)
    return figure_of(
        "certifying",
        "Seconds of each certificate for one sample",
        draw,
        (wide + 30, narrow + 25 * (len(timed) + 1) // 2),
        len(rows),
    )


def _mark_decades(axis) -> None:
    """Makes a logarithmic axis at least a decade long, so that it has ticks; their labels are no mathematics of TeX."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_xlim()
    spare = max(1.0, (10 * low / high) ** 0.5)
    axis.set_xlim(low / spare, high * spare)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high * spare < 100 * low / spare else (1,)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter("{x:g}")


def per_sample(row: Row, certificate: str) -> float | None:
    """Returns the mean seconds of a certificate for one sample at one ε, or None if a run lacks them."""
    found = []
    for run, name in row.runs.values():
        seconds = seconds_of(run.methods[name]).get(certificate)
        if seconds is None:
            return None
        found.append(seconds / run.test_samples / len(run.eps_values))
    return sum(found) / len(found)


def _heights(rows: list[Row]) -> tuple[float, float]:
    return 60 + 34.0 * len(rows), 60 + 46.0 * len(rows)


def _named(axis, titles: list[str], wide: bool):
    """Names the rows of an axis, from the top: on its left in a wide drawing, above each row in a narrow one."""
    axis.set_ylim(len(titles) - 0.5, -0.75 if not wide else -0.5)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    if wide:
        axis.set_yticks(range(len(titles)), [short(title) for title in titles])
    else:
        axis.set_yticks([])
        for i, title in enumerate(titles):
            style = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom"}
            axis.annotate(short(title), (0, i - 0.26), (0, 0), fontsize=11, color=colours.text(i), **style)
    if wide:
        for i, label in enumerate(axis.get_yticklabels()):
            label.set_color(colours.text(i))
    return axis


def _short(seconds: float) -> str:
    return known(seconds, ".0f" if seconds >= 100 else ".3g")
