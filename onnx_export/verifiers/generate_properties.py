"""Writes the properties of a benchmark of image classifiers in the form that VNN-COMP asks for.

    python generate_properties.py SEED

A property asks for a counter-example: an image within ε of a given one, in every pixel, for which the score of a
wrong class is at least that of the label.  `unsat` means that there is none: the net is robust at this image.

These must lie beside this file:
  benchmark.json  nets, epsilons, kinds of property, time-out, and how many images a seed chooses
  images.npz      the pool: x (N, C, H, W) or (N, F) float32 in [0, 1], y (N,) labels, index (N,) places in the
                  test set; the nets classify all of them correctly, so no property is false at the image itself
  onnx/           the nets

These are replaced, with the same bytes for the same seed:
  vnnlib/         properties in VNN-LIB 1.0
  instances.csv   net, property, time-out in seconds
  vnnlib2/        the same instances in VNN-LIB 2.0, with their own onnx/, vnnlib/ and instances.csv

instances.csv names files without .gz.  If benchmark.json says "compress": false, nothing is gzipped; VNN-COMP
asks for that in a submission.
Only Python's standard library and numpy are needed.
"""

import argparse
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np

SETTINGS_FILE, IMAGES_FILE = "benchmark.json", "images.npz"
ONNX, VNNLIB, VNNLIB2, INSTANCES = "onnx", "vnnlib", "vnnlib2", "instances.csv"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # safe in a row of instances.csv and in a shell
HOURS = 6  # the sum of all time-outs that VNN-COMP allows a benchmark


# The settings and the pool


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(holds):
    """A test whether a value is a list of such elements that is not empty and has no duplicates."""
    return lambda v: isinstance(v, list) and v != [] and all(map(holds, v)) and len(set(v)) == len(v)


def _tensor(holds):
    """A test whether a value describes a tensor with a batch of 1 and such other sizes."""
    return lambda v: (
        isinstance(v, dict)
        and isinstance(v.get("name"), str)
        and isinstance(v.get("shape"), list)
        and all(_whole(n) and n > 0 for n in v["shape"])
        and v["shape"][:1] == [1]
        and holds(v["shape"][1:])
    )


# Kind of property → (other classes, a number that the seed draws) → the classes of which one must win.
PROPERTY_KINDS = {"any": lambda others, drawn: others, "one": lambda others, drawn: [others[drawn % len(others)]]}

KEYS = {  # key of benchmark.json → (whether a value is right, the rule in words)
    "name": (lambda v: isinstance(v, str) and bool(NAME.fullmatch(v)), "letters, digits, dots, dashes and underscores"),
    "nets": (
        _list_of(lambda v: isinstance(v, str) and bool(NAME.fullmatch(v)) and v.endswith(".onnx")),
        f"different files of the folder {ONNX}, NAME.onnx with letters, digits, dots, dashes and underscores",
    ),
    "input": (_tensor(bool), "a name and a shape with a batch of 1"),
    "output": (_tensor(lambda sizes: len(sizes) == 1 and sizes[0] > 1), "a name and a shape [1, at least 2 classes]"),
    "epsilons": (
        _list_of(lambda v: (_whole(v) or isinstance(v, float)) and 0 < v <= 1),
        "a list of different numbers in (0, 1], in units of the pixel range",
    ),
    "count": (lambda v: _whole(v) and v > 0, "a whole number of images, at least 1"),
    "kinds": (
        _list_of(lambda v: isinstance(v, str) and v in PROPERTY_KINDS),
        f"a list of different ones of {', '.join(PROPERTY_KINDS)}",
    ),
    "timeout": (lambda v: _whole(v) and v > 0, "a whole number of seconds, at least 1"),
    "compress": (lambda v: isinstance(v, bool), "true or false"),
}


def check_settings(settings: dict) -> None:
    """Checks the content of benchmark.json.  Raises ValueError where it is wrong; the message begins with the key."""
    for key, (holds, rule) in KEYS.items():
        if key not in settings:
            raise ValueError(f"{key} is missing; needed are {', '.join(KEYS)}")
        if not holds(settings[key]):
            raise ValueError(f"{key} must be {rule}, got {settings[key]!r}")


