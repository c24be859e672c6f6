"""Distances of windows of images in standard ONNX, in blocks as in ``distances.py``.

They hold ``WINDOW_BLOCK`` elements of unfolded windows at a time, and at least those of one image.  This number is one
constant, ``windows`` in ``ConvBlocks``.
"""

from collections.abc import Sequence

from onnxscript import graph, script
from onnxscript import opset20 as op

from .distances import LinfDist, LpDistOf
from .domain import LINF

WINDOW_BLOCK = 1 << 20


@script(LINF)
def ConvBlocks(x, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """(N, C, H, W), (out, C/groups, kh, kw) → the parts that ``ConvJoin`` puts together again:

    images   (groups, blocks, rows, pixels, C/groups), padded;
    kernels  (groups, out/groups, kh·kw·C/groups);
    index    (H'·W'·kh·kw,): the pixels of every window;
    corners  (H', W'): the first pixel of every window.

    Windows are gathered.  Nothing is computed, so nothing is rounded.
    """
    stride, dilation = op.Constant(value_ints=strides), op.Constant(value_ints=dilations)
    depth = op.Shape(w, start=1, end=2)
    kernel = op.Shape(w, start=2)
    features = depth * op.ReduceProd(kernel)

    x = op.Pad(x, op.Constant(value_ints=pads), None, [2, 3])
    size = op.Shape(x, start=2)
    pixels = op.ReduceProd(size)
    reach = dilation * (kernel - 1)
    position = op.Reshape(op.Range(0, op.Squeeze(pixels), 1), size)
    corners = op.Slice(position, [0, 0], size - reach, [0, 1], stride)
    offsets = op.Slice(position, [0, 0], reach + 1, [0, 1], dilation)
    index = op.Reshape(op.Reshape(corners, [-1, 1]) + op.Reshape(offsets, [1, -1]), [-1])

    n = op.Max(op.Shape(x, start=0, end=1), 1)
    windows = op.Constant(value_int=WINDOW_BLOCK)
    most = op.Max(windows / (features * op.Size(corners)), 1)
    blocks = (n + most - 1) / most
    rows = (n + blocks - 1) / blocks
    x = op.Pad(x, op.Concat([0], blocks * rows - op.Shape(x, start=0, end=1), axis=0), None, [0])
    x = op.Reshape(x, op.Concat(blocks, rows, [-1], depth, pixels, axis=0))
    images = op.Transpose(x, perm=[2, 0, 1, 4, 3])

    w = op.Transpose(op.Reshape(w, [0, 0, -1]), perm=[0, 2, 1])
    kernels = op.Reshape(w, op.Concat(op.Shape(images, start=0, end=1), [-1], features, axis=0))
    return images, kernels, index, corners


@script(LINF)
def ConvJoin(y, corners, x):
    """Distances (groups, blocks, rows·H'·W', out/groups) → (N, out, H', W')."""
    windows = op.Reshape(op.Size(corners), [1])
    groups, out = op.Split(op.Gather(op.Shape(y), [0, 3]), num_outputs=2)
    y = op.Reshape(y, op.Concat(groups, [-1], windows, out, axis=0))
    y = op.Transpose(y, perm=[1, 0, 3, 2])
    y = op.Reshape(y, op.Concat([-1], groups * out, op.Shape(corners), axis=0))
    y = op.Slice(y, [0], op.Shape(x, start=0, end=1))
    return y


@script(LINF)
def LinfDistConv(x, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """``LinfDist`` of every window.  (N, C, H, W), (out, C/groups, kh, kw) → (N, out, H', W')."""
    images, kernels, index, corners = ConvBlocks(x, w, strides=strides, pads=pads, dilations=dilations)
    rows = op.Concat([-1], op.Shape(kernels, start=2), axis=0)

    @graph()
    def over_groups(xg, wg):
        @graph()
        def over_blocks(xb):  # (rows, pixels, C/groups)
            yb = LinfDist(op.Reshape(op.Gather(xb, index, axis=1), rows), wg)
            return yb

        yg = op.Scan(xg, body=over_blocks, num_scan_inputs=1)
        return yg

    y = ConvJoin(op.Scan(images, kernels, body=over_groups, num_scan_inputs=2), corners, x)
    return y


@script(LINF)
def LpDistConv(x, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int], p: float):
    """``LpDist`` of every window.  (N, C, H, W), (out, C/groups, kh, kw) → (N, out, H', W')."""
    images, kernels, index, corners = ConvBlocks(x, w, strides=strides, pads=pads, dilations=dilations)
    rows = op.Concat([-1], op.Shape(kernels, start=2), axis=0)
    power = op.CastLike(op.Constant(value_float=p), x)

    @graph()
    def over_groups(xg, wg):
        @graph()
        def over_blocks(xb):  # (rows, pixels, C/groups)
            yb = LpDistOf(op.Reshape(op.Gather(xb, index, axis=1), rows), wg, power)
            return yb

        yg = op.Scan(xg, body=over_blocks, num_scan_inputs=1)
        return yg

    y = ConvJoin(op.Scan(images, kernels, body=over_groups, num_scan_inputs=2), corners, x)
    return y
