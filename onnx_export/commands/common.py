"""The nets and the data sets that arguments of several commands name."""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from linf_plugin import checkpoint
from linf_plugin.datasets import SOURCES, Dataset, as_named, check_test_data, load_dataset, own_name
from linf_plugin.model_file import load_model
from linf_plugin.models.net import Net
from linf_plugin.models.spec import values
from linf_plugin.norms import NORMS
from linf_plugin.weights import fill, read_weights

from ..files.text import shown
from ..running.arithmetic import LessThanFloat32
from ..running.session import DeviceError


def given_model(args: argparse.Namespace) -> nn.Module:
    """The net that ``--model`` builds, with the weights of ``--weights``, in evaluation mode.

    Raises:
        FileNotFoundError, TypeError, ValueError: as ``load_model``, ``read_weights`` and ``fill``.
    """
    weights = None if args.weights is None else read_weights(args.weights)  # before any code is run
    model = load_model(args.model)
    if weights is not None:
        fill(model, weights, args.weights)
    return model


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Makes errors of the user of what the checks of a net of the user refuse."""
    try:
        yield
    except (DeviceError, LessThanFloat32):
        raise
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def data_of(args: argparse.Namespace, path: Path, named: dict, others: bool = False) -> Dataset:
    """The data set that the arguments name; by default the one that a file names.

    Args:
        args: with ``data`` and ``data_dir``.
        path: of the file, for messages.
        named: the metadata of the file.
        others: whether the arguments may name another data set than the file does.

    Raises:
        ValueError: no data set is named, it is unknown, or it needs a folder.
        OtherData: the test images are not those that the file names.
    """
    name, folder, own = args.data, args.data_dir, own_name(named)
    if _is_own_path(name, named):
        data = as_named(load_dataset(name, folder), named)
        own = own if data.name == own else None
    else:
        if name not in SOURCES:
            if name is not None and not Path(name).is_dir():
                raise ValueError(f"{name} is neither a data set ({', '.join(SOURCES)}), an .npz file nor a folder")
            if "dataset" not in named:
                raise ValueError(f"{path} does not name its data set: give --data NAME")
            name, folder = named["dataset"], name or folder
            if name == own:
                raise ValueError(
                    f"{path} is of your own data, {own}: give --data NAME with the data set whose layout they have, or "
                    "--data PATH with their .npz file or their folder of images"
                )
        if folder is None and name in SOURCES and SOURCES[name].files:
            raise ValueError(f"{name} is read from a folder: give --data-dir")
        data = load_dataset(name, folder, own)
    if others and own is None and name != named.get("dataset", name):
        print(f"{path} is of {shown(named['dataset'])}; the results below are of {name}", file=sys.stderr)
    elif not check_test_data(data, named, path) and "dataset" in named:
        print(f"{path} names no digest of its data, so its data were not compared with {name}", file=sys.stderr)
    return data


def _is_own_path(name: str | None, named: dict) -> bool:
    """Whether an argument is the path of your own data: an .npz file, or a folder if the net is of your own data too.

    For a net of known data a folder is the one that holds their files.
    """
    if name is None or name in SOURCES:
        return False
    return Path(name).suffix == ".npz" or (Path(name).is_dir() and named.get("dataset", name) not in SOURCES)


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_accuracies(value) -> bool:
    """Whether a value maps ε, as text, to an accuracy."""
    try:
        return all(_is_number(accuracy) and float(eps) > 0 for eps, accuracy in value.items())
    except (AttributeError, TypeError, ValueError):
        return False


def _are_results(value) -> bool:
    if not isinstance(value, dict) or not _is_number(value.get("clean", 0.0)):
        return False
    certified = value.get("certified", {})
    return isinstance(certified, dict) and all(
        isinstance(method, str) and _are_accuracies(accuracies) for method, accuracies in certified.items()
    )


def _is_text(value) -> bool:
    return isinstance(value, str)


# Key in the metadata of a checkpoint that commands read → whether a value is right.
METADATA = {
    "dataset": _is_text,
    "method": _is_text,
    "recipe": _is_text,
    "seed": lambda a: isinstance(a, int),
    "norm": lambda a: _is_text(a) and a in NORMS,
    "epsilon": lambda a: _is_number(a) and 0 < a < math.inf,
    "results": lambda a: a is None or _are_results(a),
}


def model_of(path: Path) -> tuple[Net, dict]:
    """The classifier in a checkpoint, and its metadata.

    Raises:
        FileNotFoundError, ValueError: as ``checkpoint.load``; or the net has no weights, it does not give one logit for
            each class, or the metadata are not those that training writes.
    """
    model, metadata = checkpoint.load(path)
    (*_, (shape, _)) = [(model.input_shape, 0), *values(model.spec)]
    if len(shape) != 1 or shape[0] < 2 or next(model.parameters(), None) is None:
        raise ValueError(f"{path} holds no classifier with weights: its net gives values of shape {shape}")
    for key, right in METADATA.items():
        if key in metadata and not right(metadata[key]):
            raise ValueError(f"{path}: its metadata give {str(metadata[key])[:60]!r} as {key}")
    return model, metadata
