"""Image data sets as tensors with pixels in [0, 1].  Nothing is downloaded.

The digits of scikit-learn come with that package; the others are read from a folder in torchvision's
layout, TinyImageNet as its archive unpacks.
"""

import gzip
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) float32 in [0, 1] and labels (N,) int64; ``mean`` (one a channel) and ``std``
    (one for all, so that ε/std is ε in normalised space) are the published constants."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: tuple[float, ...]
    std: float

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.x_train.shape[1:])

    @property
    def classes(self) -> int:
        return int(max(self.y_train.max(), self.y_test.max())) + 1


def _digits(_: Path | None) -> tuple:
    """1,797 images, 8×8, 17 grey levels; a stratified fifth, fixed by random_state 0, is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=0.2, stratify=labels, random_state=0
    )
    return tuple(
        (torch.from_numpy(x.reshape(-1, 1, 8, 8)).float() / 16, torch.from_numpy(y).long())
        for x, y in ((x_train, y_train), (x_test, y_test))
    )


def _idx(path: Path) -> Tensor:
    """The array in an IDX file, gzipped or not."""
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


def _idx_folder(folder: str) -> Callable[[Path], tuple]:
    def read(root: Path) -> tuple:
        raw = root / folder / "raw"
        return tuple(
            (_idx(raw / f"{part}-images-idx3-ubyte").unsqueeze(1).float() / 255,
             _idx(raw / f"{part}-labels-idx1-ubyte").long())
            for part in ("train", "t10k")
        )

    return read


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of NumPy arrays and plain data; refuses everything else a pickle could run."""

    ALLOWED = {
        "numpy": {"ndarray", "dtype"},
        "numpy.core.multiarray": {"_reconstruct", "scalar"},
        "numpy._core.multiarray": {"_reconstruct", "scalar"},
        "numpy._core.numeric": {"_frombuffer"},
        "_codecs": {"encode"},
    }

    def find_class(self, module: str, name: str):
        if name not in self.ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"refusing to load {module}.{name}")
        return super().find_class(module, name)


def _cifar10(root: Path) -> tuple:
    def read(names: list[str]) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for name in names:
            path = root / "cifar-10-batches-py" / name
            try:
                with open(path, "rb") as f:
                    batch = _ArraysOnly(f, encoding="latin1").load()
                images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32))
                labels += list(batch["labels"])
            except Exception as error:  # a damaged pickle raises whatever its bytes lead to
                raise ValueError(f"{path} is damaged: {error}") from error
        return torch.from_numpy(np.concatenate(images)).float() / 255, torch.tensor(labels)

    return read([f"data_batch_{i}" for i in range(1, 6)]), read(["test_batch"])


TINY_SIDE = 64


def _tiny_imagenet(root: Path) -> tuple:
    """100,000 and 10,000 colour images, 64×64, in 200 classes, numbered in the order of wnids.txt; grey ones get
    three equal channels.  The labels of the archive's test images are not public: its validation set is the test
    set.
    """
    root = root / "tiny-imagenet-200"
    names = (root / "wnids.txt").read_text().split()
    classes = {name: i for i, name in enumerate(names)}
    if not classes:
        raise ValueError(f"{root / 'wnids.txt'} is empty")
    if len(classes) < len(names):  # training and test images would be numbered differently
        raise ValueError(f"{root / 'wnids.txt'} is damaged: a class stands there twice")
    folders = [root / "train" / name / "images" for name in classes]
    images = [sorted(folder.glob("*.JPEG")) for folder in folders]
    annotations, test = root / "val" / "val_annotations.txt", []
    for number, line in enumerate(annotations.read_text().splitlines(), 1):
        fields = line.split()  # file name, class, box
        if len(fields) < 2 or fields[1] not in classes:
            raise ValueError(f"{annotations} is damaged: line {number} names no class of wnids.txt: {line!r}")
        test.append((root / "val" / "images" / fields[0], classes[fields[1]]))
    if not test:
        raise ValueError(f"{annotations} is empty")
    most = max(len(paths) for paths in images)  # each class has 500
    missing = [
        f"{most - len(paths) or 'all'} images of {folder}" for folder, paths in zip(folders, images)
        if len(paths) < max(most, 1)
    ]
    missing += [str(path) for path, _ in test if not path.exists()]
    if missing:
        more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise FileNotFoundError("tinyimagenet is not complete. Missing:\n  " + "\n  ".join(missing[:10]) + more)
    train = [(path, label) for label, paths in enumerate(images) for path in paths]
    return _jpegs(train, "TinyImageNet, training"), _jpegs(test, "TinyImageNet, test")


