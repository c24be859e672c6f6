"""Compares distances near the ends of the range with 60 digits, under only the assumptions of docs/math.md.

From the least subnormal number to 2^127, beyond which nothing is assumed; with subnormal numbers kept and flushed.
"""

import contextlib
import functools
import math
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from cases import INF, each_dtype
from torch import nn

import linf_plugin
from linf_plugin import LinfDistLinear
from linf_plugin.float32.reach import reach
from linf_plugin.float32.rules import POWER_UNITS, gamma
from linf_plugin.kernels import blocked, cpu, reference

ROOT = Path(linf_plugin.__file__).parents[1]

EXPONENTS = (1.0, 1.5, 3.0, 8.0, 28.0, 64.0, 64.5, 97.0, 1000.0, INF)
PLACES = {  # the size of the largest |t|: powers of 2, for float32 and for float64
    "least": (-149, -1074),
    "subnormal": (-140, -1060),
    "reciprocal": (-127.3, -1023.3),
    "least-normal": (-126, -1022),
    "near": (-121, -1001),
    "within": (-118, -990),
    "far": (121, 1001),
    "last": (126.99, 1022.99),
}
OF = {torch.float32: 0, torch.float64: 1}
ENDS = {torch.float32: (-149, -126, 127), torch.float64: (-1074, -1022, 1023)}  # smallest, smallest normal, largest


def _levels():
    def at(level):
        def using(function):
            def call(*arguments):
                with cpu.using(level):
                    return getattr(cpu, function)(*arguments)

            return call

        return using

    return {level: at(level) for level in cpu.levels()}


