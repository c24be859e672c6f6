"""Counts of the classes that a net answers under noise."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import progress as bars
from ..arguments import check_count, check_finite, check_model, check_positive, check_samples, check_seed
from .radii import NOISES

DRAWN = 1 << 16  # numbers that are drawn at once, about


def generator(seed: int, sample: int, stream: int) -> np.random.Generator:
    """Returns the generator of one sample's noise.  ``stream`` tells the noises and stages of a certificate apart."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, sample, stream))))


@torch.no_grad()
def draw_counts(
    model: nn.Module,
    x: Tensor,
    scale: float,
    n: int,
    *,
    noise: str = "gaussian",
    seed: int = 0,
    stream: int = 0,
    offset: int = 0,
    batch_size: int = 1024,
    progress: bool = False,
    bar: Any = None,
) -> Tensor:
    """Returns (N, classes) int64: how often the model answers each class at x + noise, in n independent draws a sample.

    A draw whose logits hold NaN counts for no class, so such a row sums to less than n.  Of equal logits the first
    counts.

    Noise is drawn and added in float64, and the sum is then rounded to the dtype of x.  So a count is about a
    function of the exact sum: rounding, and then the net.  Row i has its own generator, seeded by (seed, offset + i,
    stream), whose draws do not depend on ``batch_size`` or on the other rows.  The same draws give the same counts,
    unless the net's own arithmetic depends on the size of a batch (sums in float32 may) and two logits are equal up
    to that.

    Args:
        model: a net in evaluation mode, (B, *) → (B, classes).
        x: (N, *), float32 or float64, finite; N may be 0.
        scale: the scale of the noise, in units of x; ``NOISES[noise].scale`` says what it means.
        n: draws for each sample.
        noise: a name of ``NOISES``.
        seed: below 2³².
        stream: a number that tells several calls for the same samples apart.
        offset: the index of the first sample, for runs that are resumed.
        batch_size: rows that the model takes at once.
        progress: whether to show a progress bar.
        bar: a bar that is updated instead, by draws.

    Raises:
        TypeError, ValueError: an argument is not as described; the message names it.
    """
    check_arguments(model, x, noise, seed, offset, batch_size)
    check_positive("scale", scale)
    check_count("n", n)
    check_count("stream", stream, 0)
    if not len(x):
        return torch.zeros(0, _classes(model, x), dtype=torch.int64)
    counts, classes = torch.zeros(0, dtype=torch.int64), 0
    with bars.bar(total=len(x) * n, disable=bars.hidden(progress), unit="draw") if bar is None else _Kept(bar) as shown:
        for rows, owners in _batches(x, scale, n, noise, seed, stream, offset, batch_size):
            logits = answer(model, rows)
            if not classes:
                classes = logits.shape[1]
                counts = torch.zeros(len(x) * classes, dtype=torch.int64)
            valid = ~logits.isnan().any(dim=1)
            cells = owners[valid.cpu()] * classes + logits.argmax(dim=1)[valid].cpu()
            counts += torch.bincount(cells, minlength=len(counts))
            shown.update(len(rows))
    return counts.view(len(x), classes)


def answer(model: nn.Module, rows: Tensor) -> Tensor:
    """Returns the model's logits, (B, classes).  Raises TypeError or ValueError if it returns anything else."""
    logits = model(rows)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"model must return a floating-point tensor of logits, got {type(logits).__name__}")
    if logits.dim() != 2 or len(logits) != len(rows) or logits.shape[1] < 2:
        raise ValueError(f"model must return (N, classes) logits of two or more classes, got {tuple(logits.shape)}")
    return logits


def check_arguments(model: nn.Module, x: Tensor, noise: str, seed: int, offset: int, batch_size: int) -> None:
    """Raises TypeError or ValueError, with the name of the argument, unless all are as ``draw_counts`` describes."""
    check_model(model)
    check_samples(x, model)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    check_finite(x=x)
    if noise not in NOISES:
        raise ValueError(f"noise must be one of {', '.join(NOISES)}, got {noise!r}")
    check_seed(seed)
    check_count("offset", offset, 0)
    check_count("batch_size", batch_size)


def _classes(model: nn.Module, x: Tensor) -> int:
    """Returns the number of classes, from one row of zeros."""
    return answer(model, x.new_zeros(1, *x.shape[1:])).shape[1]


def _batches(
    x: Tensor, scale: float, n: int, noise: str, seed: int, stream: int, offset: int, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields noisy rows, at most batch_size, and (B,) the index in x of each row's sample.

    Rows of several samples share a batch.
    """
    draw, size = NOISES[noise].draw, x[0].numel()
    block = max(1, DRAWN // size)
    centres = x.detach().cpu().double().reshape(len(x), size).numpy()
    total = len(x) * n
    batch = np.empty((min(batch_size, total), size))
    owners = np.empty(len(batch), dtype=np.int64)
    filled = 0
    for i, centre in enumerate(centres):
        source, left = generator(seed, offset + i, stream), n
        while left:
            rows = min(left, len(batch) - filled, block)
            part = batch[filled : filled + rows]
            draw(source, part)  # one stream of numbers, however it is cut
            part *= scale
            part += centre
            owners[filled : filled + rows] = i
            filled, left, total = filled + rows, left - rows, total - rows
            if filled == len(batch) or not total:
                shape = (filled, *x.shape[1:])
                yield (
                    torch.from_numpy(batch[:filled]).to(x.device, x.dtype, copy=True).view(shape),
                    torch.from_numpy(owners[:filled].copy()),
                )
                filled = 0


class _Kept:
    """A bar of the caller, which stays open."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __enter__(self) -> Any:
        return self.bar

    def __exit__(self, *_: object) -> None:
        """The caller closes it."""
