"""Takes a part of the samples out of training: a stratified part, the same at each call."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from .. import extras
from .dataset import Dataset, constants

TEST_PART = 0.2  # of data that come without a test part


def hold_out(data: Dataset, fraction: float) -> Dataset:
    """Returns the same data with a part of the training set as its test set, for choosing settings.

    The part is a stratified sample, the same at each call.  The new name says that it was held out.

    Raises:
        ValueError: fraction does not lie in (0, 1) or leaves a class without a sample.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must lie in (0, 1), got {fraction}")
    rows, held = _divided(data.y_train, fraction, data.name)
    x, y = data.x_train, data.y_train
    name = f"{data.name}, {fraction:g} of the training set held out"
    return replace(data, name=name, x_train=x[rows], y_train=y[rows], x_test=x[held], y_test=y[held])


def for_training(data: Dataset) -> Dataset:
    """Returns your own data with a training part and a test part, and with classes that a net can learn.

    Data with a training part are returned as they are.  Of other data a fifth becomes the test part and the rest the
    training part, whose mean and std the data then have.  The fifth is a stratified sample, the same at each call.  The
    new name says so.

    Raises:
        ValueError: the samples are of one class only, a class has no training sample, a test label is no class of the
            training samples, or the data are too few to be divided.
    """
    divide = len(data.x_train) == 0
    y = data.y_test if divide else data.y_train
    counts = y.bincount(minlength=len(data.class_names))
    if len(counts) < 2:
        raise ValueError(f"{data.name}: all samples are of class 0, but a net needs two classes")
    if missing := (counts == 0).nonzero().flatten().tolist():
        raise ValueError(
            f"{data.name}: no training sample is of class {missing[0]}, but the classes must be numbered from 0 to "
            f"{len(counts) - 1} without a gap"
        )
    if data.y_test.max() >= len(counts):
        raise ValueError(f"{data.name}: a test label is {data.y_test.max()}, but training has {len(counts)} classes")
    if not divide:
        return data
    rows, held = _divided(y, TEST_PART, data.name)
    x, name = data.x_test, f"{data.name}, {TEST_PART:g} of it as test set"
    try:
        mean, std = constants(x[rows])
    except ValueError as error:
        raise ValueError(f"{data.name}: {error}") from error
    return Dataset(name, x[rows], y[rows], x[held], y[held], mean, std, data.class_names)


def _divided(y: Tensor, fraction: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the samples that stay, and of a stratified fraction of all samples.

    Raises:
        ValueError: one of the two parts would lack a class.
    """
    with extras.named():
        from sklearn.model_selection import train_test_split

    try:
        return train_test_split(np.arange(len(y)), test_size=fraction, stratify=y.numpy(), random_state=0)
    except ValueError as error:  # it says which part is too small
        raise ValueError(f"{name}: {fraction:g} of {len(y)} samples cannot be held out: {error}") from error
