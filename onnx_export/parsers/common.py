"""Arguments that several commands have."""

import argparse
from pathlib import Path

DATA_SETS = ("digits", "mnist", "fashion-mnist", "cifar10", "tinyimagenet")  # ``linf_plugin.datasets.SOURCES``


def positive(text: str) -> int:
    """A positive whole number of the command line."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return int(text)


def epsilon(text: str) -> float:
    """An ε of the command line, as 0.1 or 8/255."""
    from linf_plugin import plain  # imports torch

    try:
        return plain.fraction(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def shape(text: str) -> tuple[int, ...]:
    """The shape of a sample on the command line, as 3,32,32."""
    parts = text.split(",")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) < 2**31 for part in parts):
        raise argparse.ArgumentTypeError(f"must be positive whole numbers such as 3,32,32, got {text!r}")
    return tuple(map(int, parts))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments ``model`` and ``weights``."""
    parser.add_argument(
        "--model",
        metavar="FILE.py:FUNCTION",
        help="a net of your own: FILE.py is run, it is your own code, and FUNCTION returns a torch.nn.Module",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="for --model: a state dict, of torch.save or .safetensors; nothing in it is run",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments ``data`` and ``data_dir``."""
    parser.add_argument(
        "--data",
        metavar="NAME|PATH",
        help=f"data set ({', '.join(DATA_SETS)}), or the folder with the files of the data set that FILE names; for "
        "your own data, the .npz file or the folder of images, or the data set whose layout they have",
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="folder with the files of the data set")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments ``limit`` and ``device``."""
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N test images")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where onnxruntime runs (default: auto)"
    )
