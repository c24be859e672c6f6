"""Image data sets as tensors with pixels in [0, 1].  This module downloads nothing.

The digits come with scikit-learn.  TinyImageNet is read from the folder that its archive unpacks to, the others from a
folder with torchvision's layout.  A known name stands only for the published images: any other images need another
name.  The name and the digests go with every result and checkpoint.
"""

import gzip
import hashlib
import pickle
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .files import digest

DIGESTS = ("train_data_sha256", "test_data_sha256")  # keys of metadata


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) float32 in [0, 1] and labels (N,) int64.

    ``mean`` (one for each channel) and ``std`` (one for all channels, so that ε becomes ε/std in normalised space) are
    the published constants.  Only published data have a ``name`` of ``SOURCES``; your own data have any other name.
    """

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

    @property
    def digests(self) -> tuple[str, str]:
        """SHA-256 of the training and of the test part: of every bit of the present images and labels, their shapes and
        dtypes.  They are the same on every machine.  They take one or two seconds per GB."""
        return digest([self.x_train.cpu(), self.y_train.cpu()]), digest([self.x_test.cpu(), self.y_test.cpu()])

    @property
    def identity(self) -> dict[str, str]:
        """The entries of metadata that identify the data: name and digests."""
        return {"dataset": self.name, **dict(zip(DIGESTS, self.digests))}


class OtherData(ValueError):
    """Data are not those that their name or the metadata of a file state.  ``what`` says nothing about arguments."""

    def __init__(self, what: str, advice: str = ""):
        self.what = what
        super().__init__(what + advice)


def _digits(_: Path | None) -> tuple:
    """Reads 1,797 images, 8×8, with 17 grey levels.  A stratified fifth, the same at each call, is the test set."""
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


def _idx_folder(folder: str) -> Callable[[Path], tuple]:
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
            except Exception as error:  # a damaged pickle can raise any exception
                raise ValueError(f"{path} is damaged: {error}") from error
        return torch.from_numpy(np.concatenate(images)).float() / 255, torch.tensor(labels)

    return read([f"data_batch_{i}" for i in range(1, 6)]), read(["test_batch"])


TINY_SIDE = 64


def _tiny_imagenet(root: Path) -> tuple:
    """Reads 100,000 and 10,000 images, 64×64, of 200 classes, which wnids.txt numbers.  Grey ones get three channels.

    The labels of the archive's test images are not public, so its validation set is the test set here.
    """
    root = root / "tiny-imagenet-200"
    names = (root / "wnids.txt").read_text().split()
    classes = {name: i for i, name in enumerate(names)}
    if not classes:
        raise ValueError(f"{root / 'wnids.txt'} is empty")
    if len(classes) < len(names):  # training and test images would get different numbers
        raise ValueError(f"{root / 'wnids.txt'} is damaged: it lists a class twice")
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
    """Reads images and labels.  The images go straight into the tensor that is returned, so no second copy is made."""
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


def _md5(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


_IDX_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_CIFAR_FILES = {  # name → MD5, as torchvision has it
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


@dataclass(frozen=True)
class _Source:
    """How to read a data set.  published: its ``Dataset.digests``, if known.  md5: file → MD5, if only these are known.
    If neither is known, the data are not compared with the published ones."""

    read: Callable
    mean: tuple[float, ...]
    std: float
    files: tuple[str, ...] = ()
    fetch: str = ""  # says how to get the files
    published: tuple[str, str] | None = None
    md5: dict[str, str] = field(default_factory=dict)


def _torchvision(name: str) -> str:
    return (
        f'With torchvision installed, this fetches it:\n  python -c "from torchvision.datasets import {name} '
        "as D; [D('{root}', train=t, download=True) for t in (True, False)]\""
    )


SOURCES = {
    "digits": _Source(
        _digits,
        (0.3053,),
        0.3760,
        published=(
            "fa95fdb2c4cb78f05d6651dc0f9ba4868a69b50488d4440bec46b5c5bb9dcb48",
            "72a2f8c857ace037257e54bf4f4d36badbb58838c0cf8458f9507e6ea63ff63e",
        ),
    ),
    "mnist": _Source(
        _idx_folder("MNIST"),
        (0.1307,),
        0.3081,
        tuple(f"MNIST/raw/{f}" for f in _IDX_FILES),
        _torchvision("MNIST"),
        published=(
            "6fd296f12fe62c21827e3b474a225b6936de0af01544563597d063d5b89e348f",
            "308387a4cc259c422027ef155435a011962fef831669766d2004761fc59159ab",
        ),
    ),
    "fashion-mnist": _Source(
        _idx_folder("FashionMNIST"),
        (0.2860,),
        0.3520,
        tuple(f"FashionMNIST/raw/{f}" for f in _IDX_FILES),
        _torchvision("FashionMNIST"),
        published=(
            "a49f55c5e37e3579d7eff38f71733e7378d26da22787224438f893944933536f",
            "0a685ddb0fd99beb489c82d1303b8f31a6ce6c550fcf33ce090f89684bf23c65",
        ),
    ),
    "cifar10": _Source(
        _cifar10,
        (0.4914, 0.4822, 0.4465),
        0.2009,
        tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR_FILES),
        _torchvision("CIFAR10"),
        md5={f"cifar-10-batches-py/{f}": md5 for f, md5 in _CIFAR_FILES.items()},
    ),
    "tinyimagenet": _Source(
        _tiny_imagenet,
        (0.4802, 0.4481, 0.3975),
        0.2276,
        tuple(f"tiny-imagenet-200/{f}" for f in ("wnids.txt", "val/val_annotations.txt")),
        "This fetches it:\n  cd '{root}' && curl -O http://cs231n.stanford.edu/tiny-imagenet-200.zip "
        "&& unzip -q tiny-imagenet-200.zip",
    ),
}


def load_dataset(name: str, data_dir: str | Path | None = None, own_name: str | None = None) -> Dataset:
    """Reads a data set of ``SOURCES``, or your own data in the same layout.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10" or "tinyimagenet"; the last takes 5.4 GB of memory.
        data_dir: the folder that holds ``MNIST/raw`` and so on; not needed for digits.
        own_name: the name of the data if they are not the published data: a part of those, or your own images.

    Raises:
        ValueError: the name is unknown, data_dir is missing, a file is damaged, or own_name is a known name.
        OtherData: own_name is not given, and the files differ from the published ones.  For "tinyimagenet" no digests
            are known, so its files are not compared.
        FileNotFoundError: files are missing; the message lists them and the command that fetches them.
    """
    if name not in SOURCES:
        raise ValueError(f"name must be one of {', '.join(SOURCES)}, got {name!r}")
    if own_name is not None and (own_name in SOURCES or not own_name.strip() or not own_name.isprintable()):
        raise ValueError(f"own_name must be one line, and none of {', '.join(SOURCES)}, got {own_name!r}")
    source = SOURCES[name]
    root = Path(data_dir or "")
    if source.files and data_dir is None:
        raise ValueError(f"data_dir is needed for {name}: a folder with {source.files[0]} and so on in it")
    missing = [
        root / f for f in source.files if not (root / f).exists() and not (root / f.removesuffix(".gz")).exists()
    ]
    if missing:
        listed, fetch = "\n  ".join(map(str, missing)), source.fetch.format(root=root)
        raise FileNotFoundError(f"{name} is not complete under {root}. Missing:\n  {listed}\n{fetch}")
    (x_train, y_train), (x_test, y_test) = source.read(root)
    for x, y in ((x_train, y_train), (x_test, y_test)):
        if len(x) != len(y):
            raise ValueError(f"{name}: {len(x)} images but {len(y)} labels")
    data = Dataset(own_name or name, x_train, y_train, x_test, y_test, source.mean, source.std)
    if own_name is None:
        changed = [str(root / file) for file, md5 in source.md5.items() if _md5(root / file) != md5]
        if changed:
            raise OtherData(f"{changed[0]} is not the published file of {name}: its MD5 differs", OWN_NAME)
        check_published(data)
    return data


OWN_NAME = ". Your own data, or a part of the published data, need a name of their own: own_name"


def check_published(data: Dataset) -> None:
    """Raises OtherData if the data have the name of published data with known digests but are not these data."""
    published = SOURCES[data.name].published if data.name in SOURCES else None
    if published is None:
        return
    for i, (part, found) in enumerate(zip(("training", "test"), data.digests)):
        if found != published[i]:
            same = [name for name, s in SOURCES.items() if s.published and s.published[i] == found]
            raise OtherData(
                f"the {part} images and labels given as {data.name} are "
                + (f"those of {same[0]}" if same else "not the published ones")
                + f" (SHA-256 {found[:16]}…, published {published[i][:16]}…)",
                OWN_NAME,
            )


def own_name(named: dict) -> str | None:
    """Returns the name of your own data in the metadata of a net; None if the name is a known one or has no digest."""
    name = named.get("dataset")
    return None if name in SOURCES or DIGESTS[1] not in named else name


def check_test_data(data: Dataset, named: dict, where: str | Path) -> bool:
    """Compares the test data with the metadata of a net.  Returns True, or False if the metadata have no digest.

    Args:
        named: metadata with ``Dataset.identity``, from the file ``where``.

    Raises:
        OtherData: the data have another digest or, if the metadata have no digest, another name.
    """
    if DIGESTS[1] not in named and named.get("dataset", data.name) != data.name:
        raise OtherData(f"these are images of {data.name}, and {where} is about {named['dataset']}")
    wanted, found = named.get(DIGESTS[1]), data.digests[1]
    if wanted is not None and wanted != found:
        raise OtherData(
            f"the test images and labels of {data.name} here are not those that {where} is about: it names "
            f"{named.get('dataset', 'data without a name')} (SHA-256 {found[:16]}… here, {str(wanted)[:16]}… there)"
        )
    return wanted is not None


def hold_out(data: Dataset, fraction: float) -> Dataset:
    """Returns the same data with a part of the training set as its test set, for choosing settings.

    The part is a stratified sample, the same at each call.  The new name says that it was held out.

    Raises:
        ValueError: fraction does not lie in (0, 1) or leaves a class without an image.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    rows, held = train_test_split(
        np.arange(len(data.x_train)), test_size=fraction, stratify=data.y_train.numpy(), random_state=0
    )
    x, y = data.x_train, data.y_train
    name = f"{data.name}, {fraction:g} of the training set held out"
    return replace(data, name=name, x_train=x[rows], y_train=y[rows], x_test=x[held], y_test=y[held])
