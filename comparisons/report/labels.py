"""Labels in pictures that stand beside what they name and never on each other.

Call these functions when everything else is drawn: they read where the layout has put it.
"""

from collections.abc import Callable, Sequence

from .looks import for_text

LETTER_SIZE = 8.5  # points
MOST_LETTERS = 40  # letters of a label
LINE_HEIGHTS = 1.25  # least distance of two labels, in heights of a line
BESIDE = 18  # points between an axis and the labels on its right
SIDES = (  # where a label may stand: its offset from the point in points, and how it is aligned there
    (7, 0, "left", "center"),
    (-7, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (5, 6, "left", "bottom"),
    (5, -6, "left", "top"),
    (-5, 6, "right", "bottom"),
    (-5, -6, "right", "top"),
    (0, 19, "center", "bottom"),
    (0, -19, "center", "top"),
    (5, 15, "left", "bottom"),
    (5, -15, "left", "top"),
)


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Returns the positions nearest to those wanted, in their order, at least ``gap`` apart and within [low, high].

    The sum of the squared moves is least (isotonic regression, by pooling neighbours that violate the order).  If
    the range is too short for the gaps, they shrink.
    """
    if not wanted:
        return []
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    pools: list[tuple[float, int]] = []  # (mean, number) of what neighbours want, without the gaps
    for k, i in enumerate(order):
        pools.append((wanted[i] - k * gap, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((n * a + m * b) / (n + m), n + m)]
    means = [mean for mean, n in pools for _ in range(n)]
    found = [0.0] * len(wanted)
    for k, i in enumerate(order):
        found[i] = min(max(means[k], low), high - (len(wanted) - 1) * gap) + k * gap
    return found


def short(text: str) -> str:
    """Returns a text that leaves room for the picture: its two ends."""
    return text if len(text) <= MOST_LETTERS else f"{text[:15]}…{text[16 - MOST_LETTERS :]}"


def at_right(
    axis, ends: Sequence[tuple[float, float, str, str]], size: float = LETTER_SIZE, ink: Callable[[str], str] = for_text
) -> list:
    """Writes labels on the right of an axis, each with a thin line to its point.

    Args:
        ends: (x, y, text, colour "#rrggbb") of each, in the units of the axis.
        ink: colour → the colour of its letters.

    Returns the labels; ``settle`` moves them apart when the layout is known.
    """
    from matplotlib.transforms import offset_copy

    beside = offset_copy(axis.transAxes, axis.figure, x=BESIDE, units="points")
    line = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)}
    style = {"textcoords": beside, "va": "center", "fontsize": size, "annotation_clip": False, "parse_math": False}
    return [
        axis.annotate(short(text), (x, y), (1, 0.5), color=ink(color), arrowprops={**line, "color": color}, **style)
        for x, y, text, color in ends
    ]


def settle(figure, labels_of_axes: Sequence[tuple]) -> None:
    """Moves labels of ``at_right`` to the heights of their points, without overlaps.  Takes (axis, labels) of each."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what follows must not move the axes again
    for axis, labels in labels_of_axes:
        box = axis.get_window_extent()
        points = [axis.transData.transform(label.xy)[1] for label in labels]
        size = max((label.get_fontsize() for label in labels), default=LETTER_SIZE) * figure.dpi / 72
        for label, y in zip(labels, spread(points, LINE_HEIGHTS * size, box.y0 + size / 2, box.y1 - size / 2)):
            label.set_position((1, (y - box.y0) / box.height))


def beside_points(
    axis,
    points: Sequence[tuple[float, float, str, str]],
    size: float = LETTER_SIZE,
    ink: Callable[[str], str] = for_text,
    sides: Sequence[tuple] = SIDES,
) -> list:
    """Writes the label of each point on a side where it covers neither a point nor another label, and stays inside.

    Args:
        points: (x, y, text, colour) of each, in the units of the axis.
        ink: colour → the colour of its letters.
        sides: where a label may stand, the best first.

    Returns the labels.  The layout must be settled.
    """
    from matplotlib.transforms import Bbox

    renderer, inside, scale = axis.figure.canvas.get_renderer(), axis.get_window_extent(), axis.figure.dpi / 72
    places = [axis.transData.transform((x, y)) for x, y, *_ in points]
    taken = [Bbox.from_bounds(x - 4 * scale, y - 4 * scale, 8 * scale, 8 * scale) for x, y in places]
    found = []
    for x, y, text, color in points:
        style = {"fontsize": size, "color": ink(color), "parse_math": False}
        label = axis.annotate(short(text), (x, y), (0, 0), textcoords="offset points", **style)
        label.set_in_layout(False)  # the layout is settled
        best = None
        for i, (dx, dy, ha, va) in enumerate(sides):
            label.set(position=(dx, dy), ha=ha, va=va)
            box = label.get_window_extent(renderer)
            faults = sum(box.overlaps(other) for other in taken)
            outside = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            faults += 2 * outside  # there it may cover names of other things
            if best is None or (faults, i) < best[0]:
                best = (faults, i), box
        dx, dy, ha, va = sides[best[0][1]]
        label.set(position=(dx, dy), ha=ha, va=va)
        taken.append(best[1])
        found.append(label)
    return found