def _jpegs(files: list[tuple[Path, int]], description: str) -> tuple[Tensor, Tensor]:
    """Images and labels.  They are read into the float32 tensor that is returned: no second copy is made."""
    from PIL import Image, UnidentifiedImageError

    x = torch.empty(len(files), 3, TINY_SIDE, TINY_SIDE)
    for i, (path, _) in enumerate(tqdm(files, desc=description, unit="image", disable=None)):
        try:
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB")))
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if pixels.shape[:2] != (TINY_SIDE, TINY_SIDE):
            raise ValueError(f"{path} must have {TINY_SIDE}×{TINY_SIDE} pixels, has {tuple(pixels.shape[:2])}")
        x[i] = pixels.permute(2, 0, 1)
    return x.div_(255), torch.tensor([label for _, label in files])


_IDX_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_CIFAR_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


@dataclass(frozen=True)
class _Source:
    read: Callable
    mean: tuple[float, ...]
    std: float
    files: tuple[str, ...] = ()
    fetch: str = ""  # how to get it


def _torchvision(name: str) -> str:
    return (
        f'With torchvision installed, this fetches it:\n  python -c "from torchvision.datasets import {name} '
        "as D; [D('{root}', train=t, download=True) for t in (True, False)]\""
    )


SOURCES = {
    "digits": _Source(_digits, (0.3053,), 0.3760),
    "mnist": _Source(
        _idx_folder("MNIST"), (0.1307,), 0.3081, tuple(f"MNIST/raw/{f}" for f in _IDX_FILES), _torchvision("MNIST")
    ),
    "fashion-mnist": _Source(
        _idx_folder("FashionMNIST"), (0.2860,), 0.3520, tuple(f"FashionMNIST/raw/{f}" for f in _IDX_FILES),
        _torchvision("FashionMNIST"),
    ),
    "cifar10": _Source(
        _cifar10, (0.4914, 0.4822, 0.4465), 0.2009, tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR_FILES),
        _torchvision("CIFAR10"),
    ),
    "tinyimagenet": _Source(
        _tiny_imagenet, (0.4802, 0.4481, 0.3975), 0.2276,
        tuple(f"tiny-imagenet-200/{f}" for f in ("wnids.txt", "val/val_annotations.txt")),
        "This fetches it:\n  cd '{root}' && curl -O http://cs231n.stanford.edu/tiny-imagenet-200.zip "
        "&& unzip -q tiny-imagenet-200.zip",
    ),
}


def load_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Reads a data set of ``SOURCES``.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10" or "tinyimagenet", which takes 5.4 GB of memory.
        data_dir: the folder that holds ``MNIST/raw`` and so on; not needed for digits.

    Raises:
        ValueError: the name is unknown, data_dir is missing, or a file is damaged.
        FileNotFoundError: files are missing; the message lists them and the command that fetches them.
    """
    if name not in SOURCES:
        raise ValueError(f"name must be one of {', '.join(SOURCES)}, got {name!r}")
    source = SOURCES[name]
    root = None if data_dir is None else Path(data_dir)
    if source.files and root is None:
        raise ValueError(f"data_dir is needed for {name}: a folder with {source.files[0]} and so on in it")
    missing = [
        root / f for f in source.files if not (root / f).exists() and not (root / f.removesuffix(".gz")).exists()
    ]
    if missing:
        raise FileNotFoundError(
            f"{name} is not complete under {root}. Missing:\n  "
            + "\n  ".join(map(str, missing)) + "\n" + source.fetch.format(root=root)
        )
    train, test = source.read(root)
    for x, y in (train, test):
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} images but {len(y)} labels")
    return Dataset(name, *train, *test, source.mean, source.std)


def hold_out(data: Dataset, fraction: float) -> Dataset:
    """The same data with a part of the training set in the place of the test set, for choosing settings.

    The part is a stratified draw, the same at each call.

    Raises:
        ValueError: fraction does not lie in (0, 1), or leaves a class without an image.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    rows, held = train_test_split(
        np.arange(len(data.x_train)), test_size=fraction, stratify=data.y_train.numpy(), random_state=0
    )
    x, y = data.x_train, data.y_train
    return replace(data, x_train=x[rows], y_train=y[rows], x_test=x[held], y_test=y[held])
