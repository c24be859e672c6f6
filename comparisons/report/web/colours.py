"""The colours of the page, in a light and a dark theme.

Figures are drawn once, in colours that stand for a role.  The page replaces them by CSS variables, which each theme
sets.
"""

from ..looks import looks
from ..rows import Row

PALETTE = {  # role → its colour in the light and in the dark theme
    "page": ("#ffffff", "#14171b"),
    "panel": ("#f3f5f7", "#1e2329"),
    "ink": ("#1b1f24", "#e6e8eb"),
    "soft": ("#545c66", "#a6aeb8"),
    "line": ("#d3d9df", "#3a424b"),
    "accent": ("#0b5cad", "#86bff5"),
}
DRAWN = {"page": "#010203", "ink": "#040506", "soft": "#070809", "line": "#0a0b0c"}  # role → its colour in drawings
MARK, TEXT = "#f1{:02x}0f", "#f2{:02x}0f"  # of the n-th method in drawings: its marks, and its name
LEAST_MARK, LEAST_TEXT = 3.0, 4.5  # contrast with the page (WCAG 2.2, 1.4.11 and 1.4.3)


def mark(method: int) -> str:
    """Returns the colour in drawings of the marks of the n-th method."""
    return MARK.format(method)


def text(method: int) -> str:
    """Returns the colour in drawings of the name of the n-th method."""
    return TEXT.format(method)


def text_of(mark_color: str) -> str:
    """Returns the colour of the name for the colour of the marks."""
    return text(int(mark_color[3:5], 16))


def markers(rows: list[Row]) -> list[str]:
    """Returns the mark of each row, as matplotlib calls it."""
    return [look["marker"] for look in _looks(rows)]


def themes(rows: list[Row]) -> list[dict[str, str]]:
    """Returns the CSS variables of the light and of the dark theme: name → colour."""
    found: list[dict[str, str]] = []
    for theme in (0, 1):
        page = PALETTE["page"][theme]
        colors = {role: pair[theme] for role, pair in PALETTE.items()}
        for i, look in enumerate(_looks(rows)):
            colors[f"m{i}"] = with_contrast(look["color"], page, LEAST_MARK)
            colors[f"t{i}"] = with_contrast(look["color"], page, LEAST_TEXT)
        found.append(colors)
    return found


def in_variables(svg: str, methods: int) -> str:
    """Replaces the colours of a drawing by the variables of the themes."""
    for role, color in DRAWN.items():
        svg = svg.replace(color, f"var(--{role})")
    for i in range(methods):
        svg = svg.replace(mark(i), f"var(--m{i})").replace(text(i), f"var(--t{i})")
    return svg


def _looks(rows: list[Row]) -> list[dict[str, str]]:
    found = looks((str(i), row.m.kind) for i, row in enumerate(rows))
    return [found[str(i)] for i in range(len(rows))]


def luminance(color: str) -> float:
    """Returns the relative luminance of "#rrggbb", in [0, 1] (WCAG 2.2)."""
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Returns the contrast ratio of two colours, from 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def with_contrast(color: str, page: str, least: float) -> str:
    """Returns a colour, moved to black or white by as little as gives it a contrast with the page."""
    target = 0 if luminance(page) > 0.5 else 255
    parts = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    for step in range(51):
        mixed = [round(part + (target - part) * step / 50) for part in parts]
        found = "#" + "".join(f"{part:02x}" for part in mixed)
        if contrast(found, page) >= least:
            break
    return found
