"""Reads a folder of images in torchvision's layout: a folder for each class, with its images."""

from pathlib import Path

import torch

from .arrays import Part, assembled
from .dataset import Dataset
from .images import opened, read_images

ENDINGS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}  # as torchvision has them
GREY = {"1", "L", "LA"}  # Pillow's modes without colour
DEEP = {"I", "F"}  # with more than 8 bits, and I;16 in several kinds
TRAIN, TESTS = "train", ("test", "val")

Listed = list[tuple[Path, int]]  # images and their labels


def read_folder(root: Path, name: str) -> Dataset:
    """Reads root/CLASS/….png as a test part, or root/train/CLASS/… as the training part and root/test/CLASS/… as the
    test part.  The test part is root/val/CLASS/… if root/test is missing.

    Classes are numbered in the order of their names.  Images have one channel if all of them are grey, else three.
    Transparency is ignored.  Files with other endings are not read.

    Raises:
        ValueError: there is no folder with images, a class has no image, a part is missing, a test image is of an
            unknown class, a file is damaged, images have several sizes, or one has more than 8 bits in a channel.
    """
    parts = [root / part for part in (TRAIN, *TESTS) if _folders(root / part)]
    if not parts:
        parts = [root]
    elif len(parts) == 1 or parts[0].name != TRAIN:
        raise ValueError(
            f"{root} must have {TRAIN} and {' or '.join(TESTS)}, or a folder for each class; among these it has only "
            f"{', '.join(part.name for part in parts)}: give the path of that folder to use its images"
        )
    names = tuple(folder.name for folder in _folders(parts[0]))
    listed = [_listed(part, names, parts[0]) for part in parts[:2]]
    mode, size = _mode_and_size([path for part in listed for path, _ in part])
    return assembled([_read(part, mode, size, name) for part in listed], name, names)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted((p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _listed(root: Path, names: tuple[str, ...], named_in: Path) -> Listed:
    """Returns the images of a part, class by class."""
    found: Listed = []
    for folder in _folders(root):
        if folder.name not in names:
            raise ValueError(f"{root} has the class {folder.name}, which {named_in} does not have")
        images = [p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith(".")]
        if not images:
            raise ValueError(f"{folder} has no image; known endings are {', '.join(sorted(ENDINGS))}")
        images.sort(key=lambda p: p.relative_to(folder).as_posix())
        found += [(path, names.index(folder.name)) for path in images]
    if not found:
        raise ValueError(f"{root} has no folder with the images of a class")
    return found


def _mode_and_size(paths: list[Path]) -> tuple[str, tuple[int, int]]:
    """Returns the mode in which images are read, and their one size.  It reads only the beginning of each file."""
    modes, first = set(), None
    for path in paths:
        mode, size = opened(path)
        if mode.partition(";")[0] in DEEP:
            raise ValueError(f"{path} has more than 8 bits in a channel (Pillow's mode {mode}): save it with 8 bits")
        first = first or size
        if size != first:
            raise ValueError(
                f"all images must have one size, but {paths[0]} has {first[0]}×{first[1]} pixels and {path} has "
                f"{size[0]}×{size[1]}"
            )
        modes.add(mode)
    return "L" if modes <= GREY else "RGB", first


def _read(part: Listed, mode: str, size: tuple[int, int], name: str) -> Part:
    x = read_images([path for path, _ in part], mode, size, name)
    return x, torch.tensor([label for _, label in part])
