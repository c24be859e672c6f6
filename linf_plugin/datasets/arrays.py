"""Makes a data set of arrays.  Everything that shape and dtype tell is checked before an array is read or copied."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset, constants

MOST_CLASSES = 100_000  # a larger label is hardly the number of a class
SHAPES = "(N, C, H, W) or (N, H, W) for images, or (N, F) for rows of F numbers"
COLOURS = (1, 3)  # numbers of channels that are also found in the last axis

Part = tuple[Tensor, Tensor]  # samples and labels


class Form(NamedTuple):
    """What is known of an array before it is read.  name: what messages call it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


def from_arrays(x: Any, y: Any, x_test: Any = None, y_test: Any = None, *, name: str) -> Dataset:
    """Makes a data set of arrays or tensors.

    With x_test and y_test, x and y are the training part.  Without them, x and y are the test part, and there is no
    training part; ``for_training`` divides such data.

    Args:
        x: (N, C, H, W) for images, (N, H, W) for grey images, or (N, F) for rows of numbers.  (N, H, W, C) is taken for
            images if C is 1 or 3 and both H and W are larger.  Values are uint8, which are divided by 255, or floating
            point in [0, 1].
        y: (N,) integers: the classes, numbered from 0.
        x_test, y_test: in the same form.
        name: the name of the data.

    Raises:
        TypeError: an argument is not an array.
        ValueError: an array is empty, has another shape or dtype, holds NaN or values outside [0, 1], or labels that
            are negative or too large; or the arrays do not fit each other.  The message names the array.
    """
    if (x_test is None) != (y_test is None):
        raise ValueError("x_test and y_test must be given together")
    pairs = [{"x": x, "y": y}] + ([] if x_test is None else [{"x_test": x_test, "y_test": y_test}])
    pairs = [{key: _array(key, value) for key, value in pair.items()} for pair in pairs]
    for pair in pairs:
        check_pair(*(Form(key, array.shape, array.dtype) for key, array in pair.items()))
    return assembled([_part(*pair.items()) for pair in pairs], name)


def _array(key: str, value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has no such type
    elif not hasattr(value, "__array__"):
        raise TypeError(f"{key} must be an array or a tensor, got {type(value).__name__}")
    return np.asarray(value)


def _part(x: tuple[str, np.ndarray], y: tuple[str, np.ndarray]) -> Part:
    return samples(*x), labels(*y)


def check_pair(x: Form, y: Form) -> None:
    """Raises ValueError if two arrays cannot be samples and their labels."""
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise ValueError(f"{x.name} must be uint8 from 0 to 255 or floating point from 0 to 1, got {x.dtype}")
    if len(x.shape) not in (2, 3, 4):
        raise ValueError(f"{x.name} must have the shape {SHAPES}, got {x.shape}")
    if 0 in x.shape:
        raise ValueError(f"{x.name} is empty: it has the shape {x.shape}")
    if y.dtype.kind not in "iu":
        raise ValueError(f"{y.name} must hold integers, the classes numbered from 0, got {y.dtype}")
    if len(y.shape) != 1:
        raise ValueError(f"{y.name} must have the shape (N,), one class for each sample, got {y.shape}")
    if x.shape[0] != y.shape[0]:
        raise ValueError(f"{x.name} has {x.shape[0]} samples but {y.name} has {y.shape[0]} labels")


def samples(name: str, x: np.ndarray) -> Tensor:
    """Returns samples (N, C, H, W) or (N, F) as float32 in [0, 1], in one new tensor.

    Raises:
        ValueError: a value is NaN or, rounded to float32, lies outside [0, 1].
    """
    if x.ndim == 3:
        x = x[:, np.newaxis]
    elif x.ndim == 4 and x.shape[3] in COLOURS and min(x.shape[1:3]) > x.shape[3]:
        x = np.moveaxis(x, 3, 1)
    found = torch.empty(x.shape)
    with np.errstate(over="ignore"):  # infinity is refused below
        np.copyto(found.numpy(), x, casting="unsafe")
    if x.dtype == np.uint8:
        return found.div_(255)
    low, high = (end.item() for end in found.aminmax())
    if math.isnan(low):
        first = int(found.isnan().flatten(1).any(1).nonzero()[0])
        raise ValueError(f"{name} must not hold NaN, but its sample {first} does")
    if not 0 <= low <= high <= 1:
        advice = (
            "scale each column by its smallest and largest value in the training data, and clip the test data"
            if x.ndim == 2
            else "divide by the largest value that a pixel can have"
        )
        raise ValueError(f"{name} must lie in [0, 1], has values from {low:g} to {high:g}: {advice}")
    return found


def labels(name: str, y: np.ndarray) -> Tensor:
    """Returns labels (N,) as int64.  Raises ValueError if one is negative or not below ``MOST_CLASSES``."""
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise ValueError(f"{name} must hold classes numbered from 0, has the label {low}")
    if high >= MOST_CLASSES:
        raise ValueError(f"{name} must hold labels below {MOST_CLASSES:,}, has the label {high}")
    return torch.from_numpy(y.astype(np.int64))


def assembled(parts: list[Part], name: str, class_names: tuple[str, ...] = ()) -> Dataset:
    """Returns a data set with the parts [training, test] or [test].

    Raises:
        ValueError: the samples of the two parts have unlike shapes, or all training samples are equal.
    """
    *train, (x_test, y_test) = parts
    x_train, y_train = train[0] if train else (x_test[:0], y_test[:0])
    if x_train.shape[1:] != x_test.shape[1:]:
        ours, theirs = tuple(x_train.shape[1:]), tuple(x_test.shape[1:])
        raise ValueError(f"{name}: training samples have the shape {ours} but test samples {theirs}")
    try:
        mean, std = constants(x_train) if train else ((0.0,), 1.0)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return Dataset(name, x_train, y_train, x_test, y_test, mean, std, class_names)
