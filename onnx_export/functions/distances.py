"""The distance operators in standard ONNX: what a runtime without a plugin executes.

The bodies keep the rules of ``linf_plugin/kernels/reference.py`` and work block by block, so that beyond a few
copies of their output and of their input they hold ``BLOCK`` differences, and ``WINDOWS`` elements of unfolded
windows, at a time (a pair of rows, an image, is the least); of boxes twice as many, one for each end.  Either
number stands in one constant, ``block`` in ``DistBlocks`` and ``windows`` in ``ConvBlocks``.

Sizes in the bodies are int64 tensors of one element, computed from shapes: a runtime folds those of the
weights.  A size of 0 is raised to 1 by filling with zeros, since Scan fails on nothing to do.
"""

from collections.abc import Sequence

from onnxscript import graph, script
from onnxscript import opset20 as op
from onnxscript.values import Opset

OPSET = 20
LINF = Opset("linf", 1)

BLOCK = 1 << 18  # 1 MB of float32, which fits the second-level cache of current processors
WINDOWS = 1 << 20


@script(LINF)
def DistBlocks(x, w):
    """(N, in), (out, in) → (blocks, rows, 1, in), (tiles, 1, tile, in): rows × tile × in is about ``BLOCK``.

    The number of features is read off w, whose shape a runtime knows beforehand.
    """
    n = op.Max(op.Shape(x, start=0, end=1), 1)
    out, features = op.Split(op.Max(op.Shape(w), 1), num_outputs=2)
    block = op.Constant(value_int=BLOCK)
    pairs = op.Max(block / features, 1)
    tiles = (out + pairs - 1) / pairs
    tile = (out + tiles - 1) / tiles
    most = op.Max(pairs / tile, 1)
    blocks = (n + most - 1) / most
    rows = (n + blocks - 1) / blocks
    fill_x = op.Concat(blocks * rows, features, axis=0) - op.Shape(x)
    fill_w = op.Concat(tiles * tile, features, axis=0) - op.Shape(w)
    x = op.Pad(x, op.Concat([0, 0], fill_x, axis=0))
    w = op.Pad(w, op.Concat([0, 0], fill_w, axis=0))
    x = op.Reshape(x, op.Concat(blocks, rows, [1], features, axis=0))
    w = op.Reshape(w, op.Concat(tiles, [1], tile, features, axis=0))
    return x, w


@script(LINF)
def DistJoin(y, xs, ws, x, w):
    """Distances (tiles, blocks, rows, tile) → (N, out), with NaN where a row of x or of w has one.

    The largest of some numbers and a NaN is what a runtime makes of it; a sum with a NaN in it is NaN.
    """
    nan_x = op.ReduceSum(op.Where(op.IsNaN(xs), xs, 0.0), [-1], keepdims=0)  # (blocks, rows, 1)
    nan_w = op.ReduceSum(op.Where(op.IsNaN(ws), ws, 0.0), [-1])  # (tiles, 1, tile, 1)
    nan_w = op.Transpose(nan_w, perm=[0, 3, 1, 2])
    y = op.Transpose(y + nan_x + nan_w, perm=[1, 2, 0, 3])
    blocks, rows, tiles, tile = op.Split(op.Shape(y), num_outputs=4)
    y = op.Reshape(y, op.Concat(blocks * rows, tiles * tile, axis=0))
    y = op.Slice(y, [0, 0], op.Concat(op.Shape(x, start=0, end=1), op.Shape(w, start=0, end=1), axis=0))
    return y


@script(LINF)
def LinfDist(x, w):
    """y[n, k] = max_i |x[n, i] − w[k, i]|, exactly.  (N, in), (out, in) → (N, out)."""
    xs, ws = DistBlocks(x, w)

    @graph()
    def over_tiles(wt):  # (1, tile, in)
        @graph()
        def over_blocks(xb):  # (rows, 1, in)
            t = xb - wt
            yb = op.Max(op.ReduceMax(t, [-1], keepdims=0), -op.ReduceMin(t, [-1], keepdims=0))
            return yb

        yt = op.Scan(xs, body=over_blocks, num_scan_inputs=1)
        return yt

    y = DistJoin(op.Scan(ws, body=over_tiles, num_scan_inputs=1), xs, ws, x, w)
    return y


@script(LINF)
def LpDistOf(x, w, power):
    """``LpDist`` with p as a tensor, since not every runtime lets the body of a Scan refer to an attribute.

    Terms are scaled by the largest, so that no power over- or underflows.
    """
    xs, ws = DistBlocks(x, w)

    @graph()
    def over_tiles(wt):  # (1, tile, in)
        @graph()
        def over_blocks(xb):  # (rows, 1, in)
            z = op.Abs(xb - wt)
            largest = op.ReduceMax(z, [-1])
            z = z / op.Where(largest == 0.0, 1.0, largest)
            total = op.ReduceSum(op.Exp(op.Log(z) * power), [-1])  # Pow is several times slower
            yb = op.Squeeze(op.Exp(op.Log(total) / power) * largest, [-1])
            return yb

        yt = op.Scan(xs, body=over_blocks, num_scan_inputs=1)
        return yt

    y = DistJoin(op.Scan(ws, body=over_tiles, num_scan_inputs=1), xs, ws, x, w)
    return y


@script(LINF)
def LpDist(x, w, p: float):
    """y[n, k] = (Σ_i |x[n, i] − w[k, i]|^p)^{1/p}.  (N, in), (out, in) → (N, out)."""
    y = LpDistOf(x, w, op.CastLike(op.Constant(value_float=p), x))
    return y


@script(LINF)
def SortDist(x, w, coefficients: Sequence[float]):
    """y[n, k] = Σ_j coefficients[j]·t_(j) for t_i = |x[n, i] − w[k, i]| in descending order.

    (N, in), (out, in) → (N, out), with at most max(in, 1) coefficients.
    """
    xs, ws = DistBlocks(x, w)
    c = op.CastLike(op.Constant(value_floats=coefficients), x)
    count = op.Shape(c)

    @graph()
    def over_tiles(wt):  # (1, tile, in)
        @graph()
        def over_blocks(xb):  # (rows, 1, in)
            largest, _ = op.TopK(op.Abs(xb - wt), count)
            yb = op.ReduceSum(largest * c, [-1], keepdims=0)
            return yb

        yt = op.Scan(xs, body=over_blocks, num_scan_inputs=1)
        return yt

    y = DistJoin(op.Scan(ws, body=over_tiles, num_scan_inputs=1), xs, ws, x, w)
    return y


@script(LINF)
def ConvBlocks(x, w, strides: Sequence[int], pads: Sequence[int], dilations: Sequence[int]):
    """(N, C, H, W), (out, C/groups, kh, kw) → what ``ConvJoin`` undoes:

    images   (groups, blocks, rows, pixels, C/groups), padded;
    kernels  (groups, out/groups, kh·kw·C/groups);
    index    (H'·W'·kh·kw,): the pixels of every window;
    corners  (H', W'): the first pixel of every window.

    Windows are gathered: nothing is computed, so nothing is rounded.
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
    windows = op.Constant(value_int=WINDOWS)
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


@script(LINF)
def BoxBlocks(lower, upper, w):
    """``DistBlocks`` of both ends of boxes, and for ``DistJoin`` an array that has the NaN of both."""
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
    """``LinfBoxDist`` of every window; what is padded is 0.

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
