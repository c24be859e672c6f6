"""Weights that are stored beside an ONNX file: where they may lie, and how they are read."""

import stat
from pathlib import Path, PurePosixPath

from onnx import ModelProto, TensorProto

from .tensors import bytes_of, tensors_of
from .text import said

MOST_EXTERNAL = 2**36  # bytes of weights beside a file
PLACE = {"location", "offset", "length", "checksum", "basepath"}  # the keys by which ONNX describes a place


def read_weights(model: ModelProto, folder: Path, read: bool) -> None:
    """Checks the tensors of a model that are stored beside its file, and reads them.

    Args:
        folder: that of the file.
        read: if not, they are only checked.

    Raises:
        FileNotFoundError, ValueError: as ``load.load``.
    """
    places = [(tensor, *_place(tensor, folder)) for tensor in tensors_of(model) if tensor.external_data]
    total, there = sum(length for *_, length in places), sum(p.stat().st_size for p in {p for _, p, *_ in places})
    if total > min(4 * there, MOST_EXTERNAL):  # several tensors may share a place
        raise ValueError(f"its weights take {total:,} bytes of files that have {there:,}")
    for tensor, path, offset, length in places if read else ():
        with open(path, "rb") as f:
            f.seek(offset)
            tensor.raw_data = f.read(length)
        if len(tensor.raw_data) != length:
            raise ValueError(f"{path.name} became shorter while it was read")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")  # the tensor then looks as if it had been in the file


def _place(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """(file, offset, length) of a tensor.  Raises where it may not lie there."""
    what, given = f"the tensor {said(tensor.name)}", {e.key: e.value for e in tensor.external_data}
    if len(given) != len(tensor.external_data) or not {"location"} <= given.keys() <= PLACE:
        raise ValueError(f"{what} does not say where it is stored, in the way that ONNX defines")
    if tensor.data_type == TensorProto.STRING:
        raise ValueError(f"{what} holds strings, which cannot be stored beside the file")
    location = PurePosixPath(given["location"])
    if "\\" in given["location"] or "\0" in given["location"] or location.is_absolute() or ".." in location.parts:
        raise ValueError(f"{what} is stored in {said(given['location'])}, which is not within the folder of the file")
    path = folder
    for part in location.parts:
        path = path / part
        if path.is_symlink():
            raise ValueError(f"{what} is stored in {said(given['location'])}, which is a link")
    try:
        state = path.stat()
    except OSError as error:
        raise FileNotFoundError(f"{path}, where {what} is stored, is missing") from error
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{what} is stored in {said(given['location'])}, which is not a file")
    numbers = [given.get("offset", "0"), given.get("length", str(bytes_of(tensor)))]
    if not all(n.isascii() and n.isdecimal() and len(n) < 20 for n in numbers):
        raise ValueError(f"{what} is stored at {said(numbers[0])}, {said(numbers[1])} long, which are not both numbers")
    offset, length = map(int, numbers)
    if length != bytes_of(tensor):
        raise ValueError(f"{what} has sizes {list(tensor.dims)} and is stored in {length:,} bytes")
    if offset + length > state.st_size:
        raise ValueError(f"{what} is stored beyond the end of {said(given['location'])}")
    return path, offset, length
