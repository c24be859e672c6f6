"""Compares the CUDA kernels with the specification: compiled for the CPU, and also on a GPU if there is one.

The emulated kernels are launched by gpu.py as on a GPU, with one call replaced; see cuda_on_cpu.h.
"""

import ctypes
import functools
import math
import os
import platform
import re
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import EXPONENTS, INF, LAYOUTS, SHAPES, assert_agrees, dist, gradient_tolerance, rows, value_tolerance
from torch._subclasses.fake_tensor import FakeTensorMode

import linf_plugin
from linf_plugin import info
from linf_plugin.float32.rules import POWER_UNITS
from linf_plugin.kernels import blocked, cuda, gpu, reference
from linf_plugin.ops.distance import kernels_for

LARGEST, SMALL = (8, 8), (2, 2)
MORE_EXPONENTS = (*EXPONENTS[:-1], 10.0, 24.0, 64.0, 1025.0, 1e12, INF)
DOUBLE_EXPONENTS = (1.0, 3.0, 8.0, 100.5, INF)
TILE_EXPONENTS = (8.0, 100.5, INF)
BEYOND_TILES = {  # (N, out, in): more than one tile of each size, stage and chunk
    "tiles": (130, 140, 100),
    "few-rows": (5, 200, 70),
    "few-weights": (150, 3, 129),
}


def kernels(dtype: torch.dtype, exponents: tuple[float, ...], tiles: tuple[tuple[int, int], ...]) -> list[str]:
    """Returns the instances that these exponents and tiles need."""
    kind, names = gpu._TYPES[dtype], []
    for tm, tn in tiles:
        for power in dict.fromkeys(map(gpu._power, (*exponents, INF))):
            largest, maximum = (tm, tn) == LARGEST, power == "Maximum"
            names += [f"dist<{kind}, {power}, {tm}, {tn}, false>"] * (maximum or not largest)
            names += [f"dist<{kind}, {power}, {tm}, {tn}, true>"] * (maximum and not largest)
            names += [f"dist_vjp<{kind}, {power}, {tm}, {tn}>"] * (not maximum and not largest)
    names += [f"again<{kind}, {power}>" for power in map(gpu._power, exponents) if power != "Maximum"]
    return [*names, f"locate<{kind}>", f"scatter<{kind}>"]


TILES = tuple(gpu.TILES[torch.float32])
EMULATED = dict.fromkeys(
    (
        *kernels(torch.float32, MORE_EXPONENTS, (SMALL,)),
        *kernels(torch.float32, TILE_EXPONENTS, TILES),
        *kernels(torch.float64, DOUBLE_EXPONENTS, (SMALL,)),
        "ceiling<float, Real, true>",
        "ceiling<float, Maximum, false>",
    )
)


