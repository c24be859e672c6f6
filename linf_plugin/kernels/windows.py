"""Convolution as distances of windows, a bounded number of images at a time.

The same routine serves the distance and the distance of a box: ``fn`` maps window matrices
(rows, in) and weights (out, in) of one group to one or more (rows, out) results.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW_BYTES = 1 << 24  # of unfolded windows held at a time


def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Number of windows along one spatial dimension."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def output_shape(x: tuple[int, ...], w: tuple[int, ...], conv: tuple) -> tuple[int, int, int, int]:
    """(N, out, H', W') for shapes x (N, C, H, W) and w (out, C/groups, kh, kw).

    ``conv`` is (stride, padding, dilation, groups), the first three pairs.
    """
    stride, padding, dilation, _ = conv
    return x[0], w[0], *(output_size(x[2 + d], w[2 + d], stride[d], padding[d], dilation[d]) for d in (0, 1))


def chunks(x: Tensor, w: Tensor, conv: tuple):
    """Slices of images whose unfolded windows stay within ``WINDOW_BYTES`` (one image is the least)."""
    _, _, rows, columns = output_shape(x.shape, w.shape, conv)
    per_image = x.shape[1] * w.shape[2] * w.shape[3] * rows * columns * x.element_size()
    step = max(1, WINDOW_BYTES // max(1, per_image))
    return (slice(i, min(len(x), i + step)) for i in range(0, len(x), step))


def unfold(x: Tensor, w: Tensor, conv: tuple) -> Tensor:
    """The windows of x, zero-padded: (N, C, H, W) → (groups, N·H'·W', C/groups·kh·kw)."""
    stride, padding, dilation, groups = conv
    columns = F.unfold(x, w.shape[2:], dilation=dilation, padding=padding, stride=stride)
    n, features, windows = columns.shape
    columns = columns.reshape(n, groups, features // groups, windows)
    return columns.permute(1, 0, 3, 2).reshape(groups, n * windows, features // groups)


def fold(columns: Tensor, n: int, size: tuple[int, int], w: Tensor, conv: tuple) -> Tensor:
    """The adjoint of ``unfold``: adds what each window says of a pixel of n images of (H, W) = size."""
    stride, padding, dilation, groups = conv
    if n == 0:  # neither reshape nor fold take it
        return columns.new_zeros(0, groups * w.shape[1], *size)
    columns = columns.reshape(groups, n, -1, columns.shape[-1]).permute(1, 0, 3, 2)
    columns = columns.reshape(n, groups * columns.shape[2], columns.shape[3])
    return F.fold(columns, size, w.shape[2:], dilation=dilation, padding=padding, stride=stride)


def to_rows(y: Tensor, groups: int) -> Tensor:
    """(N, out, H', W') → (groups, N·H'·W', out/groups)."""
    n, out, rows, columns = y.shape
    y = y.reshape(n, groups, out // groups, rows * columns)
    return y.permute(1, 0, 3, 2).reshape(groups, n * rows * columns, out // groups)


def from_rows(y: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """The inverse of ``to_rows``; ``shape`` is (N, out, H', W')."""
    n, out, rows, columns = shape
    groups = len(y)
    y = y.reshape(groups, n, rows * columns, out // groups).permute(1, 0, 3, 2)
    return y.reshape(n, out, rows, columns)


def apply(fn: Callable, inputs: tuple[Tensor, ...], w: Tensor, conv: tuple, results: int) -> tuple[Tensor, ...]:
    """``fn`` over the windows of each input: (N, C, H, W) each → ``results`` tensors (N, out, H', W')."""
    x, groups = inputs[0], conv[3]
    flat = w.reshape(groups, len(w) // groups, -1)
    shape = output_shape(x.shape, w.shape, conv)
    out = tuple(x.new_zeros(shape) for _ in range(results))
    if 0 in shape:
        return out
    for part in chunks(x, w, conv):
        windows = [unfold(a[part], w, conv) for a in inputs]
        per_group = [fn(*(a[g] for a in windows), flat[g]) for g in range(groups)]
        for r, y in enumerate(zip(*per_group)):
            out[r][part] = from_rows(torch.stack(y), (part.stop - part.start, *shape[1:]))
    return out


def apply_vjp(
    fn: Callable, grads: tuple[Tensor, ...], inputs: tuple[Tensor, ...], w: Tensor,
    outputs: tuple[Tensor, ...], conv: tuple,
) -> tuple[Tensor, ...]:
    """Gradients of ``apply`` for every input and for w; ``fn(*grads, *inputs, w, *outputs)`` gives
    those of one group's windows."""
    x, groups = inputs[0], conv[3]
    flat = w.reshape(groups, len(w) // groups, -1)
    g_inputs = tuple(a.new_zeros(a.shape) for a in inputs)
    g_flat = flat.new_zeros(flat.shape)
    if 0 in outputs[0].shape:
        return *g_inputs, g_flat.reshape(w.shape)
    for part in chunks(x, w, conv):
        windows = [unfold(a[part], w, conv) for a in inputs]
        rows = [to_rows(a[part], groups) for a in (*grads, *outputs)]
        per_group = []
        for g in range(groups):
            *g_windows, g_w = fn(
                *(a[g] for a in rows[: len(grads)]), *(a[g] for a in windows), flat[g],
                *(a[g] for a in rows[len(grads):]),
            )
            g_flat[g] += g_w
            per_group.append(g_windows)
        for r, g_windows in enumerate(zip(*per_group)):
            g_inputs[r][part] = fold(torch.stack(g_windows), part.stop - part.start, x.shape[2:], w, conv)
    return *g_inputs, g_flat.reshape(w.shape)
