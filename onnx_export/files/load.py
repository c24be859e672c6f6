"""Opening ONNX files of which nothing is trusted: each is a whole model, or one sentence that says what is wrong."""

import os
import stat
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from .external import read_weights
from .operators import check_operators
from .structure import check_structure
from .text import first_line

MOST_BYTES = 2**31  # of a protobuf message


def load(path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """An ONNX file, checked by ``check_model``, with its weights, wherever they are stored.

    Beyond the size of the file no more is allocated than four times that of those beside it: weights may share a place.

    Args:
        weights: whether weights beside the file are read; if not, they are checked and stay where they are.

    Raises:
        FileNotFoundError: there is no such file, or one that holds its weights is missing.
        ValueError: it is no ONNX file, or ``check_model`` refuses it; or weights lie outside the file's folder, behind
            a link, or beyond the end of their file.  The message names the file.
    """
    return parsed(content_of(path), path, weights=weights)


def content_of(path: str | os.PathLike) -> bytes:
    """The bytes of a file, for ``parsed``.  Raises as ``load`` where there is none, or where it is none that may be
    one."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    mode = path.stat()
    if not stat.S_ISREG(mode.st_mode):
        raise ValueError(f"{path} cannot be read: it is no file but a folder or a device")
    if mode.st_size >= MOST_BYTES:
        raise ValueError(f"{path} cannot be read: it has {mode.st_size:,} bytes, and ONNX files end at 2 GiB")
    return path.read_bytes()


def parsed(content: bytes, path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """``load`` of the bytes that a file had when they were read."""
    model = ModelProto()
    try:
        model.ParseFromString(content)
        if not model.HasField("graph") or not model.graph.output:
            raise DecodeError("it has no outputs")
        check_structure(model)
        read_weights(model, Path(path).parent, weights)
        check_operators(model)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file: {first_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return model


def check_model(model: ModelProto) -> None:
    """That a model is whole, and small enough to be looked at: ``check_structure``, and onnx's own checks of operators.

    Raises:
        ValueError: as these say, in one sentence.
    """
    check_structure(model)
    check_operators(model)


def unchecked(content: bytes, path: str | os.PathLike) -> ModelProto:
    """The content of an ONNX file as it stands, without the weights that lie beside it; ``load.parsed`` checks it and
    reads them.  Raises ValueError where it is none."""
    try:
        return ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file: {error}") from error


def stored_otherwise(content: bytes, path: str | os.PathLike) -> bool:
    """Whether the bytes of a file are others than those by which what is read from it is written: with fields twice,
    which readers may take for one or for the other."""
    return unchecked(content, path).SerializeToString() != content