class Emulator:
    """Stands for a GPU of 132 multiprocessors."""

    multiprocessors, index, target = 132, 0, "sm_90"

    def __init__(self, folder: Path):
        source, library = folder / "kernels.cpp", folder / "kernels.so"
        source.write_text(
            "\n".join(
                [
                    '#include "cuda_on_cpu.h"',
                    '#include "gpu_kernels.cu"',
                    "static const int registered = [] {",
                    *(f"    KERNEL({kernel});" for kernel in EMULATED),
                    "    return 0;",
                    "}();",
                    "",
                ]
            )
        )
        subprocess.run(
            [
                "g++",
                "-std=c++17",
                "-O1",
                "-fno-math-errno",
                "-U_FORTIFY_SOURCE",
                "-Wall",
                "-Werror",
                "-Wno-unknown-pragmas",
                f"-I{Path(__file__).parent}",
                f"-I{cuda.SOURCE.parent}",
                "-shared",
                "-fPIC",
                str(source),
                "-o",
                str(library),
            ],
            check=True,
        )
        self.run = ctypes.CDLL(str(library)).launch
        self.run.argtypes = [ctypes.c_char_p, ctypes.c_longlong, ctypes.c_longlong, ctypes.c_void_p]
        self.launched, self.first = [], 0  # first: the first block to run; −1: only the last

    def launch(self, kernel: str, blocks: int, parameters: ctypes.Array) -> None:
        assert 0 < blocks < 2**31
        first = range(blocks)[self.first]
        assert self.run(kernel.encode(), first, blocks, parameters) == 0, f"{kernel} is not in EMULATED"
        self.launched.append(kernel)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return Emulator(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def emulator(built, monkeypatch):
    built.launched, built.first = [], 0
    monkeypatch.setattr(cuda, "device", lambda index: built)
    for module in ("distance", "conv"):
        monkeypatch.setattr(f"linf_plugin.ops.{module}.kernels_for", lambda p, *tensors: gpu)
    return built


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The device of the tensors of a test."""
    if request.param == "cuda":
        assert gpu.takes(INF, torch.ones(1, 1, device="cuda")), gpu.available()
        return "cuda"
    request.getfixturevalue("emulator")
    return "cpu"


@pytest.fixture
def only(monkeypatch):
    """Restricts float32 to one tile, or to the smallest tile if a kernel cannot have the largest."""
    return lambda tile: monkeypatch.setitem(gpu.TILES, torch.float32, {tile: 1.0, SMALL: 1e6})


def _check(x, w, p, terms):
    assert_agrees(lambda x, w: linf_plugin.dist(x, w, p), lambda x, w: dist(x, w, p), (x, w), p, x.shape[1], terms)


cases_of_p = functools.partial(pytest.mark.parametrize, "p", ids=lambda p: f"p={p:g}")
few_p = cases_of_p((3.0, 8.0, 100.5, INF))
compiler = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the test extra brings NVRTC for x86-64"
)
each_type = pytest.mark.parametrize("dtype", gpu._TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


# Values and gradients.


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(
    "dtype, p",
    (*((torch.float32, p) for p in MORE_EXPONENTS), *((torch.float64, p) for p in DOUBLE_EXPONENTS)),
    ids=lambda v: f"p={v:g}" if isinstance(v, float) else str(v).removeprefix("torch."),
)
def test_all_shapes(device, p, dtype):
    for shape in SHAPES.values():
        _check(*rows(shape, dtype=dtype, device=device), p, max(shape[:2]))


@pytest.mark.usefixtures("poisoned_memory")
@cases_of_p(TILE_EXPONENTS)
@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "x".join(map(str, tile)))
@pytest.mark.parametrize("shape", BEYOND_TILES.values(), ids=BEYOND_TILES)
def test_each_tile(device, only, shape, tile, p):
    only(tile)
    _check(*rows(shape, device=device), p, max(shape[:2]))


@few_p
def test_results_depend_neither_on_the_tile_nor_on_the_run(device, only, p):
    x, w = rows((70, 140, 100), device=device)
    grad = torch.rand(70, 140, device=device)
    results = []
    for tile in (*TILES, SMALL) if p in TILE_EXPONENTS else (SMALL, SMALL):
        only(tile)
        y = gpu.dist(x, w, p)
        results.append((y, *gpu.dist_vjp(grad, x, w, y, p)))
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.usefixtures("poisoned_memory")
@few_p
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_any_strides(device, layout, p):
    x, w = rows((9, 20, 17), device=device)
    _check(layout(x), layout(w), p, 20)
    y, grad = gpu.dist(x, w, p), torch.rand(9, 20, device=device)
    expected = gpu.dist_vjp(grad, x, w, y, p)
    for got, h in zip(gpu.dist_vjp(layout(grad), layout(x), layout(w), layout(y), p), expected):
        if layout is not LAYOUTS["one-row-repeated"]:
            assert torch.equal(got, h)


@cases_of_p((1.5, 8.0))
def test_a_long_sum_is_split(device, p):
    """Many rows and few weights, as in a convolution."""
    assert gpu._splits(3, 8, 1600) == 3
    x, w = rows((1600, 3, 6), device=device)
    y = gpu.dist(x, w, p)
    grad = torch.rand_like(y) * 2 - 1
    got = gpu.dist_vjp(grad, x, w, y, p)
    x64, w64 = x.double(), w.double()
    expected = reference.dist_vjp(grad.double(), x64, w64, reference.dist(x64, w64, p), p)
    for g, h, terms in zip(got, expected, (3, 1600)):
        torch.testing.assert_close(g.double(), h, rtol=0, atol=gradient_tolerance(torch.float32, p, 6, terms, device))


@pytest.mark.parametrize(
    "rows_, width, count, splits",
    ((512, 5120, 5120, 1), (64, 576, 500_000, 28), (64, 27, 1_000_000, 256), (10, 10, 511, 1), (10, 10, 1024, 2)),
)
def test_splits(rows_, width, count, splits):
    assert gpu._splits(rows_, width, count) == splits


@cases_of_p(EXPONENTS)
@pytest.mark.parametrize("decades", ((-30, -30), (30, 30), (-30, 30)), ids=("1e-30", "1e30", "both"))
def test_no_power_over_or_underflows(device, decades, p):
    scale = torch.logspace(*decades, 70, dtype=torch.float64).float().to(device)
    x, w = (a * scale for a in rows((9, 20, 70), device=device))
    _check(x, w, p, 20)


@cases_of_p(MORE_EXPONENTS)
def test_a_few_pairs_far_closer_than_the_others(device, p):
    x, w = rows((40, 40, 70), device=device)
    w[::13] = x[::13] + 1e-7 * torch.randn_like(x[::13])
    w[1] = x[1]
    _check(x, w, p, 40)


@cases_of_p(MORE_EXPONENTS)
@pytest.mark.parametrize("place", (-149, -140, -128.5, -127.3, -126, -121, -118, 119, 126.9), ids="2^{}".format)
def test_distances_near_the_ends_of_the_range(device, place, p):
    """Differences start at the smallest subnormal number.  Some pairs are far closer than others."""
    x, w = (a.clamp(-2, 2) / 4 for a in rows((5, 20, 9), device=device, dtype=torch.float64))
    w[::3] = x[:1] + (w[::3] - x[:1]) * 2**-6
    scale = 2.0**place
    x, w = (x * scale).float(), (w * scale).float()
    y, exact = gpu.dist(x, w, p), reference.dist(x.double(), w.double(), p)
    far = exact < 2.0**127
    units = 2.0**-24 if p == INF else (POWER_UNITS + 9 / p) * 2.0**-24
    assert ((y - exact).abs() <= units * exact + 2.0**-149)[far].all()
    if p < 2000 and far.all():  # for a larger p, the rounding of a difference decides
        grad = torch.rand_like(y) - 0.5
        expected = reference.dist_vjp(grad.double(), x.double(), w.double(), y.double(), p)
        for g, h in zip(gpu.dist_vjp(grad, x, w, y, p), expected):
            torch.testing.assert_close(g.double(), h, rtol=0, atol=gradient_tolerance(torch.float32, p, 9, 20))


@cases_of_p((64.0, 100.5, 1000.0))
def test_large_p_of_terms_that_are_all_visible(device, p):
    x, w = torch.zeros(3, 300, device=device), torch.randint(0, 2, (5, 300), device=device) * 2.0 - 1
    expected = torch.full((3, 5), 300 ** (1 / p), dtype=torch.float64, device=device)
    torch.testing.assert_close(
        gpu.dist(x, w, p).double(), expected, rtol=value_tolerance(torch.float32, p, 300, device), atol=0
    )


@each_type
@cases_of_p(DOUBLE_EXPONENTS)
def test_numbers_that_are_not_finite(device, p, dtype):
    x, w = rows((9, 70, 40), dtype=dtype, device=device)
    x[1, 3], x[2, 39], x[3, 5], x[4, 0] = INF, -INF, math.nan, INF
    w[7, 39], w[66, 3], w[69, 38] = -INF, INF, math.nan
    y, expected = gpu.dist(x, w, p), reference.dist(x, w, p)
    torch.testing.assert_close(y, expected, rtol=2 * value_tolerance(dtype, p, 40, device), atol=0, equal_nan=True)
    grad = torch.rand_like(y)
    grad[:, [7, 66]] = 0  # infinities on both sides give NaN for some coordinates and not for others
    for g, h in zip(gpu.dist_vjp(grad, x, w, y, p), reference.dist_vjp(grad, x, w, expected, p)):
        if p < INF:
            torch.testing.assert_close(g, h, rtol=0, atol=gradient_tolerance(dtype, p, 40, 70, device), equal_nan=True)


@cases_of_p((100.5, 1e9, 1e12, 1e38))
def test_ratios_a_few_units_above_1_overflow_at_no_p(emulator, p):
    """A GPU's reciprocal has an error of up to a unit in the last place, and so has the number that it scales."""
    x, w = rows((9, 20, 33))
    for units in range(4):
        y = gpu.dist(x, w, INF)
        low = y.view(torch.int32).sub(units).view(torch.float32)
        y.copy_(low)
        packed, exponent = map(gpu._packed, (x, w)), min(p, gpu.MOST_P)
        cuda.launch("dist<float, Real, 2, 2, false>", 1, *packed, y, None, 9, 20, 36, exponent)
        assert (y >= low).all() and (y <= low * 33 ** (1 / p) * 1.00001).all()
        for g, terms in zip(gpu.dist_vjp(torch.ones_like(y), x, w, low, p), (20, 9)):
            assert (g.abs() <= terms * 1.00001).all()  # each slope is at most 1


def test_a_nan_stays_at_every_p(emulator):
    x, w = rows((3, 4, 5))
    x[1, 2] = math.nan
    for p in (1.5, 100.5, 1e12):
        y = gpu.dist(x, w, p)
        assert y[1].isnan().all() and y[[0, 2]].isfinite().all()
        gx, _ = gpu.dist_vjp(torch.ones_like(y), x, w, torch.ones_like(y), p)
        assert gx[1, 2].isnan() and gx[[0, 2]].isfinite().all()


# p = ∞.


@each_type
@pytest.mark.parametrize(
    "shape", (*SHAPES.values(), *BEYOND_TILES.values(), (3, 600, 9)), ids=(*SHAPES, *BEYOND_TILES, "many-weights")
)
def test_the_index_is_that_of_blocked(device, shape, dtype):
    x, w = rows(shape, dtype=dtype, device=device)
    if min(shape[:2]) > 1:
        w[1], x[0, -1:] = x[1], math.nan
    y, index = gpu.dist_with_index(x, w)
    assert torch.equal(y.nan_to_num(-1), gpu.dist(x, w, INF).nan_to_num(-1))
    assert torch.equal(index, blocked.dist_with_index(x, w)[1])
    grad = torch.randint(-9, 10, y.shape, device=device).to(dtype)
    for g, h in zip(gpu.index_vjp(grad, index, shape[2]), blocked.index_vjp(grad, index, shape[2])):
        assert torch.equal(g, h)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "x".join(map(str, tile)))
