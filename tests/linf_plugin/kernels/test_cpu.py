"""Compares the compiled kernels with the specification, for each instruction set of this machine."""

import contextlib
import functools
import json
import math
import mmap
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import (
    EXPONENTS,
    INF,
    SHAPES,
    assert_agrees,
    box,
    box_dist,
    dist,
    each_dtype,
    each_p,
    few_p,
    rows,
    value_tolerance,
)

import linf_plugin
from linf_plugin import info
from linf_plugin.kernels import blocked, cpu, reference

linf = torch.ops.linf
ROOT = Path(linf_plugin.__file__).parents[1]

# Another routine starts at these p: at 1.01 the logarithm of 0 times p − 1 is small; 24, 32, 64, 1024 are limits.
BORDERS = (1.01, 5.5, 12.0, 16.0, 24.5, 32.0, 33.0, 63.5, 64.0, 1024.0, 1025.0)
BEYOND_TILES = {  # (N, out, in): more than one panel, tile, block of coordinates; either side packed
    "panels": (130, 70, 300),
    "few-rows": (5, 200, 70),
    "few-weights": (150, 3, 129),
    "windows": (300, 40, 27),
    "searched": (130, 40, 450),
    "searched-windows": (260, 9, 333),  # beyond the index that tiles keep
}
# One p of each sort of terms: compiled for both dtypes, for float32, real, whole, both of them if p is large, ∞.
EACH_SORT = (2.0, 3.0, 5.5, 33.0, 100.5, 1000.0, INF)
SNAPPED = [2.0**k * f for k in range(3, 10) for f in (1, 1.25, 1.5)]  # p of a schedule; 1024 is above


@pytest.fixture(params=cpu.levels() or [pytest.param("none", marks=pytest.mark.skip("the kernels are not built"))])
def level(request):
    with cpu.using(request.param):
        yield request.param


def _check_points(x, w, p, terms, under=(contextlib.nullcontext,)):
    assert cpu.takes(p, x, w)
    points = (lambda x, w: linf_plugin.dist(x, w, p)), (lambda x, w: dist(x, w, p))
    assert_agrees(*points, (x, w), p, x.shape[1], terms, under)


def _check(x, w, p, terms, under=(contextlib.nullcontext,)):
    _check_points(x, w, p, terms, under)
    boxes = (lambda *a: linf.box_dist(*a, p)), (lambda *a: box_dist(*a, p))
    assert_agrees(*boxes, (*box(x), w), p, x.shape[1], 2 * terms, under)


@pytest.mark.usefixtures("poisoned_memory")
@each_dtype
@each_p
def test_all_shapes(level, p, dtype):
    for shape in SHAPES.values():
        _check(*rows(shape, dtype=dtype), p, max(shape[:2]))


@each_dtype
@pytest.mark.parametrize(
    "shape, p",
    [
        *((shape, p) for shape in BEYOND_TILES for p in EACH_SORT),
        *(("panels", p) for p in (*EXPONENTS, *BORDERS) if p not in EACH_SORT),
    ],
    ids=lambda value: value if isinstance(value, str) else f"p={value:g}",
)
@pytest.mark.skipif(not cpu.levels(), reason="the kernels are not built")
def test_beyond_one_tile(shape, p, dtype):
    """Every level is tested.  The specification takes most of the time, so it is computed once."""
    levels = [functools.partial(cpu.using, level) for level in cpu.levels()]
    shape = BEYOND_TILES[shape]
    _check(*rows(shape, dtype=dtype), p, max(shape[:2]), levels)


