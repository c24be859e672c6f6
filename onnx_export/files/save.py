"""Writes ONNX files in one move, with their weights in the file or beside it."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from linf_plugin.files import WouldReplace, check_absent, replacing

from .load import content_of, parsed, unchecked
from .seal import broken_seal, props_of, seal


def _outsource(model: ModelProto, path: Path, folder: Path) -> str:
    """Moves the numbers of a model into a file in ``folder``, one after the other.

    The constants of certificates lie among the weights in this file.  If somebody replaces it by the file of another
    net, the constants are replaced too.

    Returns:
        The name of the file, which has a digest of its content.
    """
    moved = [t for t in model.graph.initializer if t.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE)]
    total, end = hashlib.sha256(), 0
    for tensor in moved:
        total.update(tensor.raw_data)
    name = f"{path.name}.{total.hexdigest()[:16]}.data"
    with open(folder / name, "wb") as f:
        for tensor in moved:
            size = f.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", name), ("offset", end), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
            end += size
        f.flush()
        os.fsync(f.fileno())
    return name


def _own_data(path: Path) -> set[str]:
    """The names of the files beside a model that hold its weights, as far as ``save`` named them."""
    with contextlib.suppress(OSError, ValueError):
        places = [e for t in unchecked(path.read_bytes(), path).graph.initializer for e in t.external_data]
        names = {e.value for e in places if e.key == "location" and "/" not in e.value}
        return {name for name in names if name.startswith(path.name + ".") and name.endswith(".data")}
    return set()


def save(model: ModelProto, path: Path, force: bool, large: int) -> None:
    """Writes a file in a folder beside its place, checks it, and moves it to its place.

    First the weights are moved, under a name of their own.  Then the file that names them replaces the old one, in one
    move.  Then the weights of the old file are removed.  If the process is killed at any moment, the old file is there
    with its weights, or the new file is there with its weights.

    Args:
        model: with its weights in it.
        path: of the file; missing folders are made.
        force: replace a file that is there.
        large: if the numbers of the model take more bytes, they go to ``<name>.<digest>.data`` beside the file.  The
            model then no longer has them.

    Raises:
        WouldReplace: the file exists, and ``force`` is not set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part, data = Path(folder), None
        if sum(len(t.raw_data) for t in model.graph.initializer) > large:
            data = _outsource(model, path, part)
        with open(part / path.name, "wb") as f:
            f.write(model.SerializeToString())
            f.flush()
            os.fsync(f.fileno())
        onnx.checker.check_model(part / path.name, full_check=True)  # with strict shape inference
        check_absent(path, force)
        former = _own_data(path)
        if data is not None:
            os.replace(part / data, path.with_name(data))
        try:
            _move(part / path.name, path, force)
        except WouldReplace:
            _remove(path, {data})
            raise
    _remove(path, former)


def _move(part: Path, path: Path, force: bool) -> None:
    """Moves a file in one step.  Without ``force`` it does not replace a file that was written meanwhile."""
    if not force:
        try:
            os.link(part, path)
            part.unlink()
            return
        except FileExistsError as error:
            raise WouldReplace(f"{path} exists") from error
        except OSError:  # this file system has no links
            check_absent(path)
    os.replace(part, path)


def _remove(path: Path, weights: set[str | None]) -> None:
    """Removes files with weights, except those of the file that is there now: another process may have written it."""
    for name in weights - _own_data(path) - {None}:
        with contextlib.suppress(OSError):
            path.with_name(name).unlink()


def reseal(path: str | os.PathLike, props: dict[str, str]) -> None:
    """Adds metadata to a file, in one move.

    Raises:
        FileNotFoundError, ValueError: as ``load.load``, or the file was changed since it was written.
    """
    path, content = Path(path), content_of(path)
    stored, model = unchecked(content, path), parsed(content, path)
    wrong = broken_seal(model)
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")
    seal(model, props_of(model) | props)
    stored.ClearField("metadata_props")
    stored.metadata_props.extend(model.metadata_props)
    with replacing(path) as f:
        f.write(stored.SerializeToString())
