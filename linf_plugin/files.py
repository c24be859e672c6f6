"""Files of results: written whole or not at all, and never in the place of others unasked."""

import argparse
import json
import os
import sys
from pathlib import Path

from .checkpoint import replacing


class WouldReplace(FileExistsError):
    """Something is there that would be replaced.

    Args:
        what: what is there, without a word about arguments.
        resumable: whether ``resume`` would go on with it.
    """

    def __init__(self, what: str, resumable: bool = False):
        self.what, self.resumable = what, resumable
        super().__init__(self._with(""))

    def _with(self, dashes: str) -> str:
        goes_on = f"{dashes}resume goes on with it, " if self.resumable else ""
        return f"{self.what}: {goes_on}{dashes}force replaces it"

    def with_flags(self) -> str:
        """The message for a command line."""
        return self._with("--")


def check_absent(path: str | os.PathLike, force: bool = False) -> None:
    """Raises WouldReplace where there is such a file or folder, without ``force``."""
    if os.path.lexists(path) and not force:
        raise WouldReplace(f"{path} exists")


def write_text(path: str | os.PathLike, text: str) -> None:
    """In UTF-8.  A kill at any moment leaves the old file or the new one.  Raises OSError."""
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path: str | os.PathLike, content: dict | list) -> None:
    """As ``write_text``."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# For the commands that measure something and write it to files.


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="measure anew and replace what is there")


def occupied(prog: str, *paths: Path, force: bool) -> bool:
    """Whether one of the files exists and is to stay; a line on stderr then says so."""
    try:
        for path in paths:
            check_absent(path, force)
    except WouldReplace as error:
        print(f"{prog}: error: {error.with_flags()}", file=sys.stderr)
        return True
    return False