@each_dtype
@pytest.mark.parametrize(  # without p = 1.01: (1e-60)^0.01 matters, but float32 cannot hold 1e-60
    "p", (*EXPONENTS, *BORDERS[1:]), ids=lambda p: f"p={p:g}"
)
@pytest.mark.parametrize("decades", ((-30, -30), (30, 30), (-30, 30)), ids=("1e-30", "1e30", "both"))
def test_no_power_over_or_underflows(level, decades, p, dtype):
    scale = torch.logspace(*decades, 70, dtype=torch.float64).to(dtype)
    x, w = (a * scale for a in rows((9, 20, 70), dtype=dtype))
    _check_points(x, w, p, 20)
    # The ends are far from w on the scale of each coordinate: a rounding error must not decide which is farther.
    lower, upper = x - 2 * scale, x + 9 * scale
    assert_agrees(lambda *a: linf.box_dist(*a, p), lambda *a: box_dist(*a, p), (lower, upper, w), p, 70, 40)


@each_dtype
@each_p
def test_a_few_pairs_far_closer_than_the_others(level, p, dtype):
    """Distances of 1e-7 and 0 are among distances of 1.  Only the sums of the small ones underflow and are repeated."""
    x, w = rows((40, 40, 70), dtype=dtype)
    w[::13] = x[::13] + 1e-7 * torch.randn_like(x[::13])
    w[1] = x[1]
    _check_points(x, w, p, 40)


@pytest.mark.parametrize("p", SNAPPED, ids=lambda p: f"p={p:g}")
@pytest.mark.parametrize("decades", ((-2, -2), (0, 0), (5, 5), (-9, 9)), ids=("small", "ones", "large", "spread"))
def test_snapped_exponents(level, decades, p):
    """A power of two is factored out for units of 1e-2 and 1e5; distances from 1e-9 to 1e9 share no such power."""
    unit = torch.logspace(*decades, 30)
    x, w = rows((70, 30, 150))
    w *= unit[:, None]
    x[:30] *= unit[:, None]
    _check_points(x, w, p, 70)
    x, w, grad = x[:30], w[:30], torch.randn(30, 30, dtype=torch.float64)
    exact = reference.dist(x.double(), w.double(), p)
    assert ((cpu.dist(x, w, p) - exact) / exact).abs().max() <= 1e-6
    if p == 8:
        expected = reference.dist_vjp(grad, x.double(), w.double(), exact, p)
        for g, h in zip(cpu.dist_vjp(grad.float(), x, w, cpu.dist(x, w, p), p), expected):
            assert (g - h).norm() <= 1e-5 * h.norm()


@pytest.mark.parametrize("p", (8.0, 48.0, 96.0), ids=lambda p: f"p={p:g}")
def test_a_large_coordinate_that_all_share(level, p):
    """Distances are small, but no power of two can be factored out: the shared coordinate would overflow."""
    x, w = (1e-4 * a for a in rows((20, 30, 40)))
    x[:, 3] = w[:, 3] = 3e38
    _check_points(x, w, p, 30)


@each_dtype
@pytest.mark.parametrize("p", (64.0, 100.5, 1000.0), ids=lambda p: f"p={p:g}")
def test_large_p_of_terms_that_are_all_visible(level, p, dtype):
    x, w = torch.zeros(3, 300, dtype=dtype), torch.randint(0, 2, (5, 300)).to(dtype) * 2 - 1
    expected = torch.full((3, 5), 300 ** (1 / p), dtype=torch.float64)
    torch.testing.assert_close(
        cpu.dist(x, w, p).double(), expected, rtol=value_tolerance(dtype, p, features=300), atol=0
    )


