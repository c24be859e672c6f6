"""Colours and marks of methods in pictures.

The kind of a method sets its colour.  Methods of one kind differ in shade and mark.
"""

from collections.abc import Iterable

from ..methods.kinds import METHODS

OTHER = "#444444"  # the colour of an unknown kind
MARKERS = "osD^vP"
PALER = (0.0, 0.45, 0.65)  # share of white in the colour


def looks(methods: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """Returns name → {"color": …, "marker": …} for methods (name, kind).  The first of a kind has the kind's colour."""
    found, of_kind = {}, {}
    for name, kind in methods:
        if name not in found:
            nth = of_kind[kind] = of_kind.get(kind, -1) + 1
            found[name] = {
                "color": shade(METHODS[kind].color if kind in METHODS else OTHER, nth),
                "marker": MARKERS[nth % len(MARKERS)],
            }
    return found


def shade(color: str, nth: int) -> str:
    """Returns a colour "#rrggbb", paler for the second and the third of a kind."""
    white = PALER[nth % len(PALER)]
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - white) * part + white * 255):02x}" for part in parts)
