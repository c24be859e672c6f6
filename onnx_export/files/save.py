"""ONNX files are written in one move, with their weights inside or beside them."""

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
    """Moves the numbers of a model into a file in ``folder``, with none between them; returns its name, which is of
    its content.

    The constants of certificates lie there among the weights, so that whoever puts another net's file in the place of
    this one exchanges them too.
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
    """The files beside a model that hold its weights and bear its name, as ``save`` names them."""
    with contextlib.suppress(OSError, ValueError):
        places = [e for t in unchecked(path.read_bytes(), path).graph.initializer for e in t.external_data]
        names = {e.value for e in places if e.key == "location" and "/" not in e.value}
        return {name for name in names if name.startswith(path.name + ".") and name.endswith(".data")}
    return set()


def save(model: ModelProto, path: Path, force: bool, large: int) -> None:
    """Writes and checks a file beside its place, then moves it there.  Numbers of more than ``large`` bytes together
    go to ``<name>.<digest>.data``; the model given then has them no longer.

    The weights come first, under a name of their own, and the file that names them takes the old one's place in one
    move: a kill at any moment leaves the old file with its weights or the new one with its.  Then the weights of the
    old file are removed.

    Raises:
        WouldReplace: there is such a file, without ``force``.
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
    """In one move; without ``force`` no file that came meanwhile is replaced."""
    if not force:
        try:
            os.link(part, path)
            part.unlink()
            return
        except FileExistsError as error:
            raise WouldReplace(f"{path} exists") from error
        except OSError:  # there are no links on this file system
            check_absent(path)
    os.replace(part, path)


def _remove(path: Path, weights: set[str | None]) -> None:
    """Files of weights beside a model, but for those that it has now: another process may have written it anew."""
    for name in weights - _own_data(path) - {None}:
        with contextlib.suppress(OSError):
            path.with_name(name).unlink()


def reseal(path: str | os.PathLike, props: dict[str, str]) -> None:
    """Adds metadata to a file, in one move.  Raises as ``load``, and ValueError where it was changed."""
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
