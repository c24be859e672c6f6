"""Figures as SVG inside the page: drawn for two widths, in colours of the theme, with text that stays text."""

import io
import itertools
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

from linf_plugin import extras

from .colours import DRAWN, in_variables

WIDE, NARROW = 960, 343  # units of a drawing; a unit is a CSS pixel at the width for which it is made
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
FONTS = ["DejaVu Sans", "Verdana", "Arial", "sans-serif"]  # layouts are made with the first, which is wide
SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": FONTS,
    "text.parse_math": False,
    "text.color": DRAWN["ink"],
    "axes.edgecolor": DRAWN["soft"],
    "axes.labelcolor": DRAWN["ink"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": DRAWN["line"],
    "grid.linewidth": 0.8,
    "xtick.color": DRAWN["soft"],
    "ytick.color": DRAWN["soft"],
    "xtick.labelcolor": DRAWN["ink"],
    "ytick.labelcolor": DRAWN["ink"],
    "figure.facecolor": "none",
    "legend.frameon": False,
    "figure.dpi": 72,
    "savefig.dpi": 72,
}

Draw = Callable[..., None]  # (figure, wide) draws onto a figure of matplotlib


def figure_of(name: str, title: str, draw: Draw, heights: tuple[float, float], methods: int) -> str:
    """Returns HTML: a drawing for wide and one for narrow windows, of which CSS shows one.

    Args:
        name: of the figure, in letters: ids begin with it.
        title: what the figure shows, for readers who do not see it.
        draw: draws onto a figure of matplotlib.
        heights: of the wide and of the narrow drawing, in its units.
        methods: how many methods have colours of their own.
    """
    sizes = [("wide", WIDE, heights[0], 13.0), ("narrow", NARROW, heights[1], 12.0)]
    return "".join(
        f'<div class="{size}">{_svg(f"{name}-{size}", title, draw, (width, height), font, methods)}</div>'
        for size, width, height, font in sizes
    )


def _svg(name: str, title: str, draw: Draw, size: tuple[float, float], font: float, methods: int) -> str:
    with extras.named():
        import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes = dict.fromkeys(("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), font)
    written = io.BytesIO()
    with matplotlib.rc_context(SETTINGS | sizes | {"legend.fontsize": font, "svg.hashsalt": name}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        FigureCanvasAgg(figure)  # measures texts
        draw(figure, size[0] == WIDE)
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return in_variables(_inline(written.getvalue(), name, title), methods)


def _inline(written: bytes, name: str, title: str) -> str:
    """Returns an SVG file as an element of a page: without metadata and global styles, with ids of its own."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(written)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    known = {element.attrib["id"]: f"{name}-{i}" for i, element in enumerate(root.iter()) if "id" in element.attrib}
    for element in root.iter():
        if "id" in element.attrib:
            element.set("id", known[element.attrib["id"]])
        if (target := element.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
            element.set("href", f"#{known[target.removeprefix('#')]}")
        for key, value in element.attrib.items():
            if value.startswith("url(#"):
                element.set(key, f"url(#{known[value[5:-1]]})")
    for key in ("width", "height", "version"):
        del root.attrib[key]
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title")
    label = ElementTree.Element(f"{{{SVG}}}title", {"id": f"{name}-title"})
    label.text = title
    root.insert(0, label)
    return ElementTree.tostring(root, encoding="unicode")


def multiples(figure, count: int, wide: bool) -> list:
    """Returns the axes of small multiples with common scales, one for each method, row by row."""
    columns = min(count, across(wide))
    axes = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[count:]:
        axis.remove()
    for column in range(columns):  # the lowest of a column shows the ticks
        there = [row[column] for row, first in zip(axes, itertools.count(0, columns)) if first + column < count]
        there[-1].tick_params(labelbottom=True)
    return list(axes.flat[:count])


def across(wide: bool) -> int:
    return 4 if wide else 2


def multiples_heights(count: int) -> tuple[float, float]:
    """Returns the heights of drawings of small multiples."""
    wide, narrow = -(-count // across(True)), -(-count // across(False))
    return 50 + 190.0 * wide, 60 + 150.0 * narrow
