"""Loads any data set: a known one by its name, your own from a file, a folder or arrays."""

import os
from pathlib import Path
from typing import Any

from .arrays import from_arrays
from .dataset import Dataset
from .folder import read_folder
from .known import SOURCES, read_known
from .npz import read_npz

KINDS = f"{', '.join(SOURCES)}, the path of an .npz file, or the path of a folder of images"


def load_dataset(
    data: str | os.PathLike | tuple[Any, ...], data_dir: str | Path | None = None, own_name: str | None = None
) -> Dataset:
    """Loads a data set.

    An .npz file has the arrays x and y, and maybe x_test and y_test; ``from_arrays`` says what they hold.  A folder of
    images has a folder for each class, or the folders train and test with these; ``read_folder`` says more.  If own
    data have no test part, all of them are the test part, and the training part is empty: they can be certified, and
    ``for_training`` divides them.

    Args:
        data: "digits", "mnist", "fashion-mnist", "cifar10" or "tinyimagenet", of which the last takes 5.4 GB of memory;
            or the path of an .npz file or of a folder of images; or arrays (x, y) or (x, y, x_test, y_test).  A known
            name is never a path: write "./mnist" for a folder of this name.
        data_dir: for a known name, the folder that holds ``MNIST/raw`` and so on; not needed for digits.
        own_name: the name of the data if they are not the published data.  Under a known name, it is needed for a part
            of those or for your own images in their layout.  A file or a folder has its own name by default.  Arrays
            need one.

    Raises:
        ValueError: data is neither a known name nor a path of own data, data_dir is missing or makes no sense, a file
            is damaged or holds something else, or own_name is a known name.  The message names the file.
        OtherData: own_name is not given, and the files differ from the published ones.  For "tinyimagenet" no digests
            are known, so its files are not compared.
        FileNotFoundError: files are missing; for a known name the message lists them and the command that fetches them.
    """
    if own_name is not None and not _is_own(own_name):
        raise ValueError(f"own_name must be one line, and none of {', '.join(SOURCES)}, got {own_name!r}")
    if isinstance(data, str) and data in SOURCES:
        return read_known(data, data_dir, own_name)
    if data_dir is not None:
        raise ValueError(f"data_dir is only for {', '.join(SOURCES)}; own data are read from where data says")
    if isinstance(data, (tuple, list)):
        if len(data) not in (2, 4):
            raise ValueError(f"data must be (x, y) or (x, y, x_test, y_test), got {len(data)} parts")
        if own_name is None:
            raise ValueError("own_name is needed for arrays, which have no name")
        return from_arrays(*data, name=own_name)
    if not isinstance(data, (str, os.PathLike)):
        raise TypeError(f"data must be a name, a path or a tuple of arrays, got {type(data).__name__}")
    path = Path(data)
    if not os.path.isdir(path) and path.suffix != ".npz":
        raise ValueError(f"data must be one of {KINDS}, got {str(data)!r}")
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    name = own_name or path.resolve().name
    if not _is_own(name):
        raise ValueError(f"own_name is needed for {path}, because {name!r} is no name of own data")
    return read_folder(path, name) if path.is_dir() else read_npz(path, name)


def _is_own(name: str) -> bool:
    """Returns whether own data may have this name."""
    return name not in SOURCES and bool(name.strip()) and name.isprintable()