@each_dtype
@pytest.mark.parametrize("features", (300, 450))
def test_ties_go_to_the_lowest_coordinate(level, dtype, features):
    """There are few different numbers, so nearly every maximum occurs several times, with both signs."""
    x, w = (torch.randint(-2, 3, (n, features)).to(dtype) for n in (70, 67))
    y, index = cpu.dist_with_index(x, w)
    difference = x[:, None] - w
    at = difference.abs().max(-1).indices
    sign = difference.gather(-1, at[..., None])[..., 0]
    assert torch.equal(index, (4 * at + (sign < 0)).int())
    assert torch.equal(y, reference.dist(x, w, INF))
    grad = torch.randint(-9, 10, y.shape).to(dtype)  # sums of whole numbers are exact
    for g, h in zip(cpu.dist_vjp(grad, x, w, y, INF), reference.dist_vjp(grad, x, w, y, INF)):
        assert torch.equal(g, h)
    lower, upper = x - torch.randint(0, 2, x.shape), x + torch.randint(0, 2, x.shape)
    ranges = cpu.box_dist(lower, upper, w, INF)
    for some in (grad, grad * (torch.rand(grad.shape) < 0.05)):  # pairs without a gradient are left out
        arguments = (some, some.flip(0), lower, upper, w, *ranges, INF)
        for g, h in zip(cpu.box_dist_vjp(*arguments), reference.box_dist_vjp(*arguments)):
            assert torch.equal(g, h)


@each_dtype
@pytest.mark.parametrize("shape", (*SHAPES.values(), *BEYOND_TILES.values()), ids=(*SHAPES, *BEYOND_TILES))
def test_the_index_is_that_of_blocked(level, shape, dtype):
    x, w = rows(shape, dtype=dtype)
    if min(shape[:2]) > 1:
        w[1], x[0, -1:] = x[1], math.nan
    y, index = cpu.dist_with_index(x, w)
    assert torch.equal(y.nan_to_num(-1), cpu.dist(x, w, INF).nan_to_num(-1))
    assert torch.equal(index, blocked.dist_with_index(x, w)[1])
    grad = torch.randint(-9, 10, y.shape).to(dtype)
    for g, h in zip(cpu.index_vjp(grad, index, shape[2]), blocked.index_vjp(grad, index, shape[2])):
        assert torch.equal(g, h)


@each_dtype
@pytest.mark.parametrize("shape", (*SHAPES.values(), *BEYOND_TILES.values()), ids=(*SHAPES, *BEYOND_TILES))
def test_ranges_at_infinity_are_exact(level, shape, dtype):
    """Each difference is rounded once.  Zero is +0, also if weights are ends of boxes and are −0."""
    x, w = rows(shape, dtype=dtype)
    for a, b in ((x, w), (x.round(), w.round()), (0 * x, -0.0 * w.abs())):
        for lower, upper in (box(a), (a, a), (a - 1, a), (a, a + 1)):
            for got, expected in zip(cpu.box_dist(lower, upper, b, INF), reference.box_dist(lower, upper, b, INF)):
                assert torch.equal(got, expected) and not got.signbit().any()


@each_dtype
@pytest.mark.parametrize("p", (*EXPONENTS, 48.0, 128.0), ids=lambda p: f"p={p:g}")
@pytest.mark.parametrize("features", (40, 450))
def test_numbers_that_are_not_finite(level, features, p, dtype):
    x, w = rows((9, 70, features), dtype=dtype)
    x[1, 3], x[2, 39], x[3, 5], x[4, 0] = INF, -INF, math.nan, INF
    w[7, 39], w[66, 3], w[69, 38] = -INF, INF, math.nan
    for got, expected in (
        (cpu.dist(x, w, p), reference.dist(x, w, p)),
        *zip(cpu.box_dist(x - 1, x + 1, w, p), reference.box_dist(x - 1, x + 1, w, p)),
        *zip(cpu.box_dist(-x.abs(), x.abs(), w, p), reference.box_dist(-x.abs(), x.abs(), w, p)),
    ):
        rtol = 2 * value_tolerance(dtype, p, features)
        torch.testing.assert_close(got, expected, rtol=rtol, atol=0, equal_nan=True)
    if p == INF:
        y, index = cpu.dist_with_index(x, w)
        torch.testing.assert_close(y, reference.dist(x, w, p), rtol=0, atol=0, equal_nan=True)
        assert torch.equal(index < 0, y.isnan())


