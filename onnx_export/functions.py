"""The distance operators in standard ONNX: what a runtime without a plugin executes.

Each body is a model-local function of the domain ``linf``; a runtime that has an operator of that name
registered uses its own instead.  The bodies keep the rules of ``linf_plugin/kernels/reference.py`` and
work block by block, so that beyond a few copies of their output and of their input they hold ``BLOCK``
differences, and ``WINDOWS`` elements of unfolded windows, at a time (a pair of rows, an image, is the least).

Sizes in the bodies are int64 tensors of one element, computed from shapes: a runtime folds those of the
weights.  A size of 0 is raised to 1 by filling with zeros, since Scan fails on nothing to do.
"""

from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnxscript import graph, script
from onnxscript import opset20 as op
from onnxscript.values import Opset

OPSET = 20
LINF = Opset("linf", 1)

BLOCK = 1 << 18  # 1 MB of float32, which fits the second-level cache of current processors
WINDOWS = 1 << 20

# Of radii: 1 − SLACK outweighs the rounding of numbers from LEAST to MOST to float32.
SLACK, LEAST, MOST = 2.0**-23, 2.0**-126, 2.0**127


@script(LINF)
def DistBlocks(x, w):
    """(N, in), (out, in) → (blocks, rows, 1, in), (tiles, 1, tile, in): rows × tile × in is about ``BLOCK``.

    The number of features is read off w, whose shape a runtime knows beforehand.
    """
    n = op.Max(op.Shape(x, start=0, end=1), 1)
    out, features = op.Split(op.Max(op.Shape(w), 1), num_outputs=2)
    pairs = op.Max(BLOCK / features, 1)
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
    most = op.Max(WINDOWS / (features * op.Size(corners)), 1)
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
def CertifiedRadius(x, logits, lipschitz):
    """As ``linf_plugin.certified_radius``: (largest − second largest logit) / (2·lipschitz), rounded down.

    The quotient is taken in float64; less 2⁻²³ of itself, it stays below itself when rounded to float32, as
    long as float32 rounds relatively.  Graph optimisers drop a factor as close to 1 as 1 − 2⁻²³, hence the
    difference.  0 where x or the logits are not finite.  (N, …), (N, classes), () float64 → (N,).
    """
    values, _ = op.TopK(op.Cast(logits, to=onnx.TensorProto.DOUBLE), [2])
    first, second = op.Split(values, num_outputs=2, axis=1)
    exact = op.Min((first - second) / (2.0 * lipschitz), MOST)
    down = op.Cast(exact - exact * SLACK, to=onnx.TensorProto.FLOAT)
    seen = op.Concat(op.Flatten(x), logits, axis=1)
    wrong = op.Cast(op.Or(op.IsNaN(seen), op.IsInf(seen)), to=onnx.TensorProto.FLOAT)
    finite = op.ReduceSum(wrong, [1]) == 0.0
    radius = op.Squeeze(op.Where(op.And(finite, exact >= LEAST), down, 0.0), [1])
    return radius


# What ``translate`` makes nodes of.
BODIES = {f.name: f for f in (LinfDist, LpDist, SortDist, LinfDistConv, LpDistConv)}

# Callees before callers, as ONNX wants them.
FUNCTIONS = {f.name: f for f in (DistBlocks, DistJoin, LpDistOf, ConvBlocks, ConvJoin, CertifiedRadius)} | BODIES


def _called(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the operators of the domain ``linf`` in nodes and in their subgraphs."""
    for node in nodes:
        if node.domain == LINF.domain:
            yield node.op_type
        for attribute in node.attribute:
            yield from _called(attribute.g.node)


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds the bodies of the distance operators that a model uses; returns that model.

    Raises:
        ValueError: the model's opset is not the one that the bodies are written in.
    """
    opset = next((o.version for o in model.opset_import if o.domain == ""), None)
    if opset != OPSET:
        raise ValueError(f"the model has opset {opset}, the distance operators need {OPSET}")
    present = {f.name for f in model.functions if f.domain == LINF.domain}
    bodies, names = {}, set(_called(model.graph.node)) - present
    while names:
        bodies |= {name: FUNCTIONS[name].to_function_proto() for name in names}
        names = {name for body in bodies.values() for name in _called(body.node)} - present - bodies.keys()
    model.functions.extend(bodies[name] for name in FUNCTIONS if name in bodies)
    if bodies and all(o.domain != LINF.domain for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(LINF.domain, LINF.version))
    return model