def test_ties_go_to_the_lowest_coordinate(device, only, tile):
    """There are few different numbers, so nearly every maximum occurs several times, with both signs."""
    only(tile)
    x, w = (torch.randint(-2, 3, (n, 100), device=device).float() for n in (70, 67))
    y, index = gpu.dist_with_index(x, w)
    difference = x[:, None] - w
    at = difference.abs().max(-1).indices
    sign = difference.gather(-1, at[..., None])[..., 0]
    assert torch.equal(index, (4 * at + (sign < 0)).int())
    assert torch.equal(y, reference.dist(x, w, INF))
    grad = torch.randint(-9, 10, y.shape, device=device).float()  # sums of whole numbers are exact
    for g, h in zip(gpu.dist_vjp(grad, x, w, y, INF), reference.dist_vjp(grad, x, w, y, INF)):
        assert torch.equal(g, h)


def test_rows_longer_than_a_block_of_scatter(device):
    x, w = rows((2, 3, gpu.RANGE + 5), device=device)
    x[0, -1], x[1, gpu.RANGE - 1], w[2, gpu.RANGE] = 99, -99, 999
    _check(x, w, INF, 3)


def test_gradients_that_are_not_wanted_are_not_computed(device):
    x, w = rows((3, 4, 5), device=device)
    for p in (8.0, INF):
        y, grad = gpu.dist(x, w, p), torch.rand(3, 4, device=device)
        both = gpu.dist_vjp(grad, x, w, y, p)
        for wanted in ((True, False), (False, True), (False, False)):
            for g, want, expected in zip(gpu.dist_vjp(grad, x, w, y, p, wanted), wanted, both):
                assert torch.equal(g, expected) if want else g is None


