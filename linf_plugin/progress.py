"""Progress bars only where people see them."""

import sys


def hidden(progress: bool) -> bool:
    """Returns whether a progress bar is hidden: it is shown on request, on a terminal or in a notebook."""
    return not (progress and (sys.stderr.isatty() or "ipykernel" in sys.modules))
