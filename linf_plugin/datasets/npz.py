"""Reads a data set from an .npz file.  Nothing in the file is trusted: only arrays of numbers are read."""

import contextlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .arrays import Form, Part, assembled, check_pair, labels, samples
from .dataset import Dataset

ARRAYS = {"x": ("x", "x_train"), "y": ("y", "y_train"), "x_test": ("x_test",), "y_test": ("y_test",)}
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_EXPANSION = 1100  # deflate makes at most 1,032 bytes of one


def read_npz(path: Path, name: str) -> Dataset:
    """Reads the arrays x and y, or x_train and y_train, and if they are there x_test and y_test.

    ``from_arrays`` says what they may hold.  Other arrays in the file are not read.  The time and the memory for it are
    proportional to the size of the file.

    Raises:
        ValueError: the file is not a complete .npz file, or lacks an array, or an array is not as ``from_arrays`` says.
            The message names the file and the array.
    """
    with _named(str(path)):
        archive = zipfile.ZipFile(path)
    with archive:
        entries = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        pairs = [_keys(path, entries, *pair) for pair in (("x", "y"), ("x_test", "y_test"))]
        pairs = [pair for pair in pairs if pair]
        for pair in pairs:
            check_pair(*(_form(archive, entries[key], f"{key} of {path}", path.stat().st_size) for key in pair))
        return assembled([_read(archive, [entries[key] for key in pair], pair, path) for pair in pairs], name)


def _keys(path: Path, entries: dict, *wanted: str) -> list[str]:
    """Returns the names that a pair of arrays has in the file; none if it lacks the test part."""
    found = {key: [name for name in ARRAYS[key] if name in entries] for key in wanted}
    for key, names in found.items():
        if len(names) > 1:
            raise ValueError(f"{path} has both {names[0]} and {names[1]}: it must have one of them")
        if not names and (key in ("x", "y") or any(found.values())):
            raise ValueError(f"{path} lacks {' or '.join(ARRAYS[key])}; it has {sorted(entries)!r:.200}")
    return [names[0] for names in found.values() if names]


def _form(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, size: int) -> Form:
    """Returns the form of an array in a file of ``size`` bytes.  Reads only its header, and compares the sizes in it
    with those of the bytes."""
    with _named(name):
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError("it is compressed in a way that NumPy does not write")
        if info.compress_size > size or info.file_size > MOST_EXPANSION * max(info.compress_size, 1):
            raise ValueError("it states a size that its bytes cannot have")
        with archive.open(info) as f:
            version = np.lib.format.read_magic(f)
            if version not in HEADERS:
                raise ValueError("it is not an array of numbers")
            shape, _, dtype = HEADERS[version](f)
            whole = f.tell() + math.prod(shape) * dtype.itemsize
        if not dtype.hasobject and whole != info.file_size:
            raise ValueError(
                f"its header says {shape} of {dtype}, which would take {whole} bytes, not {info.file_size}"
            )
    return Form(name, shape, dtype)


def _read(archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo], pair: list[str], path: Path) -> Part:
    found = []
    for info, key, made in zip(infos, pair, (samples, labels)):
        name = f"{key} of {path}"
        with _named(name), archive.open(info) as f:
            array = np.lib.format.read_array(f, allow_pickle=False)
            f.read(1)  # compares the checksum, which zipfile does at the end of a part
        found.append(made(name, array))
    return found[0], found[1]


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turns whatever zipfile and NumPy raise for damaged bytes into a ValueError that begins with ``name``."""
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{name} does not fit into the memory") from error
    except Exception as error:  # on damaged bytes zipfile can raise any exception
        raise ValueError(f"{name} is damaged: {error}") from error
