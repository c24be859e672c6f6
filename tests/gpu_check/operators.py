"""What is built on the kernels or of PyTorch's operators: boxes, sorted sums, convolutions, layers."""

from collections.abc import Iterator
from functools import partial

import torch
from cases import CONVS, DTYPES, INF, SHAPES, SORTS, box, box_dist, box_sorted_dist, by_windows, dist, rows, sorted_dist
from torch import Tensor

import linf_plugin

from .compare import group, line, share, shares
from .record import Record

EXPONENTS = (1.0, 2.0, 3.0, 8.0, 5.5, 100.5, INF)
FEW = (3.0, 5.5, INF)
ODD = {"63-50-33": (63, 50, 33), "33-9-500": (33, 9, 500)}
linf = torch.ops.linf


def _each(record: Record, sizes: dict) -> Iterator:
    for dtype in DTYPES[:1] if record.quick else DTYPES:
        for p in FEW if record.quick else EXPONENTS:
            for name, size in sizes.items():
                yield f"p={p:g}, {str(dtype).removeprefix('torch.')}, {name}", p, dtype, size


def _boxes(record: Record) -> Iterator:
    def check(p: float, dtype: torch.dtype, shape: tuple[int, int, int]) -> dict[str, float]:
        x, w = rows(shape, dtype=dtype, device=record.device)
        return shares(
            lambda *t: linf.box_dist(*t, p), lambda *t: box_dist(*t, p), (*box(x), w), p, shape[2], 2 * max(shape[:2])
        )

    for name, *case in _each(record, SHAPES if record.quick else SHAPES | ODD):
        yield name, partial(check, *case)


def _sorted(record: Record) -> Iterator:
    """Terms are rounded in a fixed order, so that every bit agrees."""

    def check(dtype: torch.dtype, shape: tuple[int, int, int], rho: float, k: int) -> dict[str, float]:
        x, w = rows(shape, dtype=dtype, device=record.device)
        terms = 2 * max(shape[:2])
        points = shares(
            lambda x, w: linf_plugin.sorted_dist(x, w, rho, k),
            lambda x, w: sorted_dist(x, w, rho, k),
            (x, w),
            INF,
            shape[2],
            terms,
        )
        ranges = shares(
            lambda *t: linf.box_sorted_dist(*t, rho, k),
            lambda *t: box_sorted_dist(*t, rho, k),
            (*box(x), w),
            INF,
            shape[2],
            terms,
        )
        return points | {f"box, {part}": value for part, value in ranges.items()}

    for dtype in DTYPES[:1] if record.quick else DTYPES:
        for name, shape in (SHAPES if record.quick else SHAPES | ODD).items():
            for sort, (rho, k) in SORTS.items():
                words = f"{sort}, {str(dtype).removeprefix('torch.')}, {name}"
                yield words, partial(check, dtype, shape, rho, k)


def _convolutions(record: Record) -> Iterator:
    def check(p: float, dtype: torch.dtype, case: tuple) -> dict[str, float]:
        x_shape, w_shape, conv = case
        x, w = (torch.randn(shape, dtype=dtype, device=record.device) for shape in (x_shape, w_shape))
        features, (n, out, *size) = w[0].numel(), conv.output_shape(x_shape, w_shape)
        terms = 2 * max(n * size[0] * size[1], out * w_shape[2] * w_shape[3])
        points = shares(
            lambda x, w: linf.dist_conv2d(x, w, p, *conv),
            lambda x, w: by_windows(partial(_dist, p=p), (x,), w, conv),
            (x, w),
            p,
            features,
            terms,
        )
        ranges = shares(
            lambda *t: linf.box_conv2d(*t, p, *conv),
            lambda low, high, w: by_windows(partial(_box_dist, p=p), (low, high), w, conv),
            (*box(x), w),
            p,
            features,
            terms,
        )
        return points | {f"box, {part}": value for part, value in ranges.items()}

    for name, *case in _each(record, CONVS):
        yield name, partial(check, *case)


def _dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    return dist(x, w, p)


def _box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    return box_dist(lower, upper, w, p)


def _layers(record: Record) -> Iterator:
    """At p = ∞ a net is the same float32 program on every device, so its logits are the same bits; in windows of
    many images and of one, under autocast too."""

    def net(name: str, **arguments) -> dict[str, float]:
        model = linf_plugin.build(name, shape=(3, 12, 12), classes=7, mean=(0.5,), std=0.25, **arguments).eval()
        x = torch.rand(70, 3, 12, 12)
        with torch.no_grad():
            expected = model(x)
            model.to(record.device)
            whole = model(x.to(record.device))
            single = torch.cat([model(part) for part in x[:3].to(record.device).split(1)])
        return {"logits": share(whole, expected, 0.0), "one image": share(single, expected[:3], 0.0)}

    def autocast() -> dict[str, float]:
        x, w = rows((9, 20, 33), device=record.device)
        half = torch.float16 if record.device == "cuda" else torch.bfloat16
        with torch.autocast(record.device, half):
            y = linf_plugin.dist(x.to(half), w, INF)
        return {"value": share(y, linf_plugin.dist(x.to(half).float(), w, INF).cpu(), 0.0)}

    yield "linf-mlp", partial(net, "linf-mlp", width=50, depth=3)
    yield "linf-conv", partial(net, "linf-conv", channels=(8, 8), strides=(1, 2), width=30)
    yield "sortnet-mlp", partial(net, "sortnet-mlp", width=50, depth=3, rho=0.3)
    yield "autocast", autocast


def run(record: Record) -> str:
    torch.manual_seed(0)
    group(record, "boxes", _boxes(record))
    group(record, "sorted sums", _sorted(record))
    group(record, "convolutions", _convolutions(record))
    group(record, "layers", _layers(record))
    return line(record)