# Offsets beyond 32 bits: in sparse files, the last block touches only a few pages.


def _sparse(folder, name, *shape):
    return torch.from_file(str(folder / name), shared=True, size=math.prod(shape), dtype=torch.float32).view(shape)


def test_more_results_than_32_bits_count(emulator, only, tmp_path):
    only(SMALL)
    n = out = 60_000
    x, w = rows((n, out, 4))
    y, index = _sparse(tmp_path, "y", n, out), _sparse(tmp_path, "index", n, out).view(torch.int32)
    emulator.first = -1
    for p, at in ((INF, index), (8.0, None)):
        gpu._dist(x, w, p, y, at)
        expected = reference.dist(x[-32:].double(), w[-32:].double(), p)
        rtol = value_tolerance(torch.float32, p, 4) + 1e-7  # at p = ∞ float64 rounds x − w differently
        torch.testing.assert_close(y[-32:, -32:].double(), expected, rtol=rtol, atol=0)
    _, located = blocked.dist_with_index(x[-1:], w[-8:])
    assert torch.equal(index[-1:, -8:], located)


def test_rows_longer_than_32_bits_reach(emulator, only, tmp_path):
    only(SMALL)
    n, features = 60_000, 40_000
    x, to = _sparse(tmp_path, "x", n, features), _sparse(tmp_path, "to", n, features)
    x[-4:, -32:] = torch.randn(4, 32)
    w, y, grad = torch.zeros(1, features), torch.full((1, n), 3.0), torch.rand(1, n)
    index = torch.full((n, 1), 4 * features - 3, dtype=torch.int32)
    emulator.first = -1
    blocks = gpu._parts(n, 32) * gpu._parts(features, 32)
    cuda.launch("dist_vjp<float, Whole<8>, 2, 2>", blocks, x, w, grad, y, to, n, 1, features, n, 1, 8.0)
    expected = (x[-4:, -32:] / 3) ** 7 * grad[0, -4:, None]
    torch.testing.assert_close(to[-4:, -32:], expected, rtol=1e-5, atol=0)
    cuda.launch("scatter<float>", n * gpu._parts(features, gpu.RANGE), grad, index, to, n, 1, features, 1.0)
    assert to[-1, -1] == -grad[0, -1] and not to[-1, -30:-1].any()
    cuda.launch("dist<float, Maximum, 2, 2, false>", gpu._parts(n, 32), x, w, y, None, n, 1, features, INF)
    assert torch.equal(y[0, -4:], x[-4:, -32:].abs().amax(1))


