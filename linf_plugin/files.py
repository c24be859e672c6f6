"""Files on the disk, written whole or not at all, and the digest of what they hold."""

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
    """A file to write to, which takes the place of ``path`` when the block ends.

    A kill at any moment leaves the old file or the new one.  Whatever goes wrong, the old one stays and what was
    written of the new one is removed.

    Raises:
        OSError: the file could not be written; the message says which one and why.
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
            raise OSError(f"{path} could not be written, what was there before stays: {error}") from error
        raise


def digest(content: object) -> str:
    """SHA-256 over tensors and plain data: types, keys and their order, shapes and every bit.

    Raises:
        TypeError: there is something else in it; the message says where.
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
