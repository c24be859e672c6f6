"""A data set: samples with values in [0, 1], labels, the constants that normalise them, and digests of every bit."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..files import digest

DIGESTS = ("train_data_sha256", "test_data_sha256")  # keys of metadata
DIGITS = 4  # of the constants that normalise data; those of published data have as many
LEAST_STD = 1e-6  # a smaller std is only the rounding of equal values


@dataclass(frozen=True)
class Dataset:
    """Samples float32 in [0, 1] and labels (N,) int64.  Images are (N, C, H, W), rows of numbers are (N, F).

    ``mean`` (one for each channel, or for each of F columns) and ``std`` (one for all of them, so that ε becomes ε/std
    in normalised space) normalise the samples.  Published data have the published constants, your own data have those
    of ``constants``.  Only published data have a ``name`` of ``SOURCES``; your own data have any other name.

    Data that are only tested on have no training samples: x_train is (0, …) and y_train (0,).  ``class_names`` are the
    names of the classes in the order of their labels, or empty if they are not known.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    mean: tuple[float, ...]
    std: float
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) or (F,)."""
        return tuple(self.x_train.shape[1:])

    @property
    def things(self) -> str:
        """What the samples are called in messages: "images", or "samples" if they are rows of numbers."""
        return "images" if len(self.shape) == 3 else "samples"

    @property
    def classes(self) -> int:
        labelled = int(torch.cat([self.y_train.cpu(), self.y_test.cpu()]).max()) + 1
        return max(labelled, len(self.class_names))

    @property
    def digests(self) -> tuple[str, str]:
        """SHA-256 of the training and of the test part: of every bit of the present samples and labels, their shapes
        and dtypes.  They are the same on every machine.  They take one or two seconds per GB."""
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


def constants(x: Tensor) -> tuple[tuple[float, ...], float]:
    """Returns mean and std of samples (N ≥ 1, C, …): the mean of each channel or column, and one std for all.

    The std is the root of the mean squared distance of a value from the mean of its channel.  Both are rounded to
    ``DIGITS`` digits, so that they do not depend on the order in which a machine adds.

    Raises:
        ValueError: the values of each channel are equal, so nothing can be learned and the std is 0.
    """
    parts, channels = x.split(512), x.shape[1]
    mean = sum((_sums(part.double()) for part in parts), torch.zeros(1)) / (x.numel() // channels)
    along = (-1, *[1] * (x.dim() - 2))
    squares = sum((_sums((part.double() - mean.reshape(along)).square()) for part in parts), torch.zeros(1))
    std = (squares.sum() / x.numel()).sqrt().item()
    if std < LEAST_STD:
        raise ValueError("all samples are equal")
    return tuple(round(m, DIGITS) for m in mean.tolist()), float(f"{std:.{DIGITS}g}")


def _sums(x: Tensor) -> Tensor:
    """Returns (C,): the sum over each channel of x (N, C, …)."""
    return x.transpose(0, 1).flatten(1).sum(1)