# The launches.


@pytest.mark.parametrize(
    "rows_, columns, multiprocessors, expected",
    (
        (4096, 4096, 132, LARGEST),
        (512, 5120, 132, (8, 4)),
        (3, 5, 132, SMALL),
        (128, 10, 132, SMALL),
        (4096, 4096, 8, LARGEST),
    ),
)
def test_the_tile_fits_the_chip(rows_, columns, multiprocessors, expected):
    tm, tn, blocks = gpu.tile(rows_, columns, gpu.TILES[torch.float32], multiprocessors)
    assert (tm, tn) == expected
    assert blocks == math.ceil(rows_ / (16 * tm)) * math.ceil(columns / (16 * tn))


@pytest.mark.parametrize(
    "p, launched",
    (
        (INF, ["dist<float, Maximum, 2, 2, false>"]),
        (8.0, ["dist<float, Maximum, 2, 2, false>", "dist<float, Whole<8>, 2, 2, false>", "again<float, Whole<8>>"]),
        (100.5, ["dist<float, Maximum, 2, 2, false>", "dist<float, Real, 2, 2, false>", "again<float, Real>"]),
    ),
)
def test_what_is_launched(emulator, p, launched):
    gpu.dist(*rows((3, 4, 5)), p)
    assert emulator.launched == launched


