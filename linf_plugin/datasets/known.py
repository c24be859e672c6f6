"""The published data sets: where their files are, what normalises them, and how the package recognises them."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .dataset import Dataset, OtherData
from .readers import cifar10, digits, idx_folder, tiny_imagenet


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
        digits,
        (0.3053,),
        0.3760,
        published=(
            "fa95fdb2c4cb78f05d6651dc0f9ba4868a69b50488d4440bec46b5c5bb9dcb48",
            "72a2f8c857ace037257e54bf4f4d36badbb58838c0cf8458f9507e6ea63ff63e",
        ),
    ),
    "mnist": _Source(
        idx_folder("MNIST"),
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
        idx_folder("FashionMNIST"),
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
        cifar10,
        (0.4914, 0.4822, 0.4465),
        0.2009,
        tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR_FILES),
        _torchvision("CIFAR10"),
        md5={f"cifar-10-batches-py/{f}": md5 for f, md5 in _CIFAR_FILES.items()},
    ),
    "tinyimagenet": _Source(
        tiny_imagenet,
        (0.4802, 0.4481, 0.3975),
        0.2276,
        tuple(f"tiny-imagenet-200/{f}" for f in ("wnids.txt", "val/val_annotations.txt")),
        "This fetches it:\n  cd '{root}' && curl -O http://cs231n.stanford.edu/tiny-imagenet-200.zip "
        "&& unzip -q tiny-imagenet-200.zip",
    ),
}


def read_known(name: str, data_dir: str | Path | None, own_name: str | None) -> Dataset:
    """Reads a data set of ``SOURCES``, or your own data in the same layout.  ``load_dataset`` describes the arguments.

    Raises:
        ValueError: data_dir is missing, or a file is damaged.
        OtherData: own_name is not given, and the files differ from the published ones.
        FileNotFoundError: files are missing; the message lists them and the command that fetches them.
    """
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
