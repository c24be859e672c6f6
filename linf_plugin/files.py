"""Writes files whole or not at all, and computes the digest of what they hold."""

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a new file for writing; it replaces ``path`` when the block ends.

    A kill at any moment leaves the old file or the new one.  After an error the old file stays, and the unfinished new
    one is removed.

    Raises:
        OSError: the file could not be written; the message names it and says why.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(f"{path} could not be written, the old content stays: {error}") from error
        raise


def digest(content: object) -> str:
    """Returns the SHA-256 of tensors and plain data: of types, keys and their order, shapes and every bit.

    Raises:
        TypeError: the content holds something else; the message says where.
    """
    total = hashlib.sha256()
    _feed(total, content, "content")
    return total.hexdigest()


def _feed(total: Any, value: object, where: str) -> None:
    if isinstance(value, dict):
        total.update(b"{%d" % len(value))
        for key, item in value.items():
            _feed(total, key, f"a key of {where}")
            _feed(total, item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        total.update(b"%s%d" % (b"[" if isinstance(value, list) else b"(", len(value)))
        for i, item in enumerate(value):
            _feed(total, item, f"{where}[{i}]")
    elif isinstance(value, Tensor):
        total.update(f"tensor {value.dtype} {tuple(value.shape)}:".encode())
        total.update(value.detach().contiguous().flatten().view(torch.uint8).numpy())
    elif value is None or type(value) in (bool, int, float, str):
        text = repr(value).encode()
        total.update(b"%s %d:" % (type(value).__name__.encode(), len(text)) + text)
    else:
        raise TypeError(f"{where} must be plain data, got {type(value).__name__}")


class WouldReplace(FileExistsError):
    """Something exists that would be replaced.

    Args:
        what: names what exists and says nothing about arguments.
        resumable: whether ``resume`` would continue it.
    """

    def __init__(self, what: str, resumable: bool = False):
        self.what, self.resumable = what, resumable
        super().__init__(self._with(""))

    def _with(self, dashes: str) -> str:
        goes_on = f"{dashes}resume goes on with it, " if self.resumable else ""
        return f"{self.what}: {goes_on}{dashes}force replaces it"

    def with_flags(self) -> str:
        """Returns the message for a command line."""
        return self._with("--")


def check_absent(path: str | os.PathLike, force: bool = False) -> None:
    """Raises WouldReplace if the file or folder exists, unless ``force`` is True."""
    if os.path.lexists(path) and not force:
        raise WouldReplace(f"{path} exists")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes text in UTF-8.  A kill at any moment leaves the old file or the new one.  Raises OSError."""
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path: str | os.PathLike, content: dict | list) -> None:
    """Writes JSON as ``write_text`` does."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


# For commands that measure something and write the results to files.


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="measure again and replace existing files")


def occupied(prog: str, *paths: Path, force: bool) -> bool:
    """Returns whether one of the files exists and must not be replaced.  A line on stderr then says so."""
    try:
        for path in paths:
            check_absent(path, force)
    except WouldReplace as error:
        print(f"{prog}: error: {error.with_flags()}", file=sys.stderr)
        return True
    return False