@pytest.mark.parametrize("p, backward", ((INF, False), (1.5, True)))
def test_the_loops_of_ceiling_run(emulator, p, backward):
    numbers = torch.linspace(1, 0.1, 2 * cuda.THREADS)  # falling, so that all differences are negative
    before = numbers.clone()
    cuda.launch(f"ceiling<float, {gpu._power(p)}, {str(backward).lower()}>", 1, numbers, 3, 0.0, p)
    assert (numbers[0] < 0) == backward and torch.equal(numbers[1:], before[1:])


def test_ceiling_refuses_what_has_none():
    for p, backward in ((INF, True), (0.5, False), (math.nan, False)):
        with pytest.raises(ValueError, match="p must be|scatter"):
            gpu.ceiling(p, backward)


def _tensor(device="cuda", dtype=torch.float32, shape=(2, 3)):
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(shape, dtype=dtype, device=device)


@pytest.mark.parametrize(
    "tensors, p, taken",
    (
        ((_tensor(), _tensor()), 2.0, True),
        ((_tensor(dtype=torch.float64),), INF, True),
        ((_tensor(), _tensor(dtype=torch.float64)), 2.0, False),
        ((_tensor(), _tensor("cpu")), 2.0, False),
        ((_tensor(), _tensor("cuda:1")), 2.0, False),
        ((_tensor(dtype=torch.float16),), 2.0, False),
        ((_tensor("cpu"),), 2.0, False),
        ((_tensor("meta"),), 2.0, False),
        ((_tensor(),), 0.5, False),
        ((_tensor(),), math.nan, False),
        ((_tensor(shape=(1, gpu.MOST_FEATURES)),), INF, False),
    ),
)
def test_what_the_kernels_take(tensors, p, taken, monkeypatch):
    monkeypatch.setattr(gpu, "_usable", lambda index: True)
    assert gpu.takes(p, *tensors) == taken


def test_kernels_are_available_where_one_runs(emulator, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.Tensor, "to", lambda a, device: a.clone())  # not to "cuda:0"
    assert gpu.available() == gpu.available(0) == (True, "compiled for sm_90")
    assert emulator.launched == ["dist<float, Maximum, 2, 2, true>", "locate<float>", *["scatter<float>"] * 2] * 2


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("broken", ("locate<float>", "scatter<float>"))
def test_kernels_that_compute_nothing_are_not_available(emulator, monkeypatch, broken):
    run = emulator.launch
    monkeypatch.setattr(emulator, "launch", lambda kernel, *rest: kernel == broken or run(kernel, *rest))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "to", lambda a, device: a.clone())
    assert gpu.available(0) == (False, "the kernels compute wrong results on this GPU")


def test_the_first_distance_is_not_captured_nor_are_the_kernels_given_up_for_it(monkeypatch):
    monkeypatch.setattr(gpu, "_usable", functools.cache(gpu._usable.__wrapped__))
    monkeypatch.setattr(gpu, "available", lambda index: (True, "compiled for sm_90"))
    monkeypatch.setattr(cuda, "capturing", lambda: True)
    with pytest.raises(RuntimeError, match="compute one before the capture"):
        gpu.takes(INF, _tensor())
    monkeypatch.setattr(cuda, "capturing", lambda: False)
    assert gpu.takes(INF, _tensor())


def test_nothing_is_compiled_while_a_graph_is_captured(monkeypatch):
    device = object.__new__(cuda.Device)
    device.functions, device.lock = {"locate<float>": "function"}, cuda.threading.Lock()
    monkeypatch.setattr(cuda, "capturing", lambda: True)
    assert device.function("locate<float>") == "function"
    with pytest.raises(RuntimeError, match="run the same call once before"):
        device.function("scatter<float>")


