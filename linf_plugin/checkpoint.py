"""Checkpoints: tensors and plain data only, written atomically, loaded without executing anything."""

import os
import pickle
from pathlib import Path

import torch
from torch import nn

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
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a readable checkpoint of tensors and plain data: {error}") from error


def save(path: str | os.PathLike, model: nn.Module, metadata: dict | None = None) -> None:
    """Saves a ``Net``: its spec, its weights and means, and ``metadata`` (plain data about the run)."""
    write(path, {
        "format": FORMAT, "spec": model.spec, "state": model.state_dict(), "metadata": dict(metadata or {}),
    })


def load(path: str | os.PathLike) -> tuple[Net, dict]:
    """The model, on the CPU and in evaluation mode, and its metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint of this package, or holds more than tensors and plain data.
    """
    content = read(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or "spec" not in content:
        raise ValueError(f"{path} is not a model checkpoint of linf_plugin (format {FORMAT})")
    model = Net(content["spec"])
    model.load_state_dict(content["state"])
    return model.eval(), content["metadata"]
