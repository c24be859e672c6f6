"""``PYTHONPATH=tests python -m browser report.html OUT`` writes pictures of a page: two widths, two themes."""

import sys
import tempfile
from pathlib import Path

from . import chromium

WIDTHS, THEMES = (375, 1400), ("light", "dark")


def shots(page: Path, out: Path) -> list[Path]:
    """Writes pictures of the whole page to a folder and returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory() as folder, chromium.running(Path(folder)) as browser:
        for width in WIDTHS:
            for theme in THEMES:
                browser.open(page.resolve(), width=width, dark=theme == "dark")
                found.append(out / f"{width}-{theme}.png")
                browser.screenshot(found[-1])
    return found


if __name__ == "__main__":
    for path in shots(*map(Path, sys.argv[1:3])):
        print(path)
