"""Convolution as distances of windows, with a bounded number of windows at a time.

The same function serves the distance and the distance of a box: ``fn`` maps window matrices (rows, in) and weights
(out, in) of one group to one or more results (rows, out).

Memory: ``apply`` and ``apply_vjp`` hold the windows of some images, or of some rows of one image.  The windows of each
input take at most ``WINDOW_BYTES``, except that at least one row of the output is computed at a time.  Each gradient
of an input takes as much again.
"""

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu
from .geometry import Geometry

WINDOW_BYTES = 1 << 22  # for each input; the windows stay in the caches until they are used


def chunks(x: tuple[int, ...], w: tuple[int, ...], geometry: Geometry, itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Yields slices of images and of output rows; their windows take at most ``WINDOW_BYTES``.  x and w are shapes."""
    n, _, rows, columns = geometry.output_shape(x, w)
    per_row = max(1, x[1] * w[2] * w[3] * columns * itemsize)
    images = max(1, WINDOW_BYTES // (per_row * rows))
    step = rows if images > 1 else max(1, min(rows, WINDOW_BYTES // per_row))
    for i in range(0, n, images):
        for r in range(0, rows, step):
            yield slice(i, min(n, i + images)), slice(r, min(rows, r + step))


def _band(size: int, kernel: int, geometry: Geometry, rows: slice) -> tuple[slice, tuple[int, int]]:
    """Returns the rows of an image that the windows of some output rows touch, and how many rows of padding they touch
    above and below.  ``size`` is the height of the image."""
    (stride, _), (padding, _), (dilation, _), _ = geometry
    top = rows.start * stride - padding
    bottom = (rows.stop - 1) * stride - padding + dilation * (kernel - 1) + 1
    band = slice(min(max(top, 0), size), max(min(bottom, size), 0))
    return band, (min(max(-top, 0), bottom - top), max(bottom - max(size, top), 0))


def _compiled(*tensors: Tensor) -> bool:
    differentiable = torch.is_grad_enabled() and any(a.requires_grad for a in tensors)
    return not differentiable and cpu.takes(math.inf, *tensors)


def unfold(x: Tensor, w: tuple[int, ...], geometry: Geometry, rows: slice | None = None) -> Tensor:
    """Returns the windows of the zero-padded x for some rows of the output, or for all rows.

    (N, C, H, W) → (groups, N·rows·W', C/groups·kh·kw) for kernels of shape w.
    """
    rows = rows or slice(0, geometry.output_shape(x.shape, w)[2])
    if _compiled(x):
        return cpu.unfold(x, geometry.output_shape(x.shape, w), w, geometry, rows)
    return unfold_composed(x, w, geometry, rows)


def unfold_composed(x: Tensor, w: tuple[int, ...], geometry: Geometry, rows: slice | None = None) -> Tensor:
    """``unfold``, composed of PyTorch's operators, which have every derivative."""
    stride, padding, dilation, groups = geometry
    rows = rows or slice(0, geometry.output_shape(x.shape, w)[2])
    band, (above, below) = _band(x.shape[2], w[2], geometry, rows)
    columns = F.unfold(
        F.pad(x[:, :, band], (0, 0, above, below)), w[2:], dilation=dilation, padding=(0, padding[1]), stride=stride
    )
    n, features, windows = columns.shape
    columns = columns.reshape(n, groups, features // groups, windows)
    return columns.permute(1, 0, 3, 2).reshape(groups, n * windows, features // groups)


def add_folded(gx: Tensor, columns: Tensor, w: tuple[int, ...], geometry: Geometry, rows: slice | None = None) -> None:
    """The adjoint of ``unfold``: adds the value that each window has for a pixel to gx (N, C, H, W)."""
    rows = rows or slice(0, geometry.output_shape(gx.shape, w)[2])
    if len(gx) == 0:  # reshape and fold do not accept an empty batch
        return
    if gx.is_contiguous() and _compiled(gx, columns):
        cpu.add_folded(gx, columns, geometry.output_shape(gx.shape, w), w, geometry, rows)
    else:
        band, part = _folded(columns, gx.shape, w, geometry, rows)
        gx[:, :, band] += part


def _folded(
    columns: Tensor, x: tuple[int, ...], w: tuple[int, ...], geometry: Geometry, rows: slice
) -> tuple[slice, Tensor]:
    """Returns the rows of images of shape x that the windows of these output rows touch, and what to add to them."""
    stride, padding, dilation, groups = geometry
    n, _, height, width = x
    columns = columns.reshape(groups, n, -1, columns.shape[-1]).permute(1, 0, 3, 2)
    columns = columns.reshape(n, groups * columns.shape[2], columns.shape[3])
    band, (above, below) = _band(height, w[2], geometry, rows)
    size = above + max(0, band.stop - band.start) + below
    folded = F.fold(columns, (size, width), w[2:], dilation=dilation, padding=(0, padding[1]), stride=stride)
    return band, folded[:, :, above : size - below]


def fold_composed(columns: Tensor, x: tuple[int, ...], w: tuple[int, ...], geometry: Geometry) -> Tensor:
    """The adjoint of ``unfold`` for images of shape x, composed of PyTorch's operators, changing nothing in place."""
    band, part = _folded(columns, x, w, geometry, slice(0, geometry.output_shape(x, w)[2]))
    return F.pad(part, (0, 0, band.start, x[2] - band.stop))


def fold(columns: Tensor, n: int, size: tuple[int, int], w: tuple[int, ...], geometry: Geometry) -> Tensor:
    """Adds all windows to zeros by ``add_folded``.  Returns n images of (H, W) = size."""
    gx = columns.new_zeros(n, geometry.groups * w[1], *size)
    add_folded(gx, columns, w, geometry)
    return gx


def flat_kernels(w: Tensor, groups: int) -> Tensor:
    """(out, C/groups, kh, kw) → (groups, out/groups, C/groups·kh·kw)."""
    return w.reshape(groups, len(w) // groups, math.prod(w.shape[1:]))


def to_rows(y: Tensor, groups: int) -> Tensor:
    """(N, out, H', W') → (groups, N·H'·W', out/groups)."""
    n, out, rows, columns = y.shape
    y = y.reshape(n, groups, out // groups, rows * columns)
    return y.permute(1, 0, 3, 2).reshape(groups, n * rows * columns, out // groups)


def from_rows(y: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``to_rows``; ``shape`` is (N, out, H', W')."""
    n, out, rows, columns = shape
    groups = len(y)
    y = y.reshape(groups, n, rows * columns, out // groups).permute(1, 0, 3, 2)
    return y.reshape(n, out, rows, columns)


def apply(
    fn: Callable, inputs: tuple[Tensor, ...], w: Tensor, geometry: Geometry, dtypes: tuple[torch.dtype, ...]
) -> tuple[Tensor, ...]:
    """Calls ``fn(*windows, w)`` on the windows of inputs (N, C, H, W).  Returns one (N, out, H', W') for each dtype."""
    x, groups = inputs[0], geometry.groups
    flat = flat_kernels(w, groups)
    shape = geometry.output_shape(x.shape, w.shape)
    out = tuple(x.new_zeros(shape, dtype=dtype) for dtype in dtypes)
    if 0 in shape:
        return out
    for part, rows in chunks(x.shape, w.shape, geometry, x.element_size()):
        windows = [unfold(a[part], w.shape, geometry, rows) for a in inputs]
        per_group = [fn(*(a[g] for a in windows), flat[g]) for g in range(groups)]
        for to, y in zip(out, zip(*per_group)):
            to = to[part, :, rows]
            to.copy_(from_rows(torch.stack(y), to.shape))
    return out


def apply_vjp(
    fn: Callable,
    maps: tuple[Tensor, ...],
    inputs: tuple[Tensor, ...],
    w: Tensor | None,
    shapes: tuple,
    geometry: Geometry,
    wanted: tuple[bool, ...],
) -> tuple[Tensor | None, ...]:
    """Returns the gradients of ``apply`` for every input and for w, or None for a gradient that is not wanted.

    ``fn(maps, windows, w)`` returns the gradients of one group.  It takes the rows of ``maps`` (N, out, H', W'), the
    windows of ``inputs`` (which may be empty) and the weights (or None).  ``shapes`` holds the shape of the inputs and
    that of w.
    """
    x_shape, w_shape = shapes
    groups, kind = geometry.groups, maps[0]
    flat = [None] * groups if w is None else flat_kernels(w, groups)
    grads = [kind.new_zeros(x_shape) if want else None for want in wanted[:-1]]
    g_flat = kind.new_zeros(groups, w_shape[0] // groups, math.prod(w_shape[1:])) if wanted[-1] else None
    for part, rows in () if 0 in kind.shape else chunks(x_shape, w_shape, geometry, kind.element_size()):
        windows = [unfold(a[part], w_shape, geometry, rows) for a in inputs]
        as_rows = [to_rows(a[part, :, rows], groups) for a in maps]
        per_group = []
        for g in range(groups):
            *g_windows, g_w = fn([a[g] for a in as_rows], [a[g] for a in windows], flat[g])
            if g_flat is not None:
                g_flat[g] += g_w
            per_group.append(g_windows)
        for gx, g_windows in zip(grads, zip(*per_group)):
            if gx is not None:
                add_folded(gx[part], torch.stack(g_windows), w_shape, geometry, rows)
    return *grads, None if g_flat is None else g_flat.reshape(w_shape)
