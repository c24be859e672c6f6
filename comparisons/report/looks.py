"""Colours and marks of methods in pictures.  They follow the kind; methods of one kind differ in shade and mark."""

from collections.abc import Iterable

COLORS = {
    "linf-dist": "#d62728",
    "linf-dist-mlp": "#ff7f0e",
    "ibp": "#1f77b4",
    "crown-ibp": "#2ca02c",
    "sortnet": "#9467bd",
    "sortnet-mlp": "#8c564b",
    "linf-dist-v2": "#e377c2",
    "linf-conv-mlp": "#bcbd22",
    "linf-dist-clip": "#17becf",
}
OTHER = "#444444"  # of a kind that has no colour
MARKERS = "osD^vP"
PALER = (0.0, 0.45, 0.65)  # part of white in the colour


def looks(methods: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """(name, kind) of methods → of each name {"color": …, "marker": …}.  The first of a kind has the kind's colour."""
    found, of_kind = {}, {}
    for name, kind in methods:
        if name not in found:
            nth = of_kind[kind] = of_kind.get(kind, -1) + 1
            found[name] = {"color": shade(COLORS.get(kind, OTHER), nth), "marker": MARKERS[nth % len(MARKERS)]}
    return found


def shade(color: str, nth: int) -> str:
    """A colour "#rrggbb", paler for the second and the third of a kind."""
    white = PALER[nth % len(PALER)]
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - white) * part + white * 255):02x}" for part in parts)
