"""Sums, means, maxima and minima: over dimensions, and of two values; and sorting."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..operations import Average, Clamp, Largest, Limit
from ..values import Builder, Unknown, Value
from .arithmetic import number, pair, with_constant
from .moves import Arguments

MOST_SORTED = 64  # the most numbers that are sorted together


def _dims(x: Value, dim, keepdim: bool) -> tuple[list[int], bool]:
    """Returns the dimensions over which an operator reduces, as numbers ≥ 0.  Raises Unknown if they have samples."""
    count = len(x.of(1))
    dims = range(count) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
    dims = sorted(d % count for d in dims)
    if dims[:1] == [0]:
        raise Unknown("it reduces over the samples of a batch, so nothing holds for one sample")
    return dims, keepdim


def _grouped(b: Builder, x: Value, dim, keepdim: bool) -> tuple[Tensor, int | None]:
    """Returns the numbers that are reduced together, in the last dimension."""
    dims, keepdim = _dims(x, dim, keepdim)

    def last(samples: int, xs: list[Tensor]) -> Tensor:
        kept = [d for d in range(xs[0].dim()) if d not in dims]
        y = xs[0].permute(*kept, *dims).flatten(len(kept)) if dims else xs[0].unsqueeze(-1)
        for d in dims if keepdim else ():
            y = y.unsqueeze(d)
        return y

    return b.index(last, (x,))


def _total(mean: bool) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        index, rows = _grouped(b, a["self"], a.get("dim"), a.get("keepdim", False))
        divisor = torch.full(index.shape[:-1], index.shape[-1] if mean else 1)
        return b.add(Average(index, divisor), (a["self"],), index.shape[:-1], rows)

    return read


def _extreme(sign: int) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        index, rows = _grouped(b, a["self"], a.get("dim"), a.get("keepdim", False))
        return b.add(Largest(index, sign), (a["self"],), index.shape[:-1], rows)

    return read


def _of_two(sign: int) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        constants = [c for c in (a["self"], a["other"]) if not isinstance(c, Value)]
        if constants:
            return _clamped(b, a, constants[0], sign)
        x, y = pair(b, a["self"], a["other"])
        index, rows = b.index(lambda samples, xs: torch.stack(xs, -1), (x, y))
        return b.add(Largest(index, sign), (x, y), index.shape[:-1], rows)

    return read


def _clamped(b: Builder, a: Arguments, end: Tensor, sign: int) -> Value:
    """Reads the maximum or minimum of a value and a constant."""
    x = a["self"] if isinstance(a["self"], Value) else a["other"]
    if end.numel() != 1 or end.dim() > len(x.of(1)):
        x, end = with_constant(b, x, end)
        if not bool(end.isfinite().all()):
            raise Unknown("one of its operands is a constant that is not finite")
        return b.like(Limit(end, sign), x)
    ends = (number(end.item()), math.inf) if sign > 0 else (-math.inf, number(end.item()))
    return b.like(Clamp(*ends), x)


def _max(sign: int) -> Callable:
    """torch.max and torch.min: of two values, over one dimension with the places, or of all numbers."""

    def read(b: Builder, a: Arguments):
        if "other" in a:
            return _of_two(sign)(b, a)
        value = _extreme(sign)(b, a)
        return [value] if "dim" in a else value

    return read


# Sorting.


def _comparators(count: int) -> list[list[tuple[int, int]]]:
    """Returns the layers of a network that sorts ``count`` numbers: neighbours are compared, at even and odd places."""
    return [[(i, i + 1) for i in range(layer % 2, count - 1, 2)] for layer in range(count)]


def _sort(b: Builder, a: Arguments) -> list[Value]:
    """Sorts along one dimension by maxima and minima of pairs.  Only the values can be used, not their places."""
    x, dim, descending = a["self"], a["dim"], a["descending"]
    (dim,), _ = _dims(x, dim, False)
    index, rows = b.index(lambda samples, xs: xs[0].movedim(dim, -1), (x,))
    count = index.shape[-1]
    if count > MOST_SORTED:
        raise Unknown(f"it sorts {count} numbers, and at most {MOST_SORTED} are supported")
    value = b.gather(index, (x,), rows)
    for pairs in _comparators(count):
        value = _compared(b, value, pairs, descending)
    return [b.move(lambda samples, xs: xs[0].movedim(-1, dim), value)]


def _compared(b: Builder, x: Value, pairs: list[tuple[int, int]], descending: bool) -> Value:
    """Returns x with each pair of numbers, along the last dimension, in order."""
    if not pairs:
        return x
    index, _ = b.index(lambda samples, xs: xs[0], (x,))
    both = torch.stack([index[..., list(side)] for side in zip(*pairs)], -1)
    largest, least = (b.add(Largest(both, sign), (x,), both.shape[:-1], x.rows) for sign in (1, -1))
    first, second = (largest, least) if descending else (least, largest)
    place = index.clone()  # in x, then in the first and the second numbers of all pairs
    each = torch.arange(first.numbers).view(both.shape[:-1])
    place[..., [i for i, _ in pairs]] = x.numbers + each
    place[..., [j for _, j in pairs]] = x.numbers + first.numbers + each
    return b.gather(place, (x, first, second), x.rows)


REDUCTIONS: dict[str, Callable] = {
    "aten.mean": _total(True),
    "aten.sum": _total(False),
    "aten.amax": _extreme(1),
    "aten.amin": _extreme(-1),
    "aten.max": _max(1),
    "aten.min": _max(-1),
    "aten.maximum": _of_two(1),
    "aten.minimum": _of_two(-1),
    "aten.sort": _sort,
}
