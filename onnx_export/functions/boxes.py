"""Ranges of distances over boxes in standard ONNX.  They hold twice as many numbers as distances of points do."""

from collections.abc import Sequence

from onnxscript import graph, script
from onnxscript import opset20 as op

from .distances import DistBlocks, DistJoin
from .domain import LINF
from .windows import ConvBlocks, ConvJoin


@script(LINF)
def BoxBlocks(lower, upper, w):
    """``DistBlocks`` of both ends of boxes, and for ``DistJoin`` an array that has the NaN of both ends."""
    ls, ws = DistBlocks(lower, w)
    us, _ = DistBlocks(upper, w)
    either = op.Where(op.IsNaN(us), us, ls)
    return ls, us, ws, either


@script(LINF)
def LinfBoxDist(lower, upper, w):
    """The least and the largest ``LinfDist`` over the box lower[n] ≤ x ≤ upper[n], exactly.

    (N, in), (N, in), (out, in) → (N, out), (N, out).
    """
    ls, us, ws, either = BoxBlocks(lower, upper, w)

    @graph()
    def over_tiles(wt):  # (1, tile, in)
        @graph()
        def over_blocks(lb, ub):  # (rows, 1, in)
            above = lb - wt
            below = ub - wt
            near_b = op.Max(op.ReduceMax(above, [-1], keepdims=0), -op.ReduceMin(below, [-1], keepdims=0), 0.0)
            far_b = op.Max(op.ReduceMax(below, [-1], keepdims=0), -op.ReduceMin(above, [-1], keepdims=0))
            return near_b, far_b

        near_t, far_t = op.Scan(ls, us, body=over_blocks, num_scan_inputs=2)
        return near_t, far_t

    nears, fars = op.Scan(ws, body=over_tiles, num_scan_inputs=1)
    near = DistJoin(nears, either, ws, lower, w)
    far = DistJoin(fars, either, ws, lower, w)
    return near, far


@script(LINF)
def SortBoxDist(lower, upper, w, coefficients: Sequence[float]):
    """The least and the largest ``SortDist`` over the box lower[n] ≤ x ≤ upper[n].

    (N, in), (N, in), (out, in) → (N, out), (N, out), with at most max(in, 1) coefficients.
    """
    ls, us, ws, either = BoxBlocks(lower, upper, w)
    c = op.CastLike(op.Constant(value_floats=coefficients), lower)
    count = op.Shape(c)

    @graph()
    def over_tiles(wt):  # (1, tile, in)
        @graph()
        def over_blocks(lb, ub):  # (rows, 1, in)
            nearest, _ = op.TopK(op.Max(lb - wt, wt - ub, 0.0), count)
            near_b = op.ReduceSum(nearest * c, [-1], keepdims=0)
            farthest, _ = op.TopK(op.Max(ub - wt, wt - lb), count)
            far_b = op.ReduceSum(farthest * c, [-1], keepdims=0)
            return near_b, far_b

        near_t, far_t = op.Scan(ls, us, body=over_blocks, num_scan_inputs=2)
        return near_t, far_t

    nears, fars = op.Scan(ws, body=over_tiles, num_scan_inputs=1)
    near = DistJoin(nears, either, ws, lower, w)
    far = DistJoin(fars, either, ws, lower, w)
    return near, far


@script(LINF)
def LinfBoxDistConv(lower, upper, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """``LinfBoxDist`` of every window; padding is 0.

    (N, C, H, W), (N, C, H, W), (out, C/groups, kh, kw) → (N, out, H', W'), (N, out, H', W').
    """
    ls, kernels, index, corners = ConvBlocks(lower, w, strides=strides, pads=pads, dilations=dilations)
    us, _, _, _ = ConvBlocks(upper, w, strides=strides, pads=pads, dilations=dilations)
    rows = op.Concat([-1], op.Shape(kernels, start=2), axis=0)

    @graph()
    def over_groups(lg, ug, wg):
        @graph()
        def over_blocks(lb, ub):  # (rows, pixels, C/groups)
            near_b, far_b = LinfBoxDist(
                op.Reshape(op.Gather(lb, index, axis=1), rows), op.Reshape(op.Gather(ub, index, axis=1), rows), wg
            )
            return near_b, far_b

        near_g, far_g = op.Scan(lg, ug, body=over_blocks, num_scan_inputs=2)
        return near_g, far_g

    nears, fars = op.Scan(ls, us, kernels, body=over_groups, num_scan_inputs=3)
    near = ConvJoin(nears, corners, lower)
    far = ConvJoin(fars, corners, lower)
    return near, far
