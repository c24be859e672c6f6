"""Opens ONNX files.  Nothing in a file is trusted: it is a whole model, or one sentence says what is wrong with it."""

import os
import stat
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from .external import read_weights
from .operators import check_operators
from .structure import check_structure
from .text import first_line

MOST_BYTES = 2**31  # a protobuf message has no more


def load(path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """Reads an ONNX file and checks it by ``check_model``.

    The memory that it takes is at most the size of the file and four times the size of the files with its weights.
    (Several weights may share a place in such a file.)

    Args:
        path: of the file.
        weights: whether weights beside the file are read.  If not, they are checked and stay where they are.

    Returns:
        The model, with its weights in it.

    Raises:
        FileNotFoundError: the file does not exist, or a file with its weights does not.
        ValueError: it is not an ONNX file, or ``check_model`` refuses it; or weights lie outside the folder of the
            file, behind a link, or beyond the end of their file.  The message names the file.
    """
    return parsed(content_of(path), path, weights=weights)


def content_of(path: str | os.PathLike) -> bytes:
    """The bytes of a file, for ``parsed``.  Raises as ``load`` where it cannot be an ONNX file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    mode = path.stat()
    if not stat.S_ISREG(mode.st_mode):
        raise ValueError(f"{path} cannot be read: it is not a file but a folder or a device")
    if mode.st_size >= MOST_BYTES:
        raise ValueError(f"{path} cannot be read: it has {mode.st_size:,} bytes, and ONNX files end at 2 GiB")
    return path.read_bytes()


def parsed(content: bytes, path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """Does what ``load`` does, with the bytes that were read from the file."""
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
    """Checks that a model is whole and not too large, by ``check_structure`` and by onnx's own checks of operators.

    Raises:
        ValueError: it is not.  The message is one sentence.
    """
    check_structure(model)
    check_operators(model)


def unchecked(content: bytes, path: str | os.PathLike) -> ModelProto:
    """The model in the bytes of an ONNX file, without any check and without the weights beside it.

    Raises:
        ValueError: they are not an ONNX file.
    """
    try:
        return ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file: {error}") from error


def stored_otherwise(content: bytes, path: str | os.PathLike) -> bool:
    """Whether the model in the bytes of a file would be written as other bytes.

    That is so where a field stands there twice: two readers may then read two values.
    """
    return unchecked(content, path).SerializeToString() != content
