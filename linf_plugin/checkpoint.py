"""Checkpoints: tensors and plain data only, written atomically, loaded without executing anything."""

import os
from pathlib import Path

import torch

from .models import Net

FORMAT = 1


def write(path: str | os.PathLike, content: dict) -> None:
    """Saves tensors and plain data so that a kill at any moment leaves the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as f:
        torch.save(content, f)
        f.flush()
        os.fsync(f.fileno())
    os.replace(part, path)


def read(path: str | os.PathLike) -> dict:
    """What ``write`` saved, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, or holds more than tensors and plain data.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises whatever the bytes lead it to
        reason = type(error).__name__  # its message is long, and about torch
        raise ValueError(f"{path} is not a readable checkpoint of tensors and plain data ({reason})") from error


def _check_plain(value, where: str) -> None:
    """Raises TypeError where ``read`` would refuse a value."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _check_plain(item, f"{where}[{i}]")
    elif value is not None and type(value) not in (bool, int, float, str) and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} must be plain data, got {type(value).__name__}")


def save(path: str | os.PathLike, model: Net, metadata: dict | None = None) -> None:
    """Saves a ``Net``: its spec, its weights and means, and ``metadata``, plain data about the run.

    Raises:
        TypeError: metadata holds something that could not be loaded again (a NumPy number, a path).
    """
    metadata = dict(metadata or {})
    _check_plain(metadata, "metadata")
    write(path, {"format": FORMAT, "spec": model.spec, "state": model.state_dict(), "metadata": metadata})


def load(path: str | os.PathLike) -> tuple[Net, dict]:
    """The model, on the CPU and in evaluation mode, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of this package, or holds more than tensors and plain data.
    """
    content = read(path)
    keys = {"format", "spec", "state", "metadata"}
    if not isinstance(content, dict) or not keys <= content.keys() or content["format"] != FORMAT:
        raise ValueError(f"{path} is not a model checkpoint of linf_plugin (format {FORMAT})")
    try:
        model = Net(content["spec"])
        for dtype in {a.dtype for a in content["state"].values()}:
            model.to(dtype)
        model.load_state_dict(content["state"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds a model that cannot be built: {error}") from error
    return model.eval(), content["metadata"]
