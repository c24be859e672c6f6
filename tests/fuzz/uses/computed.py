"""Uses of operators that compute without weights: arithmetic, functions, reductions and pools."""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .use import FRACTIONS, Arguments, Shape, Use, alike, along, dim, of_rank, some

aten = torch.ops.aten
EPS = 2.0**-17  # a float32 number, so that float64 copies compute the same


def _number(r: random.Random, shape: Shape) -> Arguments:
    return {"c": r.choice((*FRACTIONS, 1.0, -1.0, 2))}


def _scale(r: random.Random, *shapes: Shape) -> Arguments:
    return {"alpha": r.choice((2, -1, 0.25, -1.5))}


class Constant(nn.Module):
    """One operation of a value and a constant, which broadcasts: the constant over the value, or also the reverse."""

    OPERATIONS: dict[str, Callable] = {
        "add": lambda x, c: x + c,
        "sub": lambda x, c: x - c,
        "rsub": lambda x, c: c - x,
        "subtract": lambda x, c: torch.subtract(c, x),
        "mul": lambda x, c: c * x,
        "multiply": torch.multiply,
        "div": lambda x, c: x / c,
        "divide": torch.divide,
        "true_divide": torch.true_divide,
        "maximum": torch.maximum,
        "minimum": lambda x, c: torch.minimum(c, x),
    }

    def __init__(self, operation: str, shape: list[int]):
        super().__init__()
        self.operation = operation
        self.register_buffer("divisor" if "div" in operation else "constant", torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        (constant,) = self.buffers()
        return self.OPERATIONS[self.operation](x, constant)


def _constant(operation: str) -> Use:
    def draw(r: random.Random, shape: Shape) -> Arguments:
        sizes = [n if r.random() < 0.6 else 1 for n in shape][r.randint(0, len(shape)) :]
        if len(sizes) == len(shape) and r.random() < 0.3:
            sizes = [1, *sizes]
        sizes = [r.randint(1, 3) if n == 1 and sizes[0] == 1 and i == 1 else n for i, n in enumerate(sizes)]
        ones = [i for i, n in enumerate(shape) if n == 1]
        if ones and len(sizes) == len(shape) and r.random() < 0.5:
            sizes[ones[0]] = 2  # here the value is expanded
        fits = all(a == b or 1 in (a, b) for a, b in zip(sizes[::-1], shape[::-1]))
        return {"operation": operation, "shape": sizes} if fits else None

    return Use(draw=draw, make=Constant)


class Normalisation(nn.Module):
    """Batch normalisation in evaluation mode, as an operator that also returns what it would save."""

    def __init__(self, channels: int, affine: bool):
        super().__init__()
        self.norm = nn.BatchNorm1d(channels, EPS, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm
        return aten._native_batch_norm_legit_no_training(
            x, n.weight, n.bias, n.running_mean, n.running_var, 0.1, n.eps
        )[0]


def _batch_norm(channels: int, affine: bool, rank: int) -> nn.Module:
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[rank - 1]
    return kind(channels, EPS, affine=affine)


_channels = of_rank(1, 4, lambda r, s: {"channels": s[0], "affine": r.random() < 0.7, "rank": len(s)})
_affine = of_rank(1, 4, lambda r, s: {"channels": s[0], "affine": r.random() < 0.7})


def _gated(x: Tensor, dim: int) -> Tensor:
    return x * torch.sigmoid(x.mean(dim, keepdim=True))


ARITHMETIC = {
    "add": [
        Use(lambda x, y: x + y, alike(), 2),
        Use(lambda x, y, alpha: torch.add(x, y, alpha=alpha), alike(_scale), 2),
        Use(lambda x, c: x + c, _number),
        Use(lambda x, dim: x + x.amax(dim, keepdim=True), of_rank(1, 4, along(lambda r, s, d, n: {}))),
        Use(lambda x: x.clone().add_(1.25)),
        _constant("add"),
    ],
    "sub": [
        Use(lambda x, y: x - y, alike(), 2),
        Use(lambda x, c: x - c, _number),
        Use(lambda x, dim: x - x.mean(dim, keepdim=True), of_rank(1, 4, along(lambda r, s, d, n: {}))),
        _constant("sub"),
    ],
    "subtract": [Use(lambda x, y, alpha: torch.subtract(y, x, alpha=alpha), alike(_scale), 2), _constant("subtract")],
    "rsub": [
        Use(lambda x, c: c - x, _number),
        Use(lambda x, y, alpha: torch.rsub(x, y, alpha=alpha), alike(_scale), 2),
        _constant("rsub"),
    ],
    "mul": [
        Use(lambda x, c: x * c, _number),
        Use(lambda x, y: x * y, alike(), 2),
        Use(lambda x: x * x),
        Use(_gated, of_rank(1, 4, along(lambda r, s, d, n: {}))),
        _constant("mul"),
    ],
    "multiply": [Use(torch.multiply, alike(), 2), _constant("multiply")],
    "div": [Use(lambda x, c: x / c, _number), _constant("div")],
    "divide": [Use(lambda x, c: torch.divide(x, c), _number), _constant("divide")],
    "true_divide": [Use(lambda x, c: torch.true_divide(x, c), _number), _constant("true_divide")],
    "square": [Use(torch.square)],
    "pow": [Use(lambda x: x**2), Use(lambda x: x.pow(2.0))],
    "neg": [Use(lambda x: -x)],
    "negative": [Use(torch.negative)],
    "batch_norm": [Use(draw=_channels, make=_batch_norm)],
    "_native_batch_norm_legit_no_training": [Use(draw=_affine, make=Normalisation)],
}


# Functions of each number.


def _ends(r: random.Random, shape: Shape) -> Arguments:
    low, high = sorted(r.sample(FRACTIONS, 2))
    return {"low": low, "high": high}


def _one_end(r: random.Random, shape: Shape) -> Arguments:
    return {"end": r.choice(FRACTIONS)}


class Prelu(nn.Module):
    """PReLU, whose slopes have the shape that the operator beneath it takes."""

    def __init__(self, shape: list[int]):
        super().__init__()
        self.slope = nn.Parameter(torch.full(shape, 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return aten._prelu_kernel(x, self.slope)


FUNCTIONS = {
    "relu": [Use(F.relu), Use(make=nn.ReLU), Use(lambda x: x.clone().relu_())],
    "tanh": [Use(torch.tanh)],
    "sigmoid": [Use(torch.sigmoid)],
    "relu6": [Use(torch.ops.aten.relu6)],
    "hardtanh": [Use(lambda x, low, high: F.hardtanh(x, low, high), _ends), Use(F.relu6)],
    "clamp": [
        Use(lambda x, low, high: x.clamp(low, high), _ends),
        Use(lambda x, end: x.clamp(min=end), _one_end),
        Use(lambda x, end: x.clamp(max=end), _one_end),
        Use(lambda x, low, high: x.clone().clamp_(low, high), _ends),
    ],
    "clip": [Use(lambda x, low, high: x.clip(low, high), _ends)],
    "clamp_min": [Use(lambda x, end: x.clamp_min(end), _one_end)],
    "clamp_max": [Use(lambda x, end: x.clamp_max(end), _one_end)],
    "leaky_relu": [
        Use(lambda x, slope: F.leaky_relu(x, slope), lambda r, s: {"slope": r.choice((0.125, 0.5, 0.0, 2.0))})
    ],
    "prelu": [
        Use(make=lambda count: nn.PReLU(count), draw=of_rank(1, 4, lambda r, s: {"count": r.choice((1, s[0]))})),
        Use(make=lambda: nn.PReLU()),
    ],
    "_prelu_kernel": [
        Use(make=Prelu, draw=of_rank(1, 4, lambda r, s: {"shape": [1, r.choice((1, s[0])), *[1] * (len(s) - 1)]}))
    ],
    "elu": [Use(lambda x, alpha: F.elu(x, alpha), lambda r, s: {"alpha": r.choice((1.0, 0.75, 0.25, 0.0))})],
    "softplus": [
        Use(
            lambda x, beta, threshold: F.softplus(x, beta, threshold),
            lambda r, s: {"beta": r.choice((1.0, 0.5, 4.0)), "threshold": r.choice((20.0, 60.0))},
        )
    ],
    "abs": [Use(torch.abs)],
}


# Reductions.


def _over(r: random.Random, shape: Shape) -> Arguments:
    dims = [1 + d for d in some(r, len(shape))]
    return {"dim": r.choice((dims, dims[0], dims[0] - len(shape) - 1)), "keepdim": r.random() < 0.5}


def _over_one(r: random.Random, shape: Shape) -> Arguments:
    return {"dim": dim(r, shape), "keepdim": r.random() < 0.5}


def _order(r: random.Random, shape: Shape, d: int, n: int) -> Arguments | None:
    return {"descending": r.random() < 0.5} if n <= 12 else None


def _groups(r: random.Random, shape: Shape) -> Arguments | None:
    group = r.choice((2, 3))
    return {"group": group} if shape[0] % group == 0 else None


def _group_sorted(x: Tensor, group: int) -> Tensor:
    return x.unflatten(1, (-1, group)).sort(2).values.flatten(1, 2)


def _max_min(x: Tensor) -> Tensor:
    first, second = x.chunk(2, 1)
    return torch.cat([torch.max(first, second), torch.min(first, second)], 1)


_even = of_rank(1, 4, lambda r, s: {} if s[0] % 2 == 0 else None)

REDUCTIONS = {
    "mean": [Use(lambda x, dim, keepdim: x.mean(dim, keepdim), of_rank(1, 4, _over))],
    "sum": [
        Use(lambda x, dim, keepdim: x.sum(dim, keepdim), of_rank(1, 4, _over)),
        Use(lambda x: (x * x).sum(-1, keepdim=True), of_rank(1, 4)),
    ],
    "amax": [Use(lambda x, dim, keepdim: x.amax(dim, keepdim), of_rank(1, 4, _over))],
    "amin": [Use(lambda x, dim, keepdim: x.amin(dim, keepdim), of_rank(1, 4, _over))],
    "max": [
        Use(torch.max, alike(), 2),
        Use(lambda x, dim, keepdim: x.max(dim, keepdim).values, of_rank(1, 4, _over_one)),
        Use(_max_min, _even),
    ],
    "min": [
        Use(torch.min, alike(), 2),
        Use(lambda x, dim, keepdim: x.min(dim, keepdim)[0], of_rank(1, 4, _over_one)),
        Use(_max_min, _even),
    ],
    "maximum": [
        Use(torch.maximum, alike(), 2),
        Use(lambda x, end: torch.maximum(x, torch.full((), end)), _one_end),
        Use(lambda x, end: x.maximum(torch.tensor([end])), of_rank(1, 4, _one_end)),
        _constant("maximum"),
    ],
    "minimum": [
        Use(torch.minimum, alike(), 2),
        Use(lambda x, end: torch.minimum(torch.full((), end), x), _one_end),
        _constant("minimum"),
    ],
    "sort": [
        Use(lambda x, dim, descending: x.sort(dim, descending).values, of_rank(1, 4, along(_order))),
        Use(
            lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True)[0],
            of_rank(1, 4, along(_order)),
        ),
        Use(_group_sorted, of_rank(1, 4, _groups)),
    ],
}


# Pools.


def _windows(dims: int, largest: bool) -> Callable:
    def draw(r: random.Random, shape: Shape) -> Arguments:
        sizes = shape[-dims:]
        kernel = [r.randint(1, min(n, 3)) for n in sizes]
        padding = [r.randint(0, k // 2) for k in kernel]
        found = {"kernel_size": kernel, "padding": padding, "ceil_mode": r.random() < 0.4}
        if r.random() < 0.7:
            found["stride"] = [r.randint(1, 3) for _ in kernel]
        if largest:
            fits = [k > 1 and 2 * (k - 1) + 1 <= n for k, n in zip(kernel, sizes)]
            found["dilation"] = [2 if fit and r.random() < 0.4 else 1 for fit in fits]
        else:
            found["count_include_pad"] = r.random() < 0.5
            if dims > 1 and r.random() < 0.3:
                found["divisor_override"] = r.randint(1, 7)
        return found

    return of_rank(dims + 1, dims + 1, draw)


def _sizes(dims: int, empty: bool = True) -> Callable:
    def draw(r: random.Random, shape: Shape) -> Arguments:
        sizes = [r.choice((1, r.randint(1, n + 1), *([None] if empty else []))) for n in shape[-dims:]]
        return {"output_size": sizes}

    return of_rank(dims + 1, dims + 1, draw)


POOLS = {
    **{f"max_pool{d}d": [Use(getattr(torch, f"max_pool{d}d"), _windows(d, True))] for d in (1, 2, 3)},
    **{
        f"max_pool{d}d_with_indices": [
            Use(lambda x, d=d, **a: getattr(aten, f"max_pool{d}d_with_indices")(x, **a)[0], _windows(d, True))
        ]
        for d in (2, 3)
    },
    **{f"avg_pool{d}d": [Use(getattr(F, f"avg_pool{d}d"), _windows(d, False))] for d in (1, 2, 3)},
    "adaptive_avg_pool1d": [Use(torch.adaptive_avg_pool1d, _sizes(1, False))],
    **{f"adaptive_avg_pool{d}d": [Use(getattr(F, f"adaptive_avg_pool{d}d"), _sizes(d))] for d in (2, 3)},
    **{f"_adaptive_avg_pool{d}d": [Use(getattr(aten, f"_adaptive_avg_pool{d}d"), _sizes(d, False))] for d in (2, 3)},
    "adaptive_max_pool1d": [Use(lambda x, output_size: F.adaptive_max_pool1d(x, output_size), _sizes(1, False))],
    **{
        f"adaptive_max_pool{d}d": [
            Use(lambda x, output_size, d=d: getattr(F, f"adaptive_max_pool{d}d")(x, output_size), _sizes(d))
        ]
        for d in (2, 3)
    },
}
