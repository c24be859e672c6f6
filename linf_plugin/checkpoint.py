"""Checkpoints hold only tensors and plain data.  They are written whole or not at all, carry a digest, and are loaded
without running any code from the file."""

import os
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from . import archive, state
from .files import digest, replacing
from .models.net import Net
from .models.spec import check_size, check_spec, tensor_shapes

FORMAT = 1
COUNT = "num_batches_tracked"  # of batch normalisation: the only tensor of whole numbers


class _Sink:
    """Passes what torch writes to a file and keeps the OSError, because torch replaces it with an error of its own."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def write(path: str | os.PathLike, content: dict) -> None:
    """Saves tensors and plain data.  A kill at any moment leaves the old file or the new one.

    Raises:
        OSError: as ``replacing``, for example because the disk is full.
        TypeError: the content holds something that cannot be loaded again (a NumPy number, a path).
    """
    content = _on_cpu(content)
    sealed = {"content": content, "sha256": digest(content)}
    with replacing(path) as f:
        sink = _Sink(f)
        try:
            torch.save(sealed, cast("IO[bytes]", sink))  # torch calls what a sink has, and no more
        except RuntimeError:
            if sink.error is not None:
                raise sink.error from None
            raise


def read(path: str | os.PathLike) -> dict:
    """Returns what ``write`` saved, on the CPU.

    Models that an early version saved have no digest.  They are read too, but changes in them are not detected.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint, holds more than tensors and plain data, or was changed after it was
            written.
    """
    try:
        sealed = archive.load(path)
    except IsADirectoryError as error:
        raise ValueError(f"{path} is a folder") from error
    except ValueError as error:
        raise ValueError(f"{path} is not a readable checkpoint of tensors and plain data: {error}") from error
    if isinstance(sealed, dict) and sealed.keys() == {"format", "spec", "state", "metadata"}:
        return sealed  # a model that a version without digests saved
    if not isinstance(sealed, dict) or sealed.keys() != {"content", "sha256"}:
        raise ValueError(f"{path} is not a checkpoint of linf_plugin")
    try:
        found = digest(sealed["content"])
    except (TypeError, ValueError) as error:  # ValueError: a string that cannot be encoded
        raise ValueError(f"{path} holds more than tensors and plain data: {error}") from error
    if found != sealed["sha256"]:
        raise ValueError(f"{path} was damaged or changed since it was written: its digest does not match")
    return sealed["content"]


def _on_cpu(value: Any, where: str = "content", depth: int = 0) -> Any:
    """Returns the value as ``archive.load`` will return it: tensors on the CPU, and plain dicts, lists and tuples."""
    if depth > archive.DEEPEST:
        raise TypeError(f"{where} must not be nested deeper than {archive.DEEPEST} times")
    if isinstance(value, dict):
        return {key: _on_cpu(item, f"{where}[{key!r}]", depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        parts = (_on_cpu(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value))
        return list(parts) if isinstance(value, list) else tuple(parts)
    if isinstance(value, int) and abs(value) > archive.LARGEST_INT:
        raise TypeError(f"{where} must be a whole number of at most 64 bits")
    if not isinstance(value, Tensor):
        return value
    if value.dtype not in archive.DTYPES.values():
        raise TypeError(f"{where} has the dtype {value.dtype}, which a checkpoint cannot hold")
    value = value.detach().cpu()
    shared = value.layout == torch.strided and value.numel() > value.untyped_storage().nbytes() // value.element_size()
    return value.contiguous() if shared else value  # an expanded tensor states more numbers than the file would hold


def save(path: str | os.PathLike, model: Net, metadata: dict | None = None) -> None:
    """Saves a ``Net``: its spec, its weights and means, and ``metadata``, plain data about the run.

    Raises:
        TypeError: model is no ``Net``; or metadata hold something that cannot be loaded again (a NumPy number, a path).
        OSError: as ``write``.
    """
    if isinstance(path, nn.Module):
        raise TypeError(f"path must be a path, got {type(path).__name__}: call save(path, model)")
    if not isinstance(model, Net):
        raise TypeError(
            f"model must be a linf_plugin.Net, got {type(model).__name__}: make one by linf_plugin.build or "
            "linf_plugin.Net(spec). Save any other module by torch.save(model.state_dict(), path): linf-compare certify"
            " and linf-export model read that file, together with a function that builds the module"
        )
    metadata = dict(metadata or {})
    write(path, {"format": FORMAT, "spec": model.spec, "state": state.tensors(model), "metadata": metadata})


def _is_format(value: object) -> bool:
    return isinstance(value, int) and value == FORMAT


def load(path: str | os.PathLike) -> tuple[Net, dict]:
    """Returns the model, on the CPU and in evaluation mode, and its metadata.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a checkpoint of this package, holds more than tensors and plain data, or was
            changed after it was written (``read`` says which files have no digest).
    """
    content = read(path)
    keys = {"format", "spec", "state", "metadata"}
    if not isinstance(content, dict) or not keys <= content.keys() or not _is_format(content["format"]):
        raise ValueError(f"{path} is not a model checkpoint of linf_plugin (format {FORMAT})")
    if not isinstance(content["metadata"], dict):
        raise ValueError(f"{path} is not a model checkpoint of linf_plugin: its metadata are not a dict")
    try:
        model = _build(content["spec"], content["state"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch's message has several lines
        raise ValueError(f"{path} holds a model that cannot be built: {reason}") from error
    return model.eval(), content["metadata"]


def _build(spec: dict, given: dict[str, Tensor]) -> Net:
    """Returns the net of a spec with the given state.

    It first checks that the two fit, so that it allocates only as much memory as the state has.
    """
    check_spec(spec)
    check_size(spec)
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError("its state is not a dict of tensors")
    tensors = {name: a for name, a in given.items() if name.rpartition(".")[2] != state.KEY}
    shapes, dtypes = tensor_shapes(spec), set()
    for name in [*shapes, *tensors]:
        a = tensors.get(name)
        if name not in shapes or a is None:
            raise ValueError(f"its state {'lacks' if a is None else 'has the unknown'} {name[:80]!r}")
        counts = name.rpartition(".")[2] == COUNT
        if not isinstance(a, Tensor) or a.dtype not in ((torch.int64,) if counts else (torch.float32, torch.float64)):
            what = "an int64" if counts else "a float32 or float64"
            raise ValueError(f"{name} must be {what} tensor, got {getattr(a, 'dtype', type(a).__name__)}")
        if tuple(a.shape) != shapes[name]:
            raise ValueError(f"{name} has shape {tuple(a.shape)}, but its layer needs {shapes[name]}")
        if not a.isfinite().all():
            raise ValueError(f"{name} contains NaN or infinite values")
        if not counts:
            dtypes.add(a.dtype)
    if len(dtypes) > 1:
        raise ValueError("its state mixes float32 and float64")
    model = Net(spec)
    for dtype in dtypes:
        model.to(dtype)
    model.load_state_dict({**state.constants(model), **given})  # a state without constants takes those of the spec
    return model