def _everything(p, threads):
    """All results for one problem that is large enough for several threads."""
    torch.manual_seed(1)
    x, w = rows((300, 210, 300))
    lower, upper = box(x)
    grad = torch.rand(300, 210)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, ranges = cpu.dist(x, w, p), cpu.box_dist(lower, upper, w, p)
        narrow = cpu.dist(x[:, :9], w[:, :9], p)  # few coordinates: its gradient is summed in slices of x
        return (
            y,
            *ranges,
            narrow,
            *cpu.dist_with_index(x, w),
            *cpu.dist_vjp(grad, x, w, y, p),
            *cpu.dist_vjp(grad, x[:, :9], w[:, :9], narrow, p),
            *cpu.box_dist_vjp(grad, grad, lower, upper, w, *ranges, p),
        )
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("p", (1.0, 3.0, 5.5, 8.0, 48.0, 128.0, 100.5, INF), ids=lambda p: f"p={p:g}")
def test_results_do_not_depend_on_the_number_of_threads(level, p):
    alone = _everything(p, 1)
    for threads in (2, 5):
        assert all(map(torch.equal, _everything(p, threads), alone))


def test_calls_from_several_threads():
    expected, results = _everything(8.0, 2), {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: cpu.dist(*inputs, 8.0)})) for i in range(4)]
    torch.manual_seed(1)
    inputs = rows((300, 210, 300))
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(torch.equal(results[i], expected[0]) for i in range(4))


def test_offsets_beyond_32_bits():
    """x or w has more than 2^31 elements.  The zeros take no memory, because only the last row is written."""
    rows, features = (1 << 17) + 1, 1 << 14
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, 4 * rows * features, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):  # 4 thousand pages, not 2 million
        memory.madvise(mmap.MADV_HUGEPAGE)
    many = torch.frombuffer(memory, dtype=torch.float32).view(rows, features)
    one = torch.zeros(1, features)
    one[0, 5], many[-1, 7] = 1, 3
    for x, w in ((many, one), (one, many)):
        y, index = (a.flatten() for a in cpu.dist_with_index(x, w))
        assert (y[:-1] == 1).all() and y[-1] == 3
        at, last = (20, 29) if x is one else (21, 28)
        assert (index[:-1] == at).all() and index[-1] == last
        wanted = (x is one, w is one)  # the gradient of the other is as large
        grad = torch.ones(len(x), len(w))
        g = cpu.dist_vjp(grad, x, w, cpu.dist(x, w, 2.0), 2.0, wanted)[w is one]
        assert g[0, 5] == pytest.approx(rows - 1 + 10**-0.5) and g[0, 7] == pytest.approx(-3 * 10**-0.5)


@few_p
def test_gradients_that_are_not_wanted_are_not_computed(p):
    x, w = rows((3, 4, 5))
    y, grad = cpu.dist(x, w, p), torch.rand(3, 4)
    both = cpu.dist_vjp(grad, x, w, y, p)
    for wanted in ((True, False), (False, True), (False, False)):
        for g, want, expected in zip(cpu.dist_vjp(grad, x, w, y, p, wanted), wanted, both):
            assert torch.equal(g, expected) if want else g is None


@pytest.mark.parametrize(
    "x, w, p, taken",
    (
        (torch.ones(2, 3), torch.ones(4, 3), 2.0, True),
        (torch.ones(2, 3).double(), torch.ones(4, 3).double(), INF, True),
        (torch.ones(2, 3), torch.ones(4, 3).double(), 2.0, False),
        (torch.ones(2, 3).half(), torch.ones(4, 3).half(), 2.0, False),
        (torch.ones(2, 3, device="meta"), torch.ones(4, 3, device="meta"), 2.0, False),
        (torch.ones(2, 3), torch.ones(4, 3), 0.5, False),
        (torch.ones(2, 3), torch.ones(4, 3), math.nan, False),
        (torch.ones(1, 1).expand(1, cpu.MOST_FEATURES), torch.ones(1, 1).expand(1, cpu.MOST_FEATURES), INF, False),
    ),
)
def test_what_the_kernels_take(x, w, p, taken):
    assert cpu.takes(p, x, w) == taken


