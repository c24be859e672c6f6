"""Reads the files of the published data sets, one function each: folder → training part and test part.

A part is (images, labels): (N, C, H, W) float32 in [0, 1] and (N,) int64.
"""

import gzip
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import extras
from .images import read_images


def digits(_: Path | None) -> tuple:
    """Reads 1,797 images, 8×8, with 17 grey levels.  A stratified fifth, the same at each call, is the test set."""
    with extras.named():
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=0)
    return tuple(
        (torch.from_numpy(x.reshape(-1, 1, 8, 8)).float() / 16, torch.from_numpy(y).long())
        for x, y in ((x_train, y_train), (x_test, y_test))
    )


def _idx(path: Path) -> Tensor:
    """Reads the array of an IDX file, which may be gzipped."""
    packed = path.with_name(path.name + ".gz")
    try:
        raw = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{packed} is damaged: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    dims = raw[3]
    shape = np.frombuffer(raw[4 : 4 + 4 * dims].ljust(4 * dims, b"\0"), ">i4")
    if len(raw) != 4 + 4 * dims + shape.prod():
        raise ValueError(f"{path} is truncated: its header says {tuple(int(s) for s in shape)}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


def idx_folder(folder: str) -> Callable[[Path], tuple]:
    def read(root: Path) -> tuple:
        raw = root / folder / "raw"
        return tuple(
            (
                _idx(raw / f"{part}-images-idx3-ubyte").unsqueeze(1).float() / 255,
                _idx(raw / f"{part}-labels-idx1-ubyte").long(),
            )
            for part in ("train", "t10k")
        )

    return read


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays and plain data, and refuses everything else that a pickle could run."""

    ALLOWED: ClassVar[dict[str, set[str]]] = {
        "numpy": {"ndarray", "dtype"},
        "numpy.core.multiarray": {"_reconstruct", "scalar"},
        "numpy._core.multiarray": {"_reconstruct", "scalar"},
        "numpy._core.numeric": {"_frombuffer"},
        "_codecs": {"encode"},
    }

    def find_class(self, module: str, name: str) -> Any:
        if name not in self.ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"refusing to load {module}.{name}")
        return super().find_class(module, name)


def cifar10(root: Path) -> tuple:
    def read(names: list[str]) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for name in names:
            path = root / "cifar-10-batches-py" / name
            try:
                with open(path, "rb") as f:
                    batch = _ArraysOnly(f, encoding="latin1").load()
                images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
                labels += list(batch["labels"])
            except Exception as error:  # a damaged pickle can raise any exception
                raise ValueError(f"{path} is damaged: {error}") from error
        return torch.from_numpy(np.concatenate(images)).float() / 255, torch.tensor(labels)

    return read([f"data_batch_{i}" for i in range(1, 6)]), read(["test_batch"])


TINY_SIDE = 64


def tiny_imagenet(root: Path) -> tuple:
    """Reads 100,000 and 10,000 images, 64×64, of 200 classes, which wnids.txt numbers.  Grey ones get three channels.

    The labels of the archive's test images are not public, so its validation set is the test set here.
    """
    root = root / "tiny-imagenet-200"
    names = (root / "wnids.txt").read_text(encoding="utf-8").split()
    classes = {name: i for i, name in enumerate(names)}
    if not classes:
        raise ValueError(f"{root / 'wnids.txt'} is empty")
    if len(classes) < len(names):  # training and test images would get different numbers
        raise ValueError(f"{root / 'wnids.txt'} is damaged: it lists a class twice")
    folders = [root / "train" / name / "images" for name in classes]
    images = [sorted(folder.glob("*.JPEG")) for folder in folders]
    annotations, test = root / "val" / "val_annotations.txt", []
    for number, line in enumerate(annotations.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split()  # file name, class, box
        if len(fields) < 2 or fields[1] not in classes:
            raise ValueError(f"{annotations} is damaged: line {number} names no class of wnids.txt: {line!r}")
        test.append((root / "val" / "images" / fields[0], classes[fields[1]]))
    if not test:
        raise ValueError(f"{annotations} is empty")
    most = max(len(paths) for paths in images)  # each class has 500
    missing = [
        f"{most - len(paths) or 'all'} images of {folder}"
        for folder, paths in zip(folders, images)
        if len(paths) < max(most, 1)
    ]
    missing += [str(path) for path, _ in test if not path.exists()]
    if missing:
        more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise FileNotFoundError("tinyimagenet is not complete. Missing:\n  " + "\n  ".join(missing[:10]) + more)
    train = [(path, label) for label, paths in enumerate(images) for path in paths]
    return _jpegs(train, "TinyImageNet, training"), _jpegs(test, "TinyImageNet, test")


def _jpegs(files: list[tuple[Path, int]], description: str) -> tuple[Tensor, Tensor]:
    x = read_images([path for path, _ in files], "RGB", (TINY_SIDE, TINY_SIDE), description)
    return x, torch.tensor([label for _, label in files])