@pytest.mark.parametrize(
    "error, reason",
    (
        (ModuleNotFoundError("No module named 'cuda.bindings'"), "No module named 'cuda.bindings'"),
        (RuntimeError("CUDA_ERROR_INVALID_IMAGE"), "CUDA_ERROR_INVALID_IMAGE"),
        (OSError("libnvrtc.so.13:\n not found"), "libnvrtc.so.13: not found"),
    ),
)
def test_without_the_kernels_there_is_one_warning(error, reason, monkeypatch):
    def device(index):
        raise error

    monkeypatch.setattr(cuda, "device", device)
    monkeypatch.setattr(gpu, "_usable", functools.cache(gpu._usable.__wrapped__))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert not gpu.takes(INF, _tensor())
            assert kernels_for(INF, _tensor()) is blocked
    assert [(c.category, str(c.message)) for c in caught] == [
        (RuntimeWarning, f"linf_plugin runs many times slower, without its GPU kernels: {reason}")
    ]
    assert f"GPU      Some GPU: blocked PyTorch, {reason}" in info.report()


def test_info_says_that_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "GPU      blocked PyTorch, no CUDA device" in info.report()


def test_a_launch_goes_to_the_stream_and_its_failure_is_told(monkeypatch):
    class Code(int):
        name = "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"

    class Fake:
        calls = []

        def cuCtxPushCurrent(self, context):
            self.calls.append(("push", context))
            return (Code(0),)

        def cuCtxPopCurrent(self):
            self.calls.append(("pop",))
            return Code(0), None

        def cuLaunchKernel(self, *arguments):
            self.calls.append(("launch", *arguments))
            return (Code(arguments[1] == 99),)

    device = object.__new__(cuda.Device)
    device.driver, device.index, device.target, device.context = Fake(), 3, "sm_90", "context"
    device.functions, device.lock = {"scatter<float>": "function"}, cuda.threading.Lock()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=1000 + index))
    parameters = (ctypes.c_void_p * 1)()
    device.launch("scatter<float>", 7, parameters)
    assert device.driver.calls == [
        ("push", "context"),
        ("launch", "function", 7, 1, 1, cuda.THREADS, 1, 1, 0, 1003, ctypes.addressof(parameters), 0),
        ("pop",),
    ]
    with pytest.raises(RuntimeError, match="scatter<float>, 99 blocks, GPU 3 .*LAUNCH_OUT_OF_RESOURCES"):
        device.launch("scatter<float>", 99, parameters)
    assert device.driver.calls[-1] == ("pop",)


DRIVEN = """
import ctypes, types, torch
from linf_plugin.kernels import cuda
torch.cuda.get_device_capability = lambda index: (9, 0)
torch.cuda.get_device_properties = lambda index: types.SimpleNamespace(multi_processor_count=132)
torch.cuda.current_stream = lambda index: types.SimpleNamespace(cuda_stream=0xABC)
cuda.device = lambda index: device
device, to = cuda.Device(3), torch.zeros(4)
grad, index = torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int32)
cuda.launch("scatter<float>", 7, grad, None, to, 2, -3, 4, 0.5)
try:
    cuda.launch("scatter<float>", 99, grad, index, to, 2, -3, 4, 0.5)
except RuntimeError as error:
    print(error)
print(*(a.data_ptr() for a in (grad, index, to)))
print(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL("libcuda.so.1"), "recorded"))).decode())
"""


