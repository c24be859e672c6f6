"""Uses of operators that only move numbers."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .use import Arguments, Shape, Use, alike, along, dim, divisor, folded, of_rank, some

aten = torch.ops.aten


def _dims(r: random.Random, shape: Shape) -> Arguments | None:
    return {"dims": [dim(r, shape)]} if r.random() < 0.5 else {"dims": [1 + d for d in some(r, len(shape))]}


def _order(r: random.Random, shape: Shape) -> Arguments:
    return {"dims": [0, *r.sample(range(1, len(shape) + 1), len(shape))]}


def _two_dims(r: random.Random, shape: Shape) -> Arguments:
    return {"a": dim(r, shape), "b": dim(r, shape)}


def _part(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    start = r.randrange(n)
    length = r.randint(1, n - start)
    return {"start": start, "length": length}


def _slice(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    start = r.randrange(n)
    end = r.choice((None, r.randint(start + 1, n), n + 3))
    return {"start": r.choice((start, start - n)), "end": end, "step": r.randint(1, 2)}


def _which(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    return {"index": r.randrange(-n, n)}


def _several(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    return {"index": [r.randrange(n) for _ in range(r.randint(1, n + 1))]}


class Index(nn.Module):
    """Takes numbers at constant places: along one dimension, at pairs of places, or where a mask is true."""

    def __init__(self, how: str, dim: int, index: list):
        super().__init__()
        self.how, self.dim = how, dim
        self.register_buffer("index", torch.tensor(index))

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "select":
            return x.index_select(self.dim, self.index)
        if self.how == "pairs":
            return x[:, self.index, self.index.flip(0)]
        if self.how == "last":
            return x[..., self.index]
        return x[(slice(None),) * self.dim + (self.index,)]


def _places(how: str):
    def draw(r: random.Random, shape: Shape) -> Arguments | None:
        d = len(shape) if how == "last" else r.randint(1, len(shape))
        n = min(shape[:2]) if how == "pairs" else shape[d - 1]
        index = [r.randrange(n) for _ in range(r.randint(1, n + 1))]
        return {"how": how, "dim": d, "index": index}

    return of_rank(2 if how == "pairs" else 1, 5, draw)


def _mask(r: random.Random, shape: Shape) -> Arguments:
    d = r.randint(1, len(shape))
    mask = [r.random() < 0.6 for _ in range(shape[d - 1])]
    mask[r.randrange(len(mask))] = True
    return {"how": "mask", "dim": d, "index": mask}


def _repeats(r: random.Random, shape: Shape) -> Arguments | None:
    return {"repeats": [1, *(r.choice((1, 1, 2)) for _ in shape)]}


def _shifts(r: random.Random, shape: Shape) -> Arguments:
    dims = [1 + d for d in some(r, len(shape))]
    return {"shifts": [r.randint(-3, 3) for _ in dims], "dims": dims}


def _windows(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    return {"size": r.randint(1, min(n, 3)), "step": r.randint(1, 2)}


def _shuffle(r: random.Random, shape: Shape) -> Arguments | None:
    return {"factor": 2} if shape[0] % 4 == 0 else None


def _unshuffle(r: random.Random, shape: Shape) -> Arguments | None:
    return {"factor": 2} if shape[1] % 2 == 0 and shape[2] % 2 == 0 else None


def _joined(r: random.Random, *shapes: Shape) -> Arguments | None:
    """Values that differ in one dimension at most."""
    first, second = shapes
    if not first or len(first) != len(second):
        return None
    different = [d for d, (a, b) in enumerate(zip(first, second)) if a != b]
    if len(different) > 1:
        return None
    return {"dim": different[0] + 1 if different else dim(r, first)}


def _stacked(r: random.Random, *shapes: Shape) -> Arguments:
    return {"dim": r.randint(1, len(shapes[0]) + 1)}


def _piece(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    return {"size": r.randint(1, n)}


def _pieces(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    first = r.randrange(n + 1)
    return {"sizes": [first, n - first]}


def _again(pieces, dim: int) -> Tensor:
    """The pieces in reversed order, so that each is used."""
    return torch.cat([*pieces][::-1], dim)


def _zeros(r: random.Random, shape: Shape) -> Arguments:
    """Padding by zeros, or by a negative amount, which cuts off."""
    pads = []
    for n in shape[::-1][: r.randint(1, len(shape))]:
        pads += [r.choice((0, 1, 2, -1 if n > 2 else 0)), r.choice((0, 1, 3, -1 if n > 2 else 0))]
    return {"pad": pads}


def _border(dims: int, mode: str):
    """Padding by pixels of the image; a reflection is smaller than the image."""

    def draw(r: random.Random, shape: Shape) -> Arguments:
        pads = []
        for n in shape[::-1][:dims]:
            pads += [r.randint(0, n - 1 if mode == "reflect" else n) for _ in range(2)]
        return {"padding": pads}

    return of_rank(dims + 1, dims + 1, draw)


def _mode(r: random.Random, shape: Shape) -> Arguments:
    pads = []
    for n in shape[:0:-1]:
        pads += [r.randint(0, n - 1) for _ in range(2)]
    return {"pad": pads, "mode": r.choice(("reflect", "replicate", "circular"))}


def _factor(r: random.Random, shape: Shape) -> Arguments:
    if r.random() < 0.5:
        return {"scale_factor": float(r.randint(1, 2))}
    return {"size": [r.randint(1, 2 * n) for n in shape[1:]]}


def _to_and_from(r: random.Random, shape: Shape, d: int, n: int) -> Arguments:
    return {"to": r.randrange(n), "start": r.randrange(n)}


def _select_scattered(x: Tensor, dim: int, start: int, to: int) -> Tensor:
    return torch.select_scatter(x, -x.select(dim, start), dim, to)


def _slice_scattered(x: Tensor, dim: int, start: int, to: int) -> Tensor:
    return torch.slice_scatter(x, -x.narrow(dim, start, 1), dim, to, to + 1)


def _written(x: Tensor, dim: int, start: int, to: int) -> Tensor:
    """In place."""
    h = x.clone()
    h.select(dim, to).copy_(-x.select(dim, start))
    return h


def _rows(x: Tensor) -> Tensor:
    """A function of rows, which are joined with the samples in between."""
    return torch.tanh(x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _flattened_rows(x: Tensor, count: int) -> Tensor:
    return torch.tanh(x.flatten(0, 1)).unflatten(0, (-1, count))


_each_dim = of_rank(1, 5, along(lambda r, shape, d, n: {}))

MOVES = {
    "clone": [Use(lambda x: x.clone())],
    "detach": [Use(lambda x: x.detach())],
    "alias": [Use(aten.alias)],
    "contiguous": [Use(lambda x: x.transpose(1, -1).contiguous(), of_rank(2, 5))],
    "lift_fresh_copy": [Use(aten.lift_fresh_copy)],
    "to": [Use(lambda x: x.to(x.dtype)), Use(lambda x: x.to(x.device))],
    "_to_copy": [Use(aten._to_copy)],
    "type_as": [Use(lambda x: x.type_as(x))],
    "positive": [Use(lambda x: +x)],
    "dropout": [Use(lambda x: F.dropout(x, 0.3, False)), Use(make=lambda: nn.Dropout(0.5))],
    "alpha_dropout": [Use(lambda x: F.alpha_dropout(x, 0.3, False))],
    "feature_dropout": [Use(lambda x: torch.feature_dropout(x, 0.3, False), of_rank(1, 5))],
    "feature_alpha_dropout": [Use(lambda x: torch.feature_alpha_dropout(x, 0.3, False), of_rank(1, 5))],
    "native_dropout": [Use(lambda x: torch.native_dropout(x, 0.3, False)[0])],
    "view": [
        Use(lambda x, sizes: x.contiguous().view(x.shape[0], *sizes), lambda r, s: {"sizes": folded(r, s)}),
        Use(lambda x, sizes: x.contiguous().view(-1, *sizes), lambda r, s: {"sizes": folded(r, s)}),
    ],
    "_unsafe_view": [
        Use(
            lambda x, sizes: aten._unsafe_view(x.contiguous(), [x.shape[0], *sizes]),
            lambda r, s: {"sizes": folded(r, s)},
        )
    ],
    "view_as": [Use(lambda x: x.flatten(1).view_as(x), of_rank(1, 5))],
    "reshape": [
        Use(lambda x, sizes: x.reshape(x.shape[0], *sizes), lambda r, s: {"sizes": folded(r, s)}),
        Use(lambda x, sizes: x.reshape(-1, *sizes), lambda r, s: {"sizes": folded(r, s)}),
        Use(_rows, of_rank(1, 5)),
    ],
    "flatten": [
        Use(lambda x: x.flatten(1), of_rank(1, 5)),
        Use(lambda x, start, end: x.flatten(start, end), of_rank(2, 5, lambda r, s: {"start": -2, "end": -1})),
        Use(_flattened_rows, of_rank(2, 5, lambda r, s: {"count": s[0]})),
    ],
    "unflatten": [
        Use(
            lambda x, dim, sizes: x.unflatten(dim, sizes),
            of_rank(1, 3, along(lambda r, shape, d, n: {"sizes": [(a := divisor(r, n)), n // a]})),
        ),
        Use(_flattened_rows, of_rank(2, 5, lambda r, s: {"count": s[0]})),
    ],
    "permute": [Use(lambda x, dims: x.permute(dims), _order)],
    "transpose": [Use(lambda x, a, b: x.transpose(a, b), of_rank(1, 5, _two_dims))],
    "swapaxes": [Use(lambda x, a, b: x.swapaxes(a, b), of_rank(1, 5, _two_dims))],
    "movedim": [Use(lambda x, a, b: x.movedim(a, b), of_rank(1, 5, _two_dims))],
    "t": [Use(lambda x: x.t(), of_rank(0, 0))],
    "squeeze": [
        Use(lambda x, dim: x.unsqueeze(dim).squeeze(dim), _each_dim),
        Use(lambda x, dims: x[:, None, :, None].squeeze(dims), of_rank(1, 3, lambda r, s: {"dims": [1, 3]})),
    ],
    "unsqueeze": [Use(lambda x, dim: x.unsqueeze(dim), lambda r, s: {"dim": r.randint(1, len(s) + 1)})],
    "slice": [
        Use(lambda x, dim, start, end, step: aten.slice(x, dim, start, end, step), of_rank(1, 5, along(_slice))),
        Use(lambda x: x[:, 1:], of_rank(1, 5, lambda r, s: {} if s[0] > 1 else None)),
    ],
    "select": [
        Use(lambda x, dim, index: x.select(dim, index), of_rank(1, 5, along(_which))),
        Use(lambda x: x[:, -1], of_rank(1, 5)),
    ],
    "narrow": [Use(lambda x, dim, start, length: x.narrow(dim, start, length), of_rank(1, 5, along(_part)))],
    "index_select": [Use(draw=_places("select"), make=Index)],
    "index": [
        Use(draw=_places("one"), make=Index),
        Use(draw=_places("last"), make=Index),
        Use(draw=_places("pairs"), make=Index),
        Use(draw=of_rank(1, 5, _mask), make=Index),
        Use(lambda x, index: x[:, index], of_rank(1, 5, lambda r, s: _several(r, s, 1, s[0]))),
    ],
    "expand": [
        Use(lambda x, count: x.unsqueeze(1).expand(-1, count, *x.shape[1:]), lambda r, s: {"count": r.randint(1, 3)})
    ],
    "expand_as": [Use(lambda x: x[:, :1].expand_as(x), of_rank(1, 5))],
    "repeat": [Use(lambda x, repeats: x.repeat(repeats), _repeats)],
    "flip": [Use(lambda x, dims: x.flip(dims), of_rank(1, 5, _dims))],
    "roll": [Use(lambda x, shifts, dims: x.roll(shifts, dims), of_rank(1, 5, _shifts))],
    "unfold": [Use(lambda x, dim, size, step: x.unfold(dim, size, step), of_rank(1, 4, along(_windows)))],
    "pixel_shuffle": [Use(lambda x, factor: F.pixel_shuffle(x, factor), of_rank(3, 3, _shuffle))],
    "pixel_unshuffle": [Use(lambda x, factor: F.pixel_unshuffle(x, factor), of_rank(3, 3, _unshuffle))],
    "channel_shuffle": [
        Use(
            lambda x, groups: torch.channel_shuffle(x, groups), of_rank(2, 4, lambda r, s: {"groups": divisor(r, s[0])})
        )
    ],
    "cat": [
        Use(lambda x, y, dim: torch.cat([x, y, x], dim), _joined, 2),
        Use(lambda x, dim: torch.cat((x, -x), dim), _each_dim),
    ],
    "concat": [Use(lambda x, y, dim: torch.concat([y, x], dim), _joined, 2)],
    "stack": [
        Use(lambda x, y, dim: torch.stack([x, y], dim), alike(_stacked), 2),
        Use(lambda x, dim: torch.stack([-x, x], dim), _stacked),
    ],
    "split": [Use(lambda x, dim, size: _again(x.split(size, dim), dim), of_rank(1, 5, along(_piece)))],
    "split_with_sizes": [Use(lambda x, dim, sizes: _again(x.split(sizes, dim), dim), of_rank(1, 5, along(_pieces)))],
    "tensor_split": [
        Use(lambda x, dim, size: _again(x.tensor_split(size, dim), dim), of_rank(1, 5, along(_piece))),
        Use(lambda x, dim, sizes: _again(x.tensor_split(sizes[:1], dim), dim), of_rank(1, 5, along(_pieces))),
    ],
    "hsplit": [Use(lambda x: _again(x.hsplit([1]), 1), of_rank(1, 5))],
    "vsplit": [Use(lambda x: x.vsplit(1)[0], of_rank(1, 5))],
    "chunk": [Use(lambda x, dim, size: _again(x.chunk(size, dim), dim), of_rank(1, 5, along(_piece)))],
    "unbind": [Use(lambda x, dim: torch.stack(x.unbind(dim)[::-1], dim), _each_dim)],
    "pad": [
        Use(lambda x, pad: F.pad(x, pad), of_rank(1, 4, _zeros)),
        Use(lambda x, pad, mode: F.pad(x, pad, mode), of_rank(2, 4, _mode)),
    ],
    "constant_pad_nd": [Use(lambda x, pad: torch.constant_pad_nd(x, pad, 0.0), of_rank(1, 4, _zeros))],
    **{f"reflection_pad{n}d": [Use(getattr(aten, f"reflection_pad{n}d"), _border(n, "reflect"))] for n in (1, 2, 3)},
    **{
        f"replication_pad{n}d": [Use(getattr(aten, f"replication_pad{n}d"), _border(n, "replicate"))] for n in (1, 2, 3)
    },
    "upsample_nearest1d": [Use(lambda x, **how: F.interpolate(x, **how), of_rank(2, 2, _factor))],
    "upsample_nearest2d": [Use(lambda x, **how: F.interpolate(x, **how), of_rank(3, 3, _factor))],
    "select_scatter": [Use(_select_scattered, of_rank(1, 5, along(_to_and_from)))],
    "slice_scatter": [Use(_slice_scattered, of_rank(1, 5, along(_to_and_from)))],
    "copy": [Use(lambda x, y: x.clone().copy_(y), alike(), 2), Use(_written, of_rank(1, 5, along(_to_and_from)))],
}
