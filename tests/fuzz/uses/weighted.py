"""Uses of operators with weights: products, convolutions and distances."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, SortDistLinear

from .use import Arguments, Shape, Use, of_rank

aten = torch.ops.aten
EXPONENTS = (float("inf"), 2.0, 8.0, 1.0, 64.55)


class Product(nn.Module):
    """A product with a matrix of weights, written as one of several operators."""

    def __init__(self, operator: str, features: int, out: int):
        super().__init__()
        self.operator = operator
        self.weight = nn.Parameter(torch.randn(out, features))
        self.bias = nn.Parameter(torch.randn(out)) if operator == "addmm" else None

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.t()
        if self.operator == "addmm":
            return torch.addmm(self.bias, x, w)
        return x.mm(w) if self.operator == "mm" else x @ w


class Convolution(nn.Module):
    """A convolution of any kind by the operator beneath all of them."""

    def __init__(self, rank: int, transposed: bool, channels: int, out: int):
        super().__init__()
        kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d) if transposed else (nn.Conv1d, nn.Conv2d)
        self.layer = kinds[rank - 2](channels, out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        c = self.layer
        return aten.convolution(
            x, c.weight, c.bias, c.stride, c.padding, c.dilation, c.transposed, c.output_padding, c.groups
        )


def _out(r: random.Random) -> int:
    return r.choice((1, 2, 3, 4, 5, 7))


def _features(r: random.Random, shape: Shape) -> Arguments:
    return {"in_features": shape[-1], "out_features": _out(r), "bias": r.random() < 0.7}


def _product(operator: str, most: int) -> Use:
    draw = of_rank(1, most, lambda r, s: {"operator": operator, "features": s[-1], "out": _out(r)})
    return Use(draw=draw, make=Product)


def _windows(dims: int, transposed: bool) -> Callable:
    """Arguments of a convolution that fits."""

    def draw(r: random.Random, shape: Shape) -> Arguments:
        groups = r.choice([g for g in (1, 1, 2, 3, shape[0]) if shape[0] % g == 0])
        kernel = [r.randint(1, min(3, n)) for n in shape[1:]]
        dilation = [2 if 1 < k and 2 * k - 1 <= n and r.random() < 0.3 else 1 for k, n in zip(kernel, shape[1:])]
        stride = [r.choice((1, 1, 2)) for _ in kernel]
        found = {
            "in_channels": shape[0],
            "out_channels": groups * r.randint(1, 3),
            "kernel_size": kernel,
            "stride": stride,
            "padding": [r.randint(0, d * (k - 1)) for d, k in zip(dilation, kernel)],
            "dilation": dilation,
            "groups": groups,
            "bias": r.random() < 0.7,
        }
        if transposed:
            most = [max(s, d) - 1 for s, d in zip(stride, dilation)]
            found["output_padding"] = [r.randint(0, m) for m in most]
        elif r.random() < 0.2:
            found |= {"padding": "same", "stride": 1}
        elif r.random() < 0.1:
            found |= {
                "padding_mode": r.choice(("reflect", "replicate")),
                "padding": [min(p, n - 1) for p, n in zip(found["padding"], shape[1:])],
            }
        return found

    return of_rank(dims + 1, dims + 1, draw)


def _exponent(r: random.Random) -> float | str:
    p = r.choice(EXPONENTS)
    return p if p != float("inf") else "inf"  # as JSON has it


def _distances(r: random.Random, shape: Shape) -> Arguments:
    return {**_features(r, shape), "p": _exponent(r)}


def _sorted(r: random.Random, shape: Shape) -> Arguments:
    return {**_features(r, shape), "rho": r.choice((0.05, 0.3, 1.0)), "k": r.choice((1, 4, 10))}


def _distance_windows(r: random.Random, shape: Shape) -> Arguments:
    found = _windows(2, False)(r, shape)
    found.pop("padding_mode", None)
    return {**found, "padding": r.randint(0, 1), "p": _exponent(r)}


def _with_exponent(kind: type) -> Callable[..., nn.Module]:
    def make(p: float | str, **arguments) -> nn.Module:
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
        return kind(**lists, p=float(p))

    return make


OF_WEIGHTS = {
    "linear": [Use(draw=of_rank(1, 4, _features), make=nn.Linear)],
    "matmul": [_product("matmul", 4)],
    "mm": [_product("mm", 1)],
    "addmm": [_product("addmm", 1)],
    "convolution": [
        Use(
            draw=of_rank(
                2,
                3,
                lambda r, s: (
                    {"rank": len(s), "transposed": r.random() < 0.5, "channels": s[0], "out": _out(r)}
                    if min(s[1:]) > 1
                    else None
                ),
            ),
            make=Convolution,
        )
    ],
    "conv1d": [Use(draw=_windows(1, False), make=nn.Conv1d)],
    "conv2d": [Use(draw=_windows(2, False), make=nn.Conv2d)],
    "conv_transpose1d": [Use(draw=_windows(1, True), make=nn.ConvTranspose1d)],
    "conv_transpose2d": [Use(draw=_windows(2, True), make=nn.ConvTranspose2d)],
    "linf.dist": [Use(draw=of_rank(1, 3, _distances), make=_with_exponent(LinfDistLinear))],
    "linf.sorted_dist": [Use(draw=of_rank(1, 3, _sorted), make=SortDistLinear)],
    "linf.dist_conv2d": [Use(draw=of_rank(3, 3, _distance_windows), make=_with_exponent(LinfDistConv2d))],
}