def check_seed(seed: int) -> None:
    """Checks that a seed is a whole number of at least 0.  Raises ValueError where it is not."""
    if not _whole(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number, at least 0, got {seed!r}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    return path


def read_settings(folder: Path) -> dict:
    """The content of benchmark.json in the folder.

    Raises:
        FileNotFoundError: it or one of the nets is missing.
        ValueError: it is not JSON, or its content is wrong.
    """
    path = _existing(folder / SETTINGS_FILE)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it must hold an object")
        check_settings(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    for net in settings["nets"]:
        _existing(folder / ONNX / _stored(net, settings))
    return settings


def read_pool(folder: Path, settings: dict) -> "tuple[np.ndarray, np.ndarray, np.ndarray]":
    """Images (N, C, H, W) or rows (N, F) float32, labels (N,) and places in the test set (N,), of images.npz.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is damaged, has fewer images than the settings ask for, or does not fit the nets.
    """
    path = _existing(folder / IMAGES_FILE)
    try:
        with open(path, "rb") as f, np.load(f) as arrays:
            x, y, index = (arrays[key] for key in ("x", "y", "index"))
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} must be an .npz file with x, y and index: {error}") from error
    shape, (_, classes) = settings["input"]["shape"], settings["output"]["shape"]
    if x.dtype != np.float32 or x.ndim not in (2, 4) or not ((0 <= x) & (x <= 1)).all():
        raise ValueError(f"{path}: x must be (N, C, H, W) or (N, F), float32 in [0, 1]")
    if math.prod(x.shape[1:]) != math.prod(shape):
        raise ValueError(f"{path}: images of shape {x.shape[1:]} do not fit the nets' input {tuple(shape)}")
    for key, a in (("y", y), ("index", index)):
        if a.shape != x.shape[:1] or a.dtype.kind not in "iu" or (a < 0).any():
            raise ValueError(f"{path}: {key} must be one whole number, at least 0, for each of the {len(x)} images")
    if (y >= classes).any():
        raise ValueError(f"{path}: the label {y.max()} is none of the {classes} classes")
    if len(np.unique(index)) < len(index):
        raise ValueError(f"{path}: index must have no duplicates: files are named by it")
    if settings["count"] > len(x):
        raise ValueError(f"count must be at most the {len(x)} images of the pool, got {settings['count']}")
    return x, y, index


# The properties


def _inward(bound: Fraction, towards: float) -> np.float32:
    """The float32 number that is nearest to the bound on that side."""
    nearest = np.float32(float(bound))
    beyond = Fraction(float(nearest)) < bound if towards > 0 else Fraction(float(nearest)) > bound
    return np.nextafter(nearest, np.float32(towards)) if beyond else nearest


def box(image: np.ndarray, eps: float) -> "tuple[np.ndarray, np.ndarray]":
    """The least and the largest value of each pixel: clip(x ± ε, 0, 1), rounded towards x to float32 numbers.

    So the box holds every float32 image within ε and no other.  A benchmark must round towards x: a certificate for ε
    then allows the answer `unsat`, and every counter-example in the box is one for ε.  The price is this: for images
    between float32 numbers, `unsat` is a statement about a distance that is less than ε by at most 2⁻²⁴.

    The bounds are float32 numbers, so readers in float32, in float64 and in exact arithmetic have the same box.  A
    reader in float32 would round a bound in float64 again, to either side.

    Args:
        image: float32 in [0, 1], of any shape.
        eps: in units of the pixel range; it stands for the decimal number that Python prints.

    Returns:
        Two float32 arrays of the shape of the image.
    """
    eps = Fraction(written(eps))
    values, places = np.unique(image, return_inverse=True)  # exact arithmetic is slow; images have few grey levels
    exact = [Fraction(float(v)) for v in values]
    lower = np.array([_inward(max(v - eps, Fraction(0)), 2.0) for v in exact], np.float32)
    upper = np.array([_inward(min(v + eps, Fraction(1)), -1.0) for v in exact], np.float32)
    return lower[places].reshape(image.shape), upper[places].reshape(image.shape)


def digits(value: Decimal) -> str:
    """All digits of a number, without an exponent (VNN-LIB 2.0 has none) and with a point (so it is a real number)."""
    text = format(value, "f")
    return text if "." in text else text + ".0"


def written(eps: float) -> str:
    """ε as Python prints it, without an exponent."""
    return digits(Decimal(repr(float(eps))))


def _bounds(names: "list[str]", lower: np.ndarray, upper: np.ndarray) -> "list[str]":
    return [
        f"(assert (<= {x} {digits(Decimal(float(high)))}))\n(assert (>= {x} {digits(Decimal(float(low)))}))"
        for x, low, high in zip(names, lower.flat, upper.flat)
    ]


def version_1(settings: dict, lower: np.ndarray, upper: np.ndarray, label: int, wrong: "list[int]") -> str:
    """A property in VNN-LIB 1.0: the numbers of the input in row-major order, then those of the output."""
    x = [f"X_{i}" for i in range(lower.size)]
    y = [f"Y_{j}" for j in range(settings["output"]["shape"][1])]
    lines = [f"(declare-const {name} Real)" for name in x + y]
    lines += _bounds(x, lower, upper)
    lines += ["(assert (or", *(f"    (and (>= {y[j]} {y[label]}))" for j in wrong), "))"]
    return "\n".join(lines) + "\n"


def version_2(settings: dict, lower: np.ndarray, upper: np.ndarray, label: int, wrong: "list[int]") -> str:
    """A property in VNN-LIB 2.0, with the shapes of the net's input and output."""
    shapes = [settings[key]["shape"] for key in ("input", "output")]
    x, y = ([f"{name}{list(i)}".replace(" ", "") for i in np.ndindex(*shape)] for name, shape in zip("XY", shapes))
    sizes = [",".join(map(str, shape)) for shape in shapes]
    lines = [
        "(vnnlib-version <2.0>)",
        "(declare-network N",
        f"    (declare-input X real [{sizes[0]}])",
        f"    (declare-output Y real [{sizes[1]}])",
        ")",
    ]
    lines += _bounds(x, lower, upper)
    wins = [f"(>= {y[j]} {y[label]})" for j in wrong]
    lines += ["(assert (or", *(f"    {w}" for w in wins), "))"] if len(wins) > 1 else [f"(assert {wins[0]})"]
    return "\n".join(lines) + "\n"


# The folder


def _stored(name: str, settings: dict) -> str:
    return name + ".gz" if settings["compress"] else name


def _drawn(*key) -> int:
    """A number that looks random and depends only on the key.  (Generators change from version to version.)"""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest(), "big")


