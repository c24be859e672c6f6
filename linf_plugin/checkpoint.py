"""Checkpoints: tensors and plain data only, written atomically, sealed with a digest, loaded without executing
anything."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from . import state
from .models import Net

FORMAT = 1


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


class _Sink:
    """Hands what torch writes to a file, and keeps the error: torch replaces it by one of its own."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(path: str | os.PathLike, content: dict) -> None:
    """Saves tensors and plain data so that a kill at any moment leaves the old file or the new one.

    Raises:
        OSError: as ``replacing``, for example because the disk is full.
        TypeError: content holds something that could not be loaded again (a NumPy number, a path).
    """
    content = _on_cpu(content)
    sealed = {"content": content, "sha256": digest(content)}
    with replacing(path) as f:
        sink = _Sink(f)
        try:
            torch.save(sealed, sink)
        except RuntimeError:
            if sink.error is not None:
                raise sink.error
            raise


def read(path: str | os.PathLike) -> dict:
    """What ``write`` saved, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, holds more than tensors and plain data, or was changed since.

    A model that was saved by a version without digests is read as it is: nothing tells whether it was changed.
    """
    try:
        sealed = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises whatever the bytes lead it to
        reason = type(error).__name__  # its message is long, and about torch
        raise ValueError(f"{path} is not a readable checkpoint of tensors and plain data ({reason})") from error
    if isinstance(sealed, dict) and sealed.keys() == {"format", "spec", "state", "metadata"}:
        return sealed  # a model saved by a version that had no digest
    if not isinstance(sealed, dict) or sealed.keys() != {"content", "sha256"}:
        raise ValueError(f"{path} is not a checkpoint of linf_plugin")
    try:
        found = digest(sealed["content"])
    except (TypeError, RuntimeError) as error:  # the second: a sparse tensor, deep nesting
        raise ValueError(f"{path} holds more than tensors and plain data: {error}") from error
    if found != sealed["sha256"]:
        raise ValueError(f"{path} was damaged or changed since it was written: its digest is another")
    return sealed["content"]


def digest(content) -> str:
    """SHA-256 over tensors and plain data: types, keys and their order, shapes and every bit.

    Raises:
        TypeError: there is something else in it; the message says where.
    """
    total = hashlib.sha256()
    _feed(total, content, "content")
    return total.hexdigest()


def _feed(total, value, where: str) -> None:
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


def _on_cpu(value):
    """The same with every tensor on the CPU."""
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_on_cpu(item) for item in value)
    return value.detach().cpu() if isinstance(value, Tensor) else value


def save(path: str | os.PathLike, model: Net, metadata: dict | None = None) -> None:
    """Saves a ``Net``: its spec, its weights and means, and ``metadata``, plain data about the run.

    Raises:
        TypeError: metadata holds something that could not be loaded again (a NumPy number, a path).
        OSError: as ``write``.
    """
    metadata = dict(metadata or {})
    write(path, {"format": FORMAT, "spec": model.spec, "state": state.tensors(model), "metadata": metadata})


def _is_format(value) -> bool:
    return isinstance(value, int) and value == FORMAT


def load(path: str | os.PathLike) -> tuple[Net, dict]:
    """The model, on the CPU and in evaluation mode, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of this package, holds more than tensors and plain data, or was
            changed since it was written (``read`` says which files have no digest).
    """
    content = read(path)
    keys = {"format", "spec", "state", "metadata"}
    if not isinstance(content, dict) or not keys <= content.keys() or not _is_format(content["format"]):
        raise ValueError(f"{path} is not a model checkpoint of linf_plugin (format {FORMAT})")
    try:
        model = Net(content["spec"])
        for dtype in {a.dtype for name, a in content["state"].items() if not name.endswith(state.KEY)}:
            model.to(dtype)
        model.load_state_dict({**state.constants(model), **content["state"]})  # the spec says the constants
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a model that cannot be built: {error}") from error
    return model.eval(), content["metadata"]
