"""A net as an ONNX graph: a node or two a layer, and the interval bound of ``certificate.Program``.

The graph is a function of the net alone, down to the names in it, whatever exporter PyTorch has: so a file can be
written anew from what it holds, and compared.  Weights are initializers with the names that they have in the net.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from linf_plugin.kernels.reference import coefficients
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.net import Net

from ..functions.domain import LINF, OPSET
from .certificate import PIXELS, Program

IR_VERSION = 10
PRODUCER = "linf-plugin"


class _Graph:
    """Nodes and constants so far; of each float32 value its shape without the first size; and of values in rows how
    many of these a sample has, where the first size of others is the batch."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.rows_each: dict[str, int] = {}

    def constant(self, name: str, value) -> str:
        """An initializer: float32 and int64 for numbers of Python.  What layers share is there once."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        elif not isinstance(value, np.ndarray):
            value = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        self.constants.setdefault(name, value)
        return name

    def nodes_of(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes) -> list[str]:
        names = [f"h{len(self.nodes)}" + (f".{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, names[0], domain=domain, **attributes))
        if op != "Reshape":  # all others keep the first size
            each = next((self.rows_each[name] for name in inputs if name in self.rows_each), 1)
            self.rows_each |= dict.fromkeys(names, each) if each > 1 else {}
        return names

    def node(self, op: str, *inputs: str, shape: tuple[int, ...] | None = None, **attributes) -> str:
        """One node with one output, of this shape for each sample, or each row, where it is float32."""
        (name,) = self.nodes_of(op, *inputs, **attributes)
        if shape is not None:
            self.shapes[name] = shape
        return name

    def same(self, op: str, x: str, *inputs: str, **attributes) -> str:
        """A node whose output has the shape of x."""
        return self.node(op, x, *inputs, shape=self.shapes[x], **attributes)

    def shifted(self, op: str, x: str, name: str, offset: Tensor) -> str:
        """x + offset or x − offset, a channel at a time."""
        channels = offset.reshape(-1, *[1] * (len(self.shapes[x]) - 1))
        return self.same(op, x, self.constant(name, channels))

    def called(self, old: str, new: str) -> str:
        """Another name for the value of a node."""
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        self.shapes[new] = self.shapes.pop(old, None)
        return new

    def reshaped(self, x: str, sizes: list[int], shape: tuple[int, ...]) -> str:
        target = self.constant("to " + ",".join(map(str, sizes)), sizes)
        return self.node("Reshape", x, target, shape=shape)

    def rows(self, *values: str) -> list[str]:
        """Values (N, …, in) as (rows, in): of a sample there are as many as its other sizes make."""
        *more, last = self.shapes[values[0]]
        found = [self.reshaped(x, [-1, last], (last,)) if more else x for x in values]
        if math.prod(more) > 1:
            self.rows_each |= dict.fromkeys(found, math.prod(more))
        return found

    def unrows(self, x: str, like: str) -> str:
        """What became of ``rows`` of a value, (rows, out), as (N, …, out)."""
        *more, _ = self.shapes[like]
        (out,) = self.shapes[x]
        return self.reshaped(x, [-1, *more, out], (*more, out)) if more else x


# Layers: (graph, index, layer, value, shape of the output) → value of the output.


def _biased(g: _Graph, i: int, layer: nn.Module, y: str) -> str:
    return y if layer.bias is None else g.shifted("Add", y, f"{i}.bias", layer.bias)


def _normalize(g, i, layer, x, shape):
    y = g.shifted("Sub", x, f"{i}.mean", layer.mean)
    return y if layer.scale == 1 else g.same("Mul", y, g.constant(f"{i}.scale", layer.scale))


def _crop(g, i, layer, x, shape):
    starts = [(side - layer.size) // 2 for side in g.shapes[x][1:]]
    ends = [a + layer.size for a in starts]
    parts = (("starts", starts), ("ends", ends), ("axes", [2, 3]))
    return g.node("Slice", x, *(g.constant(f"{i}.{name}", a) for name, a in parts), shape=shape)


def _flatten(g, i, layer, x, shape):
    if shape == (math.prod(g.shapes[x]),):
        return g.node("Flatten", x, axis=1, shape=shape)
    return g.reshaped(x, [0, *shape], shape)


def _operator(layer: LinfDistLinear | SortDistLinear | LinfDistConv2d) -> tuple[str, dict]:
    """Name and attributes of the distance operator of a layer."""
    if isinstance(layer, SortDistLinear):
        return "SortDist", {"coefficients": coefficients(layer.rho, layer.k, layer.in_features)}
    name, attributes = ("LinfDist", {}) if layer.p == math.inf else ("LpDist", {"p": layer.p})
    if isinstance(layer, LinfDistConv2d):
        window = {"strides": layer.stride, "pads": [*layer.padding] * 2, "dilations": layer.dilation}
        return name + "Conv", window | attributes
    return name, attributes


def _dist(g, i, layer, x, shape):
    op, attributes = _operator(layer)
    (rows,), w = g.rows(x), g.constant(f"{i}.weight", layer.weight)
    y = g.node(op, rows, w, shape=(len(layer.weight),), domain=LINF.domain, **attributes)
    return g.unrows(_biased(g, i, layer, y), x)


def _dist_conv(g, i, layer, x, shape):
    op, attributes = _operator(layer)
    w = g.constant(f"{i}.weight", layer.weight)
    return _biased(g, i, layer, g.node(op, x, w, shape=shape, domain=LINF.domain, **attributes))


def _mean_shift(g, i, layer, x, shape):
    return g.shifted("Sub", x, f"{i}.running_mean", layer.running_mean)


def _bias(g: _Graph, i: int, layer: nn.Module) -> tuple[str, ...]:
    return () if layer.bias is None else (g.constant(f"{i}.bias", layer.bias),)


def _gemm(g: _Graph, i: int, layer: nn.Linear, x: str, weight: str, bias: bool, shape) -> str:
    (rows,) = g.rows(x)
    inputs = (rows, weight, *(_bias(g, i, layer) if bias else ()))
    y = g.node("Gemm", *inputs, shape=(layer.out_features,), alpha=1.0, beta=1.0, transA=0, transB=1)
    return g.unrows(y, x)


PADDING_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}  # of torch and of NumPy


def _convolution(g: _Graph, i: int, layer: nn.Conv2d, x: str, weight: str, bias: bool, shape) -> str:
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    pads = [top, left, bottom, right]
    if layer.padding_mode != "zeros":  # by gathering: Pad fails on an empty batch in one of these modes
        for axis, around in ((2, (top, bottom)), (3, (left, right))):
            sizes = g.shapes[x]
            index = np.pad(np.arange(sizes[axis - 1]), around, PADDING_MODES[layer.padding_mode])
            index = g.constant(f"{i}.padding {axis}", index.astype(np.int64))
            wider = (*sizes[: axis - 1], sizes[axis - 1] + sum(around), *sizes[axis:])
            x, pads = g.node("Gather", x, index, axis=axis, shape=wider), [0] * 4
    return g.node(
        "Conv",
        x,
        weight,
        *(_bias(g, i, layer) if bias else ()),
        shape=shape,
        group=layer.groups,
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=pads,
        dilations=layer.dilation,
    )


PRODUCTS: dict[type, Callable] = {nn.Linear: _gemm, nn.Conv2d: _convolution}


def _product(g, i, layer, x, shape):
    return PRODUCTS[type(layer)](g, i, layer, x, g.constant(f"{i}.weight", layer.weight), True, shape)


def _unary(op: str) -> Callable:
    return lambda g, i, layer, x, shape: g.same(op, x)


POINTS: dict[type, Callable] = {
    Normalize: _normalize,
    CenterCrop: _crop,
    nn.Flatten: _flatten,
    LinfDistLinear: _dist,
    SortDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    MeanShift: _mean_shift,
    nn.Linear: _product,
    nn.Conv2d: _product,
    Negate: _unary("Neg"),
    nn.ReLU: _unary("Relu"),
    nn.Tanh: _unary("Tanh"),
}


# Ends of intervals: (graph, index, layer, (lower, upper), shape of the output) → (lower, upper), as
# ``certificate.RULES``.


def _rising(g, i, layer, ends, shape):
    return tuple(POINTS[type(layer)](g, i, layer, x, shape) for x in ends)


def _negate_ends(g, i, layer, ends, shape):
    return _rising(g, i, layer, ends[::-1], shape)


def _dist_ends(g, i, layer, ends, shape):
    op, attributes = _operator(layer)
    op, w = op.replace("Dist", "BoxDist"), g.constant(f"{i}.weight", layer.weight)
    conv = isinstance(layer, LinfDistConv2d)
    values = ends if conv else g.rows(*ends)
    found = g.nodes_of(op, *values, w, outputs=2, domain=LINF.domain, **attributes)
    g.shapes |= dict.fromkeys(found, shape if conv else (len(layer.weight),))
    found = [_biased(g, i, layer, y) for y in found]
    return found if conv else [g.unrows(y, x) for y, x in zip(found, ends)]


def _product_ends(g, i, layer, ends, shape):
    w, zero = g.constant(f"{i}.weight", layer.weight), g.constant("zero", 0.0)
    up, down = g.node("Max", w, zero), g.node("Min", w, zero)
    product = functools.partial(PRODUCTS[type(layer)], g, i, layer, shape=shape)
    lower, upper = ends
    return (
        g.same("Add", product(lower, up, True), product(upper, down, False)),
        g.same("Add", product(upper, up, True), product(lower, down, False)),
    )


ENDS: dict[type, Callable] = {
    LinfDistLinear: _dist_ends,
    LinfDistConv2d: _dist_ends,
    SortDistLinear: _dist_ends,
    nn.Linear: _product_ends,
    nn.Conv2d: _product_ends,
    Negate: _negate_ends,
    **dict.fromkeys((Normalize, MeanShift, CenterCrop, nn.Flatten, nn.ReLU, nn.Tanh), _rising),
}


def _certified(g: _Graph, program: Program, x: str, shapes: list[tuple[int, ...]]) -> str:
    """The value (N,) bool of ``Program._least_difference``, and of whether x lies in [0, 1]^d."""
    layers, zero, one = list(program), g.constant("zero", 0.0), g.constant("one", 1.0)
    reach = g.constant("reach", program.reach)
    ends = g.same("Max", g.same("Sub", x, reach), zero), g.same("Min", g.same("Add", x, reach), one)
    last = layers[-1]
    bounded = layers[:-1] if isinstance(last, nn.Linear) else layers
    for i, (layer, by, shape) in enumerate(zip(bounded, program.widenings, shapes)):
        ends = ENDS[type(layer)](g, i, layer, ends, shape)
        if by:
            by = g.constant(f"{i}.widening", by)
            ends = g.same("Sub", ends[0], by), g.same("Add", ends[1], by)
    lower, upper = ends
    first, second = g.constant("axis 1", [1]), g.constant("axis 2", [2])
    label = g.node("Unsqueeze", "prediction", first)
    i = len(layers) - 1
    if isinstance(last, nn.Linear):
        weight = g.constant(f"{i}.weight", last.weight)
        rows = g.node("Sub", g.node("Unsqueeze", g.node("Gather", weight, "prediction", axis=0), first), weight)
        parts = [
            g.node("MatMul", g.node(op, rows, zero), g.node("Unsqueeze", end, second))
            for op, end in (("Max", lower), ("Min", upper))
        ]
        least = g.node("Squeeze", g.node("Add", *parts), second)
        for bias in _bias(g, i, last):
            own = g.node("Unsqueeze", g.node("Gather", bias, "prediction", axis=0), first)
            least = g.node("Add", least, g.node("Sub", own, bias))
        above = g.node("Greater", least, g.constant(f"{i}.widening", program.widenings[-1]))
    else:
        above = g.node("Greater", g.node("GatherElements", lower, label, axis=1), upper)
    (classes,) = shapes[-1]
    others = g.node("Not", g.node("Equal", g.constant("classes", list(range(classes))), label))
    wrong = g.node("And", others, g.node("Not", above))
    outside = g.node("Not", g.node("And", g.node("GreaterOrEqual", x, zero), g.node("LessOrEqual", x, one)))
    wrong = g.node("Concat", wrong, g.node("Flatten", outside, axis=1), axis=1)
    count = g.node("ReduceSum", g.node("Cast", wrong, to=TensorProto.FLOAT), first, keepdims=0)
    return g.called(g.node("Equal", count, zero), "certified")


def _shapes(net: nn.Sequential, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Of the output of each layer, without the batch."""
    x, found = torch.zeros(1, *shape), []
    for layer in net:
        x = layer(x)
        found.append(tuple(x.shape[1:]))
    return found