def _properties(settings: dict, image: np.ndarray, label: int, index: int, seed: int) -> "Iterator[tuple]":
    """The properties of one image: (file name, text in VNN-LIB 1.0, text in 2.0)."""
    others = [j for j in range(settings["output"]["shape"][1]) if j != label]
    for eps in settings["epsilons"]:
        bounds = box(image, eps)
        for kind in settings["kinds"]:
            wrong = PROPERTY_KINDS[kind](others, _drawn(seed, index, written(eps)))
            target, who = ("", "another class") if kind == "any" else (f"_to{wrong[0]}", f"class {wrong[0]}")
            note = (
                f"; Test image {index}, label {label}: is there an image within {written(eps)} of it, in every pixel, "
                f"at which {who} scores at least as much as the label?\n"
            )
            name = f"{settings['name']}_{index}_eps{written(eps)}{target}.vnnlib"
            yield (name, *(note + syntax(settings, *bounds, label, wrong) for syntax in (version_1, version_2)))


def generate(folder: "str | os.PathLike", seed: int) -> "list[tuple[str, str, int]]":
    """Replaces properties and instances in the folder by those of the seed, when the new ones are complete.

    Args:
        folder: with benchmark.json, images.npz and onnx/.
        seed: a whole number, at least 0.

    Returns:
        The rows of instances.csv: net, property, seconds.

    Raises:
        FileNotFoundError: a file that must be in the folder is missing.
        ValueError: the seed is out of range, or a file in the folder is wrong.
    """
    check_seed(seed)
    folder = Path(folder)
    settings = read_settings(folder)
    x, y, index = read_pool(folder, settings)
    chosen = sorted(range(len(x)), key=lambda row: _drawn(seed, index[row]))[: settings["count"]]

    rows = []
    with tempfile.TemporaryDirectory(prefix=".generate-", dir=folder) as part:
        trees = Path(part), Path(part) / VNNLIB2
        for path in (trees[0] / VNNLIB, trees[1] / VNNLIB, trees[1] / ONNX):
            path.mkdir(parents=True)
        for row in chosen:
            for name, *texts in _properties(settings, x[row], int(y[row]), int(index[row]), seed):
                for tree, text in zip(trees, texts):
                    data = text.encode()
                    if settings["compress"]:
                        data = gzip.compress(data, mtime=0)
                    (tree / VNNLIB / _stored(name, settings)).write_bytes(data)
                rows += [(f"{ONNX}/{net}", f"{VNNLIB}/{name}", settings["timeout"]) for net in settings["nets"]]
        for net in settings["nets"]:
            shutil.copyfile(folder / ONNX / _stored(net, settings), trees[1] / ONNX / _stored(net, settings))
        for tree in trees:
            (tree / INSTANCES).write_bytes("".join(f"{a},{b},{c}\n" for a, b, c in rows).encode())
        for name in (VNNLIB, VNNLIB2, INSTANCES):
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
            os.replace(trees[0] / name, folder / name)
    return rows


def _seed(text: str) -> int:
    if not re.fullmatch("[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, at least 0, got {text!r}")
    return int(text)


def main(argv: "list[str] | None" = None) -> int:
    """Runs ``generate`` in the folder of this file.  Returns the exit status: 0, or 2 where it fails."""
    title, text = __doc__.split("\n", 1)
    text += f"\nKeys of {SETTINGS_FILE}, which may be edited:\n"
    text += "\n".join(f"  {key:9} {rule}" for key, (_, rule) in KEYS.items())
    parser = argparse.ArgumentParser(
        description=title, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", type=_seed, metavar="SEED", help="chooses the images; a whole number, at least 0")
    seed = parser.parse_args(argv).seed
    folder = Path(__file__).resolve().parent
    try:
        rows = generate(folder, seed)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    hours = sum(seconds for _, _, seconds in rows) / 3600
    print(
        f"{len(rows)} instances, {len({row[1] for row in rows})} properties in each syntax, up to {hours:.3g} hours"
        + (f": more than the {HOURS} that VNN-COMP allows" if hours > HOURS else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
