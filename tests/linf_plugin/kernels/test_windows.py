"""Unfold returns the windows of a convolution, fold is its adjoint, and chunks are neither visible nor large."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import CONVS, INF, Calls, each_conv

from linf_plugin.kernels import blocked, cpu, windows
from linf_plugin.kernels.geometry import Geometry

ROUTES = ("compiled", "torch")
each_route = pytest.mark.parametrize("route", ROUTES)
some_images = pytest.mark.parametrize("conv_case", [pytest.param(c, id=name) for name, c in CONVS.items() if c[0][0]])


@pytest.fixture(autouse=True)
def _route(request, monkeypatch):
    """Tests with a parameter ``route`` run with the compiled functions or without."""
    route = request.getfixturevalue("route") if "route" in request.fixturenames else "compiled"
    assert route == "torch" or cpu.takes(INF, torch.ones(1, 1))
    if route == "torch":
        monkeypatch.setattr(windows, "_compiled", lambda *tensors: False)


def _whole(*shape):
    """Returns whole numbers; their sums and products are exact."""
    return torch.randint(-9, 10, shape).double()


@each_route
@each_conv
def test_unfold_times_kernels_is_a_convolution(conv_case, route):
    shape, w_shape, conv = conv_case
    x, w = _whole(*shape), _whole(*w_shape)
    expected = F.conv2d(x, w, None, *conv)
    assert conv.output_shape(shape, w_shape) == expected.shape
    for dtype in (torch.float32, torch.float64):
        y = windows.unfold(x.to(dtype), w.shape, conv).double() @ w.reshape(conv.groups, len(w) // conv.groups, -1).mT
        assert torch.equal(windows.from_rows(y, expected.shape), expected)
        assert torch.equal(windows.to_rows(expected, conv.groups), y)


@each_route
@some_images
def test_unfold_of_some_rows_is_a_part_of_the_whole(conv_case, route):
    shape, w_shape, conv = conv_case
    x = _whole(*shape)
    _, _, height, width = conv.output_shape(shape, w_shape)
    whole = windows.unfold(x, w_shape, conv).unflatten(1, (shape[0], height, width))
    for first in range(height):
        for last in range(first + 1, height + 1):
            part = windows.unfold(x, w_shape, conv, slice(first, last))
            assert torch.equal(part, whole[:, :, first:last].flatten(1, 3))


@each_route
@some_images
def test_fold_is_the_adjoint_of_unfold(conv_case, route):
    shape, w_shape, conv = conv_case
    x = _whole(*shape)
    columns = windows.unfold(x, w_shape, conv)
    other = _whole(*columns.shape)
    for dtype in (torch.float32, torch.float64):
        folded = windows.fold(other.to(dtype), len(x), x.shape[2:], w_shape, conv)
        assert folded.shape == x.shape
        assert (columns * other).sum() == (x * folded).sum()


@each_route
@some_images
def test_rows_that_are_folded_apart_add_up(conv_case, route):
    shape, w_shape, conv = conv_case
    _, _, height, width = conv.output_shape(shape, w_shape)
    columns = _whole(*windows.unfold(_whole(*shape), w_shape, conv).shape)
    in_rows = columns.unflatten(1, (shape[0], height, width))
    gx = columns.new_zeros(shape)
    for i in range(height):
        windows.add_folded(gx, in_rows[:, :, i : i + 1].flatten(1, 3), w_shape, conv, slice(i, i + 1))
    assert torch.equal(gx, windows.fold(columns, shape[0], shape[2:], w_shape, conv))


def test_gradients_pass_through_windows():
    shape, w_shape, conv = CONVS["everything"]
    x = _whole(*shape).requires_grad_()
    columns = windows.unfold(x, w_shape, conv)
    other = _whole(*columns.shape)
    (gx,) = torch.autograd.grad((columns * other).sum(), x)
    assert torch.equal(gx, windows.fold(other, len(x), x.shape[2:], w_shape, conv))
    other.requires_grad_()
    (columns,) = torch.autograd.grad((windows.fold(other, len(x), x.shape[2:], w_shape, conv) * x).sum(), other)
    assert torch.equal(columns, windows.unfold(x.detach(), w_shape, conv))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_threads_do_not_change_a_fold(dtype):
    shape, w_shape, conv = (5, 6, 20, 21), (4, 3, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 2)
    columns = torch.randn(windows.unfold(torch.zeros(shape), w_shape, conv).shape, dtype=dtype)
    assert columns.numel() > 50_000  # enough for several threads
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(windows.fold(columns, 5, (20, 21), w_shape, conv))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], a) for a in results[1:])


SHAPE, KERNEL, CONV = (7, 4, 8, 6), (6, 2, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 2)
PER_ROW = 4 * 9 * 6 * 8  # C·kh·kw·W' numbers of 8 bytes


@each_route
@pytest.mark.parametrize("rows", (1, 3, 8, 16, 24), ids=lambda n: f"{n}-rows-at-a-time")
def test_chunks_do_not_show_and_bound_the_memory(rows, route, monkeypatch):
    x, w = _whole(*SHAPE), _whole(*KERNEL)
    monkeypatch.setattr(blocked, "BLOCK_BYTES", PER_ROW)
    shapes, wanted = (SHAPE, KERNEL), (True, True)

    def run():
        with Calls() as calls:
            (y,) = windows.apply(lambda x, w: (blocked.dist(x, w, INF),), (x,), w, CONV, (x.dtype,))
            grads = windows.apply_vjp(
                lambda maps, images, w: blocked.dist_vjp(maps[0], *images, w, maps[1], INF),
                (y.flip(0), y),
                (x,),
                w,
                shapes,
                CONV,
                wanted,
            )
        return calls.largest, y, *grads

    at_once, *expected = run()
    assert at_once == 7 * 8 * PER_ROW  # all windows
    monkeypatch.setattr(windows, "WINDOW_BYTES", rows * PER_ROW + 1)
    largest, *got = run()
    assert largest <= max(rows * PER_ROW, *(a.nbytes for a in (x, *got)))
    assert all(map(torch.equal, got, expected))


def test_chunks_cover_every_window_once():
    """The test includes more than 2³¹ coordinates in one image."""
    huge = (2, 64, 4096, 4096), (8, 64, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)
    for x, w, conv in (*CONVS.values(), huge):
        n, _, height, width = conv.output_shape(x, w)
        at = (0, 0)
        for images, rows in windows.chunks(x, w, conv, 4):
            assert (images.start, rows.start) == at
            numbers = (images.stop - images.start) * (rows.stop - rows.start) * width * x[1] * w[2] * w[3]
            least = images.stop - images.start == rows.stop - rows.start == 1
            assert 4 * numbers <= windows.WINDOW_BYTES or least
            at = (images.start, rows.stop) if rows.stop < height else (images.stop, 0)
        assert at == (n, 0)
    assert math.prod(huge[0]) * 9 > 1 << 31
