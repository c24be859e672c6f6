"""Progress bars, only where people see them.  tqdm draws them; where it is not installed there is no bar."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any


def hidden(progress: bool) -> bool:
    """Returns whether a progress bar is hidden: it is shown on request, on a terminal or in a notebook."""
    return not (progress and (sys.stderr.isatty() or "ipykernel" in sys.modules))


class NoBar:
    """What this package uses of a bar, without a bar."""

    def __init__(self, items: Iterable | None = None) -> None:
        self.items = items

    def __iter__(self) -> Iterator:
        return iter(() if self.items is None else self.items)

    def __enter__(self) -> "NoBar":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is to be closed."""

    def _ignore(self, *_: object, **__: object) -> None:
        """Nothing is drawn."""

    update = reset = set_description = set_postfix = set_postfix_str = _ignore


def bar(items: Iterable | None = None, **options: Any) -> Any:
    """Returns a bar over the items, with tqdm's options; it can be iterated and updated as tqdm's can."""
    try:
        from tqdm import tqdm
    except ImportError:
        return NoBar(items)
    return tqdm(items, **options)


def say(text: str) -> None:
    """Writes a line to stderr, above the bar if there is one."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, file=sys.stderr)
    else:
        tqdm.write(text, file=sys.stderr)