@pytest.mark.parametrize(
    "p, backward",
    (*((p, False) for p in (1.0, 3.0, 8.0, 48.0, 7.0, 100.5, INF)), *((p, True) for p in (1.0, 3.0, 8.0, 7.0, 100.5))),
    ids=lambda a: f"{a:g}",
)
def test_ceiling(level, p, backward):
    """If the compiler removed the loop's work, it would do far more than two additions or products a lane and cycle."""
    assert 1e7 < cpu.ceiling(p, backward, threads=1) < 2 * 16 * 6e9


def test_ceiling_names_a_wrong_argument():
    with pytest.raises(ValueError, match="backward"):
        cpu.ceiling(INF, backward=True)
    for p in (0.5, math.nan):
        with pytest.raises(ValueError, match="p must be"):
            cpu.ceiling(p)


# These tests need processes of their own, because a process remembers the loaded library and the warning.  One imports
# everything, and forks before the first call.

MISSING = {  # code that causes the fault before the first call, and a part of the reason
    "not-built": ("cpu.LIBRARY = cpu.LIBRARY.with_name('nowhere.so')", "nowhere.so was not built"),
    "no-library": ("cpu.LIBRARY = pathlib.Path(cpu.__file__)", "cpu.py"),
    "another-interface": ("cpu.ABI = -1", "this package needs -1"),
    "another-machine": ("os.environ['LINF_CPU_LEVEL'] = 'abacus'", "but not for abacus"),
}
CHOICES = {level: f"os.environ['LINF_CPU_LEVEL'] = '{level}'\nprint(*cpu.available())" for level in cpu.levels()}
DAMAGES = {
    name: f"""
{damage}
x, w = torch.eye(3, 4).requires_grad_(), torch.full((2, 4), 2.0)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        y = linf_plugin.dist(x, w)
        y.sum().backward()
print(y.tolist(), [(c.category.__name__, str(c.message)) for c in caught])
print(info.report())
"""
    for name, (damage, _) in MISSING.items()
}
FORKED = """
torch.set_num_threads(2)
x = torch.rand(300, 300)
y = cpu.dist(x, x, 8.0)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(cpu.dist(x, x, 8.0), y) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
FORKS = """
import json, os, pathlib, sys, warnings
import torch, linf_plugin
from linf_plugin import info
from linf_plugin.kernels import cpu
for name, code in json.loads(sys.argv[1]).items():
    child = os.fork()
    if child == 0:
        sys.stdout = open(pathlib.Path(sys.argv[2]) / name, "w", encoding="utf-8")
        exec(code)
        sys.stdout.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """name → what the code of that name prints in a process of its own."""
    folder, codes = tmp_path_factory.mktemp("printed"), {**CHOICES, **DAMAGES, "forked": FORKED}
    environment = {key: value for key, value in os.environ.items() if key != "LINF_CPU_LEVEL"}
    line = [sys.executable, "-c", FORKS, json.dumps(codes), str(folder)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: (folder / name).read_text(encoding="utf-8") for name in codes}


def test_the_environment_chooses_the_instruction_set(level, printed):
    assert printed[level].split() == ["True", level]


@pytest.mark.parametrize("name", MISSING)
def test_without_the_kernels_there_is_one_warning_and_the_same_result(name, printed):
    reason = MISSING[name][1]
    first, *report = printed[name].splitlines()
    assert first.startswith("[[2.0, 2.0], [2.0, 2.0], [2.0, 2.0]] [('RuntimeWarning'")
    assert first.count("RuntimeWarning") == 1 and reason in first and "\n" not in first
    assert any(line.startswith("CPU      blocked PyTorch") and reason in line for line in report)


def test_a_forked_child_gets_threads_of_its_own(printed):
    assert printed["forked"].strip() == "0"


def test_info_names_the_instruction_set(level):
    text = info.report()
    assert f"compiled kernels, {level} " in text and "linf_plugin/kernels/libcpu.so" in text
    assert str(ROOT) not in text
