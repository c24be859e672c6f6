"""ONNX files on disk: read with nothing taken on trust, written in one move, sealed with a digest."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, helper

from linf_plugin.files import WouldReplace, check_absent, replacing

from .load import content_of, parsed

FORMAT = "linf-export 2"  # of the files that this version writes, under the key ``file_format``
DIGEST = "content_sha256"
# Metadata and outputs by which a file claims a certificate, which must then be bound to its content.
CLAIMS = (
    DIGEST,
    "certificate",
    "lipschitz",
    "rounding_slack",
    "radius_unit",
    "certified_accuracy",
    "certified_accuracy_by",
)
CLAIMED_OUTPUTS = ("certified_radius", "certified")


def props_of(model: ModelProto) -> dict[str, str]:
    """The metadata of a model."""
    return {p.key: p.value for p in model.metadata_props}


def claims(outputs: list[str], props: dict[str, str]) -> bool:
    """Whether a file of these outputs and metadata says that something is certified."""
    return not props.keys().isdisjoint(CLAIMS) or not set(outputs).isdisjoint(CLAIMED_OUTPUTS)


# Reading.


def parse(content: bytes, path: str | os.PathLike) -> ModelProto:
    """The content of an ONNX file as it stands, without the weights that lie beside it; ``load.parsed`` checks it and
    reads them.  Raises ValueError where it is none."""
    try:
        return ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file: {error}") from error


def stored_otherwise(content: bytes, path: str | os.PathLike) -> bool:
    """Whether the bytes of a file are others than those by which what is read from it is written: with fields twice,
    which readers may take for one or for the other."""
    return parse(content, path).SerializeToString() != content


# Digests.


def content_sha256(model: ModelProto) -> str:
    """A SHA-256 of everything in a model with its weights, but for the digest itself: graph, functions, metadata, and
    whatever else a message can hold.  Where its weights were stored does not matter."""
    rest = ModelProto()
    rest.CopyFrom(model)
    kept = [p for p in rest.metadata_props if p.key != DIGEST]
    rest.ClearField("metadata_props")
    rest.metadata_props.extend(kept)
    for tensor in rest.graph.initializer:
        if tensor.HasField("raw_data"):
            tensor.raw_data = b""
    total = hashlib.sha256()
    parts = [FORMAT.encode(), rest.SerializeToString(deterministic=True)]
    for part in (*parts, *(t.raw_data for t in model.graph.initializer)):
        total.update(f"{len(part)}:".encode())
        total.update(part)
    return total.hexdigest()


def former_sha256(model: ModelProto) -> str:
    """The digest of files that version 0.1.0 wrote, which leaves out the metadata.

    Raises:
        ValueError: the model has parts that it leaves out and a runtime heeds.
    """
    graph = model.graph
    for name, parts in (
        ("sparse initializers", graph.sparse_initializer),
        ("training", model.training_info),
        ("quantization annotations", graph.quantization_annotation),
    ):
        if parts:
            raise ValueError(f"it has {name}, which no file of linf-export has")
    total = hashlib.sha256()

    def feed(kind: str, content: bytes) -> None:
        total.update(f"{kind} {len(content)}:".encode())
        total.update(content)

    for kind, parts in (
        ("opset", model.opset_import),
        ("function", model.functions),
        ("node", graph.node),
        ("input", graph.input),
        ("output", graph.output),
        ("value", graph.value_info),
    ):
        for part in parts:
            feed(kind, part.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        feed("weight", f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        if tensor.HasField("raw_data"):
            feed("raw", tensor.raw_data)
        else:
            feed("typed", tensor.SerializeToString(deterministic=True))
    return total.hexdigest()


def seal(model: ModelProto, props: dict[str, str]) -> None:
    """Gives a model with its weights these metadata, and the digest of it all."""
    helper.set_model_props(model, {key: value for key, value in props.items() if key != DIGEST})
    digest = content_sha256(model)
    model.metadata_props.add(key=DIGEST, value=digest)


def broken_seal(model: ModelProto) -> str | None:
    """None where a model with its weights is as it was written, by its digest; else what is wrong, in words."""
    props = props_of(model)
    if len(props) != len(model.metadata_props):
        return "its metadata have a key twice"
    if DIGEST not in props:
        return "it claims a certificate, and has no digest that binds it to its content"
    alone = onnx.StringStringEntryProto(key=DIGEST, value=props[DIGEST]).SerializeToString()
    if alone not in [p.SerializeToString() for p in model.metadata_props]:
        return "the entry of its digest has parts that are unknown"
    try:
        same = props[DIGEST] == (content_sha256(model) if "file_format" in props else former_sha256(model))
    except ValueError as error:
        return str(error)
    return None if same else "it was changed since it was written: the digest of its content is another"


# Writing.


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
        places = [e for t in parse(path.read_bytes(), path).graph.initializer for e in t.external_data]
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
    """Adds metadata to a file, in one move.  Raises ValueError where it is not as it was written, and as ``load.load``."""
    path, content = Path(path), content_of(path)
    stored, model = parse(content, path), parsed(content, path)
    wrong = broken_seal(model)
    if wrong is not None:
        raise ValueError(f"{path}: {wrong}")
    seal(model, props_of(model) | props)
    stored.ClearField("metadata_props")
    stored.metadata_props.extend(model.metadata_props)
    with replacing(path) as f:
        f.write(stored.SerializeToString())
