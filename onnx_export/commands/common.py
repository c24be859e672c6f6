"""What several commands share: arguments, and the data set that a file is about."""

import argparse
import sys
from pathlib import Path

from linf_plugin.datasets import SOURCES, Dataset, check_test_data, load_dataset, own_name

from ..session import DEVICES


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Arguments ``data`` and ``data_dir``."""
    parser.add_argument(
        "--data", metavar="NAME|FOLDER",
        help=f"data set ({', '.join(SOURCES)}), or the folder with the files of the one that FILE names; for data of "
        "your own the one whose layout they have",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments ``limit`` and ``device``."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N test images")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where onnxruntime runs (default: auto)")


def data_of(args: argparse.Namespace, path: Path, named: dict, others: bool = False) -> Dataset:
    """The data set by name, by folder, or by default: the one that ``named``, the metadata of path, name.

    Args:
        others: whether other known data than those that path is about may be asked for by name.

    Raises:
        OtherData: the test images are not those that path is about.
    """
    name, folder, own = args.data, args.data_dir, own_name(named)
    if name not in SOURCES:
        if name is not None and not Path(name).is_dir():
            raise ValueError(f"{name} is neither a data set ({', '.join(SOURCES)}) nor a folder")
        if "dataset" not in named:
            raise ValueError(f"{path} does not name its data set: give --data NAME")
        name, folder = named["dataset"], name or folder
        if name == own:
            raise ValueError(f"{path} is of {own}, data of your own: give as --data the set in whose layout they are")
    if folder is None and name in SOURCES and SOURCES[name].files:
        raise ValueError(f"{name} is read from a folder: give --data-dir")
    data = load_dataset(name, folder, own)
    if others and own is None and name != named.get("dataset", name):
        print(f"{path} is of {named['dataset']}, and what follows is of {name}", file=sys.stderr)
    elif not check_test_data(data, named, path) and "dataset" in named:
        print(f"{path} names no digest of its data, so whether {name} is the same was not compared", file=sys.stderr)
    return data