@compiler
def test_the_driver_is_given_what_was_meant(tmp_path):
    """Calls the real cuda-bindings, with a driver library that records its arguments."""
    source = Path(__file__).with_name("driver_on_cpu.c")
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wall", "-Werror", str(source), "-o", str(library)], check=True)
    done = subprocess.run(
        [sys.executable, "-c", DRIVEN],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LD_LIBRARY_PATH": f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"},
        cwd=Path(linf_plugin.__file__).parents[1],
    )
    error, addresses, *calls = done.stdout.splitlines()
    grad, index, to = addresses.split()
    assert error == "scatter<float>, 99 blocks, GPU 3 (sm_90): CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"
    assert calls[:6] == [
        "init 0",
        "device 3",
        "retain 3",
        "push 0x1003",
        "load ELF",
        "function 0x2000 _Z7scatterIfEvPKT_PKiPS0_xxxd",
    ]
    half = str(int.from_bytes(struct.pack("<d", 0.5), "little"))
    for first, blocks, at in ((6, "7", "0"), (9, "99", index)):
        grid, rest = [blocks, "1", "1", "256", "1", "1"], ["0", "0xabc", "1"]  # no shared memory, stream, no extra
        assert calls[first].split() == ["launch", "0x3000", *grid, *rest, grad, at, to, "2", "-3", "4", half]
    assert calls[7:9] == ["pop", "push 0x1003"] and calls[10:] == ["pop", ""]


# The compiler, which needs no GPU.

COMPILED = dict.fromkeys(
    (
        *kernels(torch.float32, (10.0, 100.5), TILES),
        *kernels(torch.float64, (10.0, 100.5), (SMALL,)),
        *(f"ceiling<float, {power}, false>" for power in ("Maximum", "Whole<10>", "Real")),
        *(f"ceiling<float, {power}, true>" for power in ("Whole<10>", "Real")),
    )
)


@compiler
@pytest.mark.parametrize("target", ("sm_75", "sm_80", "sm_90", "sm_100"))
def test_every_kernel_compiles_and_keeps_its_numbers_in_registers(target):
    for kernel in COMPILED:
        binary, name, log = cuda.compile_kernel(kernel, target, "--ptxas-options=-v")
        assert binary.startswith(b"\x7fELF") and name in binary, kernel
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in log, f"{kernel}: {log}"
        assert int(re.search(r"Used (\d+) registers", log)[1]) <= 255 and "warning" not in log, f"{kernel}: {log}"


@compiler
def test_the_compiler_tells_what_is_wrong():
    with pytest.raises(RuntimeError, match="nothing<float> for sm_90: NVRTC_ERROR_.* nothing"):
        cuda.compile_kernel("nothing<float>", "sm_90")


@compiler
def test_a_gpu_that_the_compiler_does_not_know_is_refused():
    with pytest.raises(RuntimeError, match="sm_50: .*gpu-architecture"):
        cuda.compile_kernel("locate<float>", "sm_50")


# Tests that need a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("p", (8.0, INF), ids=lambda p: f"p={p:g}")
def test_work_waits_for_the_stream_it_was_given_to(p):
    x, w = rows((512, 256, 300), device="cuda")
    expected = gpu.dist(x, w, p)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10**8)
        x2 = x.clone()  # on the stream, after the sleep
        y = gpu.dist(x2, w, p)
    stream.synchronize()
    assert torch.equal(y, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("p", (8.0, 100.5, INF), ids=lambda p: f"p={p:g}")
def test_a_graph_captures_forward_and_backward(p):
    x, w = rows((100, 70, 60), device="cuda")
    grad = torch.rand(100, 70, device="cuda")

    def step():
        y = gpu.dist(x, w, p)
        return y, *gpu.dist_vjp(grad, x, w, y, p)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert all(map(torch.equal, results, step()))


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu():
    x, w = rows((30, 40, 50))
    y = gpu.dist(x.to("cuda:1"), w.to("cuda:1"), 8.0)
    assert y.device == torch.device("cuda:1") and torch.cuda.current_device() == 0
    torch.testing.assert_close(y.cpu(), reference.dist(x, w, 8.0))


@pytest.mark.gpu
@pytest.mark.parametrize("p, backward", ((8.0, False), (8.0, True), (100.5, True), (INF, False)))
def test_ceiling_on_a_gpu(p, backward):
    assert 1e9 < gpu.ceiling(p, backward) < 1e15