IMPLEMENTATIONS = _levels() | {
    "blocked": lambda function: getattr(blocked, function),
    "reference": lambda function: getattr(reference, function),
}
implementations = pytest.mark.parametrize("of", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
each_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


@contextlib.contextmanager
def _flushing(flush):
    assert not flush or torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _rows(place, dtype):
    """Returns x (2, 5) and w (3, 5) with differences up to 2^place; some pairs agree in a coordinate or are closer."""
    generator = torch.Generator().manual_seed(0)
    x, w = (2 * torch.rand(n, 5, dtype=torch.float64, generator=generator) - 1 for n in (2, 3))
    x, w = x / 2, w / 2
    x[0, 1], w[0, 1] = 0.5, -0.5
    w[1] = x[1] + 2.0**-12 * (w[1] - x[1])
    x[0, 2] = w[2, 2]
    size = mpmath.mpf(2) ** place[OF[dtype]]
    to = np.vectorize(lambda v: float(mpmath.mpf(v) * size), otypes=[float])
    return tuple(torch.from_numpy(to(a.numpy())).to(dtype) for a in (x, w))


def _exact(a):
    return np.vectorize(mpmath.mpf, otypes=[object])(a.detach().double().numpy())


def _norms(z, p):
    """Returns the norm over the last dimension of z ≥ 0, which holds numbers of 60 digits."""
    largest = z.max(-1)
    if p == INF:
        return largest
    scale = np.where(largest == 0, mpmath.mpf(1), largest)
    return (
        np.vectorize(lambda s: s ** (1 / mpmath.mpf(p)), otypes=[object])(
            np.vectorize(lambda v: v ** mpmath.mpf(p), otypes=[object])(z / scale[..., None]).sum(-1)
        )
        * largest
    )


def _repeated(a):
    """Repeats rows to more than a tile, so that some lanes, tiles and rows are only partly filled."""
    return a.repeat(11, 1)


def _assert_as_assumed(y, exact, p, features, dtype, flush):
    """Checks |y − exact| ≤ (POWER_UNITS + n/p)·u·exact, plus half the smallest number where nothing is flushed."""
    assert y.isfinite().all()
    least, normal, _ = ENDS[dtype]
    units = 1 if p == INF else POWER_UNITS + features / p
    spare = 64 * features ** (1 / p) * mpmath.mpf(2) ** normal if flush else mpmath.mpf(2) ** (least - 1)
    unit = mpmath.mpf(torch.finfo(dtype).eps) / 2
    size = exact.shape
    for start in (0, len(y) - size[0]):  # repeated rows, in other lanes
        for other in (0, y.shape[1] - size[1]):
            got = _exact(y[start : start + size[0], other : other + size[1]])
            assert (abs(got - exact) <= units * unit * exact + spare).all()


@functools.cache
def _problem(place, dtype):
    """Returns (x, w, lower, upper), and for each p the exact distances and their minimum and maximum over the boxes."""
    x, w = _rows(place, dtype)
    width = 2.0 ** max(ENDS[dtype][0], math.floor(place[OF[dtype]]) - 2)
    lower, upper = x - width, x + width
    t = abs(_exact(x)[:, None] - _exact(w))
    above, below = _exact(lower)[:, None] - _exact(w), _exact(w) - _exact(upper)[:, None]
    ends = t, np.maximum(np.maximum(above, below), mpmath.mpf(0)), np.maximum(-above, -below)
    return (x, w, lower, upper), {p: [_norms(a, p) for a in ends] for p in EXPONENTS}


@pytest.mark.parametrize("flush", (False, True), ids=("kept", "flushed"))
@each_dtype
@each_place
@implementations
def test_distances_err_as_assumed(of, place, dtype, flush):
    inputs, exact = _problem(place, dtype)
    x, w, lower, upper = map(_repeated, inputs)
    for p in EXPONENTS:
        with _flushing(flush):
            results = of("dist")(x, w, p), *of("box_dist")(lower, upper, w, p)
        for y, right in zip(results, exact[p]):
            if right.max() < mpmath.mpf(2) ** ENDS[dtype][2]:  # beyond, nothing is assumed
                _assert_as_assumed(y, right, p, 5, dtype, flush)


# Gradients of numbers that are not flushed: (|t|/y)^(p−1) has no unit.


@each_dtype
@each_place
@implementations
def test_gradients_are_those_of_the_same_numbers_elsewhere(of, place, dtype):
    """A product with a power of 2 is exact, so it does not change the gradients of distances."""
    x, w = map(_repeated, _rows(place, dtype))
    places = place[OF[dtype]]
    step = 2.0 ** (-math.ceil(places) // 2)  # applied twice: one step may be beyond the range

    def move(a):
        return a * step * 2.0 ** (-math.ceil(places) - -math.ceil(places) // 2)

    for p in EXPONENTS:
        y = reference.dist(x, w, p)
        if not y.max() < 2.0 ** ENDS[dtype][2]:
            continue
        grad = torch.linspace(-1, 1, y.numel(), dtype=dtype).view(y.shape)
        expected = reference.dist_vjp(grad.double(), *(move(a).double() for a in (x, w, y)), p)
        for g, h in zip(of("dist_vjp")(grad, x, w, y, p), expected):
            torch.testing.assert_close(g.double(), h, rtol=0, atol=p * 64 * torch.finfo(dtype).eps * len(w))
        lower, upper = x - x.abs() / 4, x + x.abs() / 4
        near, far = reference.box_dist(lower, upper, w, p)
        if not far.max() < 2.0 ** ENDS[dtype][2]:
            continue
        moved = [move(a).double() for a in (lower, upper, w, near, far)]
        expected = reference.box_dist_vjp(grad.double(), grad.double().flip(0), *moved, p)
        for g, h in zip(of("box_dist_vjp")(grad, grad.flip(0), lower, upper, w, near, far, p), expected):
            torch.testing.assert_close(g.double(), h, rtol=0, atol=p * 128 * torch.finfo(dtype).eps * len(w))


@each_dtype
@each_place
@implementations
def test_gradients_with_flushing_are_finite(of, place, dtype):
    x, w = map(_repeated, _rows(place, dtype))
    for p in EXPONENTS:
        y = reference.dist(x, w, p)
        for flushed in (y, torch.where(y < 2.0 ** ENDS[dtype][1], 0, y)):
            with _flushing(True):
                grads = of("dist_vjp")(torch.ones_like(y), x, w, flushed, p)
            assert all(g.isfinite().all() and (g.abs() <= 1.001 * len(w)).all() for g in grads)


SORTS = ((0.5, 3), (0.02, 100), (1.0, 1))


@pytest.mark.parametrize("flush", (False, True), ids=("kept", "flushed"))
@each_place
@pytest.mark.parametrize("of", (blocked, reference))
def test_sorted_sums_err_as_assumed(of, place, flush):
    """The bound is that of ``rounding``: K + 1 roundings, and 4K + 8 numbers that may be flushed."""
    dtype = torch.float32
    (x, w, lower, upper), _ = _problem(place, dtype)
    t = abs(_exact(x)[:, None] - _exact(w))
    for rho, k in SORTS:
        c = reference.coefficients(rho, k, 5)
        exact = (np.sort(t)[..., : -len(c) - 1 : -1] * np.array([mpmath.mpf(a) for a in c])).sum(-1)
        with _flushing(flush):
            y = of.sorted_dist(x, w, rho, k)
            near, far = of.box_sorted_dist(x, x, w, rho, k)
        spare = (4 * len(c) + 8) * mpmath.mpf(2) ** -126
        for got in map(_exact, (y, near, far)):
            assert (abs(got - exact) <= gamma(len(c) + 1) * exact + spare).all()


MIXED = """
import torch
from linf_plugin.kernels import blocked, reference
blocked.BLOCK_BYTES = 1 << 24
z = 2.0**-127 * torch.rand(300, 500)
torch.set_num_threads(2)
torch.set_flush_denormal(True)
(z * 2).sum()  # whose threads keep flushing
torch.set_flush_denormal(False)
y = torch.full((300,), 2.0**-127)
for p in (1.5, 8.0):
    for a in (
        reference.norm(z, p), blocked.norm_(z.clone(), p),
        reference.norm_vjp(y, z, y, p), blocked.norm_vjp_(y, z.clone(), y, p),
    ):
        print(a.isfinite().all().item(), (a >= 0).all().item())
"""


def test_threads_that_differ_in_flushing_make_no_nan():
    """One thread reads a number as 0, and another thread divides by it."""
    done = subprocess.run([sys.executable, "-c", MIXED], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.split() == ["True"] * 16, done.stderr


def test_a_certificate_of_the_smallest_numbers():
    """A distance of 1e-38 once had the result 1e-29.  Its error is now within the bound, for every p."""
    for p in (64.0, 64.55, 100.5):
        layer = nn.Sequential(LinfDistLinear(2, 2, bias=False, p=p)).eval()
        with torch.no_grad():
            layer[0].weight[:] = torch.tensor([[0.0, 0.0], [2.0**-127, -(2.0**-149)]])
            x = torch.tensor([[1.17549e-38, 0.0], [2.0**-149, 2.0**-149]])
            y, bounds = layer(x), reach(layer, x.double(), x.double())
        t = abs(_exact(x)[:, None] - _exact(layer[0].weight))
        assert (abs(_exact(y) - _norms(t, p)) <= _exact(bounds.error)).all() and y.max() < 1.3e-38
