"""Colours and marks of methods in pictures.

The kind of a method sets its colour and its mark.  Methods of one kind differ in shade and mark.  So no two methods of
a picture have one mark, and no reader needs colours to tell them apart.
"""

from collections.abc import Iterable

from ..methods.kinds import METHODS

OTHER = "#444444"  # the colour of an unknown kind
STARS = [(points, 1, turn) for turn in (0, 36) for points in (3, 4, 5, 6, 7, 8)]  # as matplotlib names them
MARKERS = [*"psDh*d>H8oXPv^<", *STARS]  # for the second of a kind, and for unknown kinds
PALER = (0.0, 0.35, 0.55)  # share of white in the colour


def looks(methods: Iterable[tuple[str, str]]) -> dict[str, dict]:
    """Returns name → {"color": …, "marker": …} for methods (name, kind).

    The first of a kind has the kind's colour and mark.  Marks repeat only if there are more methods than marks.
    """
    kinds: dict[str, str] = {}
    for name, kind in methods:
        kinds.setdefault(name, kind)
    taken = {METHODS[kind].marker for kind in kinds.values() if kind in METHODS}
    free = [marker for marker in MARKERS if marker not in taken] or MARKERS
    found, of_kind, others = {}, {}, 0
    for name, kind in kinds.items():
        nth = of_kind[kind] = of_kind.get(kind, -1) + 1
        if kind in METHODS and nth == 0:
            marker = METHODS[kind].marker
        else:
            marker, others = free[others % len(free)], others + 1
        found[name] = {"color": shade(METHODS[kind].color if kind in METHODS else OTHER, nth), "marker": marker}
    return found


def shade(color: str, nth: int) -> str:
    """Returns a colour "#rrggbb", paler for the second and the third of a kind."""
    return _mixed(color, 255, PALER[nth % len(PALER)])


def for_text(color: str) -> str:
    """Returns a darker colour, in which letters can be read on white."""
    return _mixed(color, 0, 0.4)


def _mixed(color: str, other: int, share: float) -> str:
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * part + share * other):02x}" for part in parts)
