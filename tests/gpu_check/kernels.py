"""Our kernels against the reference, forward and backward.  On a CPU: those of the CPU."""

import math
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from cases import DTYPES, INF, LAYOUTS, SHAPES, dist, rows
from torch import Tensor

import linf_plugin
from linf_plugin.float32 import rules
from linf_plugin.kernels import blocked, cpu, gpu, reference

from .compare import group, line, share, shares
from .record import Record

EXPONENTS = (1.0, 2.0, 3.0, 8.0, 5.5, 100.5, INF)
FEW = (3.0, 5.5, INF)
ODD = {  # (N, out, in): more than one tile, stage and chunk
    "63-500-33": (63, 500, 33),
    "500-33-63": (500, 33, 63),
    "33-63-500": (33, 63, 500),
    "130-140-100": (130, 140, 100),
    "5-200-70": (5, 200, 70),
    "150-3-129": (150, 3, 129),
}
DECADES = {  # the first and the last coordinate's
    "1e-30": (-30, -30),
    "1e30": (30, 30),
    "both": (-30, 30),
    "near the smallest": (-37, -37),
    "large": (36, 36),
}
ACCURACY = ((64, 64, 1), (64, 64, 33), (64, 64, 500))


def _name(p: float, dtype: torch.dtype) -> str:
    return f"p={p:g}, {str(dtype).removeprefix('torch.')}"


def _check(x: Tensor, w: Tensor, p: float) -> dict[str, float]:
    assert (gpu if x.is_cuda else cpu).takes(p, x, w) or not x.is_cuda, "the kernels do not take these tensors"
    return shares(
        lambda x, w: linf_plugin.dist(x, w, p), lambda x, w: dist(x, w, p), (x, w), p, x.shape[1], max(len(x), len(w))
    )


def _sizes(record: Record) -> Iterator:
    dtypes, sizes = (DTYPES[:1], {**SHAPES, "63-50-33": (63, 50, 33)}) if record.quick else (DTYPES, SHAPES | ODD)
    for dtype in dtypes:
        for p in FEW if record.quick else EXPONENTS:
            for name, shape in sizes.items():
                tensors = partial(rows, shape, dtype=dtype, device=record.device)
                yield f"{_name(p, dtype)}, {name}", lambda p=p, tensors=tensors: _check(*tensors(), p)


def _tiles(record: Record) -> Iterator:
    """Each tile whatever the sizes: a thread's results depend on it, the results must not."""

    def check(tile: tuple[int, int], shape: tuple[int, int, int], p: float) -> dict[str, float]:
        with mock.patch.dict(gpu.TILES, {torch.float32: {tile: 1.0, (2, 2): 1e6}}):
            return _check(*rows(shape, device=record.device), p)

    for tile in gpu.TILES[torch.float32]:
        for name, shape in list(ODD.items())[3:]:
            for p in (8.0, 100.5, INF):
                yield f"tile {tile[0]}x{tile[1]}, p={p:g}, {name}", partial(check, tile, shape, p)


def _strides(record: Record) -> Iterator:
    """Tensors that are not contiguous, and gradients that are not."""

    def check(layout, p: float) -> dict[str, float]:
        x, w = rows((9, 20, 17), device=record.device)
        return _check(layout(x), layout(w), p)

    for name, layout in LAYOUTS.items():
        for p in FEW:
            yield f"{name}, p={p:g}", partial(check, layout, p)


def _magnitudes(record: Record) -> Iterator:
    """No power over- or underflows; a few pairs are far closer than the others; a p beyond all that is finite."""

    def check(decades: tuple[int, int], p: float) -> dict[str, float]:
        scale = torch.logspace(*decades, 70, dtype=torch.float64).float().to(record.device)
        return _check(*(a * scale for a in rows((9, 20, 70), device=record.device)), p)

    def largest(p: float) -> dict[str, float]:
        """Distances about 2¹²⁶, beyond which the reciprocal is subnormal."""
        return _check(*(a.clamp(-2, 2) * 3e37 for a in rows((9, 20, 4), device=record.device)), p)

    def close(p: float) -> dict[str, float]:
        x, w = rows((40, 40, 70), device=record.device)
        w[::13] = x[::13] + 1e-7 * torch.randn_like(x[::13])
        w[1] = x[1]
        return _check(x, w, p)

    def beyond(p: float) -> dict[str, float]:
        x, w = rows((40, 40, 70), device=record.device)
        y = linf_plugin.dist(x, w, p)
        gradients = _backward(x, w, y, p, torch.ones_like(y))
        expected = reference.dist(x.cpu(), w.cpu(), INF)
        found = {"value": share(y, expected, 1e-6 * expected)}
        return found | {f"gradient {i}": 2.0 * (not bool((g.abs() <= 41).all())) for i, g in enumerate(gradients)}

    for p in FEW if record.quick else EXPONENTS:
        for name, decades in DECADES.items():
            yield f"{name}, p={p:g}", partial(check, decades, p)
        if p >= 2:  # at p = 1 the sum may overflow
            yield f"near the largest, p={p:g}", partial(largest, p)
        yield f"close pairs, p={p:g}", partial(close, p)
    for p in (1e9, 1e12, 1e30):
        yield f"p={p:g}", partial(beyond, p)


