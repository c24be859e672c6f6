"""The distance operators in standard ONNX.  A runtime without a plugin executes these bodies.

The bodies follow ``linf_plugin/kernels/reference.py`` and work in blocks.  Beside a few copies of input and output they
hold ``BLOCK`` differences at a time, and at least those of one pair of rows.  This number is one constant, ``block`` in
``DistBlocks``.

Sizes in the bodies are int64 tensors of one element, computed from shapes.  A runtime computes those of the weights
once.  Where a size is 0, a row of zeros is added, because Scan fails on zero steps.
"""

from collections.abc import Sequence

from onnxscript import graph, script
from onnxscript import opset20 as op

from .domain import LINF

BLOCK = 1 << 18  # 1 MB of float32, which fits into the second-level cache of current processors


@script(LINF)
def DistBlocks(x, w):
    """(N, in), (out, in) → (blocks, rows, 1, in), (tiles, 1, tile, in), where rows × tile × in is about ``BLOCK``.

    The number of features is taken from w, because a runtime knows the shape of w beforehand.
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
    """Distances (tiles, blocks, rows, tile) → (N, out), with NaN where a row of x or of w has a NaN.

    Runtimes differ in the largest of some numbers and a NaN.  A sum with a NaN is NaN in all of them.
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
    """``LpDist`` with p as a tensor, because some runtimes do not let the body of a Scan refer to an attribute.

    The terms are divided by the largest one, so no power overflows or underflows.
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