@torch.no_grad()
def graph_of(net: Net, pixels: str, constants=None, epsilon: float | None = None) -> onnx.ModelProto:
    """The model without functions and metadata: x → logits, prediction, certified_radius and certified as wanted.

    Args:
        net: on the CPU, in evaluation mode, of layers in ``POINTS``.
        pixels: of ``certificate.PIXELS``.
        constants: of the radius (``certificate.RadiusConstants``), or None for none.
        epsilon: of the interval bound, or None for none.

    Raises:
        ValueError: the net does not give logits (N, classes), or as ``certificate.Program``.
    """
    program, shapes, g = Program(net, epsilon), _shapes(net, net.input_shape), _Graph()
    if not shapes or len(shapes[-1]) != 1:
        raise ValueError(f"model must give logits (N, classes), gives {('N', *(shapes or [net.input_shape])[-1])}")
    x = "x"
    g.shapes[x] = net.input_shape
    if pixels == "byte":
        floats = g.same("Cast", x, to=TensorProto.FLOAT)
        x = g.called(g.same("Div", floats, g.constant("levels", float(PIXELS[pixels][1]))), "pixels")
    value = x
    for i, (layer, shape) in enumerate(zip(net, shapes)):
        value = POINTS[type(layer)](g, i, layer, value, shape)
    logits = g.called(value, "logits")
    g.called(g.node("ArgMax", logits, axis=1, keepdims=0), "prediction")
    outputs = [(logits, TensorProto.FLOAT, shapes[-1]), ("prediction", TensorProto.INT64, ())]
    if constants is not None:
        names = ("lipschitz", "slack", "most")
        numbers = [g.constant(name, np.array(getattr(constants, name), np.float64)) for name in names]
        g.called(g.node("CertifiedRadius", x, logits, *numbers, domain=LINF.domain), "certified_radius")
        outputs.append(("certified_radius", TensorProto.FLOAT, ()))
    if epsilon is not None:
        outputs.append((_certified(g, program, x, shapes), TensorProto.BOOL, ()))
    kind = TensorProto.UINT8 if pixels == "byte" else TensorProto.FLOAT
    return _model(g, [("x", kind, net.input_shape)], outputs)


def _model(g: _Graph, inputs: list[tuple], outputs: list[tuple]) -> onnx.ModelProto:
    def value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        rows = g.rows_each.get(name)  # under a name of their own: a runtime plans memory by what sizes are called
        return helper.make_tensor_value_info(name, kind, [f"{rows}*batch" if rows else "batch", *shape])

    ends = {name for name, *_ in (*inputs, *outputs)}
    known = [(name, TensorProto.FLOAT, s) for name, s in g.shapes.items() if name not in ends and s is not None]
    graph = helper.make_graph(
        g.nodes,
        "net",
        [value(*a) for a in inputs],
        [value(*a) for a in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in g.constants.items()],
        value_info=[value(*a) for a in known],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