def _backward(x: Tensor, w: Tensor, y: Tensor, p: float, grad: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.linf.dist_backward(grad, x, w, y, p)


def _index(record: Record) -> Iterator:
    """The coordinate of each maximum, ties and NaN among them, and what the gradient makes of it, bit by bit."""

    def check(shape: tuple[int, int, int], dtype: torch.dtype, ties: bool) -> dict[str, float]:
        x, w = rows(shape, dtype=dtype, device=record.device)
        if ties:
            x, w = x.round(), w.round()
        if min(shape[:2]) > 1:
            w[1] = x[1]
            x[0, -1:] = math.nan
        y, index = torch.ops.linf.dist_with_index(x, w)
        y_exact, expected = blocked.dist_with_index(x.cpu(), w.cpu())
        grad = torch.randint(-9, 10, y.shape).to(dtype)  # whole numbers, whose sums are exact
        gradients = torch.ops.linf.index_backward(grad.to(record.device), index, shape[2])
        exact = blocked.index_vjp(grad, expected, shape[2])
        return {
            "value": share(y.nan_to_num(-1), y_exact.nan_to_num(-1), 0.0),
            "index": share(index, expected, 0.0),
            **{f"gradient {i}": share(g, h, 0.0) for i, (g, h) in enumerate(zip(gradients, exact))},
        }

    for dtype in DTYPES:
        for ties in (False, True):
            for name, shape in (SHAPES | ODD).items():
                words = f"{name}, {str(dtype).removeprefix('torch.')}{', ties' * ties}"
                yield words, partial(check, shape, dtype, ties)


def _not_finite(record: Record) -> Iterator:
    def check(p: float, dtype: torch.dtype) -> dict[str, float]:
        x, w = rows((9, 70, 40), dtype=dtype, device=record.device)
        x[1, 3], x[2, 39], x[3, 5], w[7, 39], w[66, 3] = INF, -INF, math.nan, -INF, INF
        y, z = linf_plugin.dist(x, w, p).cpu(), reference.dist(x.cpu(), w.cpu(), p)
        return {"NaN": share(y.isnan().int(), z.isnan().int(), 0.0), "∞": share(y.isinf().int(), z.isinf().int(), 0.0)}

    for dtype in DTYPES:
        for p in FEW:
            yield _name(p, dtype), partial(check, p, dtype)


def _again(record: Record) -> Iterator:
    """The same bits in a second run, and where a long sum is split."""

    def check(p: float) -> dict[str, float]:
        x, w = rows((1600, 3, 6), device=record.device)
        y = linf_plugin.dist(x, w, p)
        grad = torch.rand_like(y)
        one, two = (_backward(x, w, y, p, grad) for _ in range(2))
        same = torch.equal(y, linf_plugin.dist(x, w, p)) and all(map(torch.equal, one, two))
        return {"the same bits": 0.0 if same else INF, **_check(x, w, p)}

    for p in FEW:
        yield f"p={p:g}", partial(check, p)


def _accuracy(record: Record) -> Iterator:
    """The errors of float32 distances in units of 2⁻²⁴ of the distance, against what certificates assume of them."""
    found = record.found["errors in units"] = {}

    def check(shape: tuple[int, int, int], p: float) -> dict[str, float]:
        x, w = rows(shape, device=record.device)
        exact = reference.dist(x.cpu().double(), w.cpu().double(), p)
        y = linf_plugin.dist(x, w, p).cpu().double()
        units = ((y - exact).abs() / exact / rules.UNIT).nan_to_num(nan=INF).amax().item()
        assumed = rules.POWER_UNITS + shape[2] / p
        found[f"p={p:g}, {shape[2]} coordinates"] = {"units": round(units, 2), "assumed": round(assumed, 2)}
        return {"units": units / assumed}

    for shape in ACCURACY:
        for p in (1.5, *EXPONENTS[:-1], 1000.0, 1e6):  # at p = ∞ the same bits are asked for
            yield f"p={p:g}, {shape[2]} coordinates", partial(check, shape, p)


def _streams(record: Record) -> Iterator:
    """What only a GPU can show: streams, graphs, a second GPU."""

    def stream(p: float) -> dict[str, float]:
        x, w = rows((512, 256, 300), device="cuda")
        expected = linf_plugin.dist(x, w, p).cpu()
        other = torch.cuda.Stream()
        torch.cuda.synchronize()
        with torch.cuda.stream(other):
            torch.cuda._sleep(10**8)
            y = linf_plugin.dist(x.clone(), w, p)  # of a copy that is made after the sleep
        other.synchronize()
        return {"value": share(y, expected, 0.0)}

    def graph(p: float) -> dict[str, float]:
        x, w = rows((100, 70, 60), device="cuda")
        grad = torch.rand(100, 70, device="cuda")

        def step() -> tuple[Tensor, ...]:
            y = gpu.dist(x, w, p)
            return y, *gpu.dist_vjp(grad, x, w, y, p)

        step()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            results = step()
        x.copy_(torch.randn_like(x))
        captured.replay()
        return {f"result {i}": share(a, b.cpu(), 0.0) for i, (a, b) in enumerate(zip(results, step()))}

    def second() -> dict[str, float]:
        x, w = rows((30, 40, 50))
        return _check(x.to("cuda:1"), w.to("cuda:1"), 8.0)

    for p in (8.0, 100.5, INF):
        yield f"a stream, p={p:g}", partial(stream, p)
        yield f"a graph, p={p:g}", partial(graph, p)
    if torch.cuda.device_count() > 1:
        yield "the second GPU", second


def run(record: Record) -> str:
    torch.manual_seed(0)
    group(record, "sizes", _sizes(record))
    group(record, "index", _index(record))
    group(record, "strides", _strides(record))
    group(record, "magnitudes", _magnitudes(record))
    group(record, "not finite", _not_finite(record))
    group(record, "again", _again(record))
    group(record, "accuracy", _accuracy(record))
    if record.device == "cuda":
        group(record, "tiles", _tiles(record))
        group(record, "streams", _streams(record))
    return line(record)
