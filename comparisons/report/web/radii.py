"""The figure of certified radii: a histogram, and the share of samples with at least each radius."""

from typing import Any

from ..rows import Row
from ..words import in_its_norm
from . import colours
from .curves import name_panel
from .drawing import figure_of, multiples, multiples_heights

BINS = 24


def radii(rows: list[Row], titles: list[str], tables: dict[int, Any]) -> str:
    """Returns a panel for each method with a samples file.

    Args:
        tables: index of a row → pandas DataFrame of its samples.
    """
    import numpy as np

    found = {i: np.asarray(table["radius_best"], float) for i, table in tables.items()}
    longest = max(float(r.max()) if len(r) else 0.0 for r in found.values()) or 1.0
    edges = np.linspace(0.0, longest, BINS + 1)

    def draw(figure, wide: bool) -> None:
        axes = multiples(figure, len(found), wide)
        for axis, (i, of_row) in zip(axes, found.items()):
            inner = of_row[of_row > 0]
            counts = np.histogram(inner, edges)[0] / max(1, len(of_row)) * 100
            axis.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours.mark(i), alpha=0.55, linewidth=0)
            ordered = np.sort(of_row)
            at_least = 100 * (1 - np.searchsorted(ordered, ordered, "left") / max(1, len(ordered)))
            shown = ordered > 0
            xs, ys = np.r_[0.0, ordered[shown]], np.r_[100 * shown.mean(), at_least[shown]]
            axis.step(np.r_[xs, xs[-1]], np.r_[ys, 0.0], where="pre", color=colours.mark(i), linewidth=1.8)
            name_panel(axis, titles[i], i, wide)
            axis.set(ylim=(0, 100), xlim=(0, longest * 1.03), yticks=(0, 25, 50, 75, 100))
            axis.tick_params(axis="x", pad=7)  # the zeros of both axes stay apart
            axis.locator_params(axis="x", nbins=4)
        figure.supxlabel(f"certified radius{in_its_norm(rows[0].first[0])}", fontsize="medium")
        figure.supylabel("samples (%)", fontsize="medium")

    title = "Histogram and cumulative curve of the certified radii of each method"
    return figure_of("radii", title, draw, multiples_heights(len(found)), len(rows))
