"""A net at p = ∞ as a plain ONNX graph that verifiers read: Conv, Gemm, Add, Relu, MaxPool, Reshape.

Verifiers know ReLU and, some of them, MaxPool; few know Abs, ReduceMax, Sub, TopK.  So a distance is here

- "maxpool": x − w and w − x, side by side, under one MaxPool;
- "relu": relu(x − w) + relu(w − x), and a tournament of max(a, b) = b + relu(a − b).

Sorted sums are tournaments of sorted lists, in ReLUs in both flavours: a MaxPool has no second largest.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from linf_plugin.kernels.reference import coefficients
from linf_plugin.kernels.windows import output_shape
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.net import Net
from linf_plugin.state import tensors

from .comparators import compare, merge, stages

OPSET, IR_VERSION = 13, 7  # what verifiers were written for


@dataclass(frozen=True)
class _Value:
    """What a layer gives: Σ_p mix[p]·v[p] + offset, one offset a channel, for the graph's value v, flattened and cut
    into len(mix) parts of the size of ``shape``.

    So scales, signs, means and biases wait for a node that takes them in.
    """

    name: str
    shape: tuple[int, ...]  # (C, H, W) or (n,)
    mix: np.ndarray
    offset: np.ndarray

    @property
    def parts(self) -> tuple[int, ...]:
        """Channels of all parts, and pixels."""
        return len(self.mix) * self.shape[0], *self.shape[1:]


class _Graph:
    """A chain of nodes; constants stay float64 until it is complete."""

    def __init__(self, flavour: str, shape: tuple[int, ...]):
        self.flavour = flavour
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}  # without the batch
        self.affine: dict[str, tuple[str, str]] = {}  # the weight and the bias of what a Conv or Gemm gives

    def node(self, op: str, name: str, shape: tuple[int, ...], *constants: np.ndarray, **attributes) -> str:
        """Appends op(name, *constants); returns the name of its result, which has that shape."""
        y = f"{op.lower()}_{len(self.nodes)}"
        names = [f"{y}_{i}" for i in range(len(constants))]
        self.constants |= dict(zip(names, constants))
        self.nodes.append(helper.make_node(op, [name, *names], [y], y, **attributes))
        self.shapes[y] = shape
        if op in ("Conv", "Gemm") and len(names) == 2:
            self.affine[y] = tuple(names)
        return y

    def view(self, name: str, *shape: int) -> str:
        """The same numbers in another shape."""
        return name if self.shapes[name] == shape else self.node("Reshape", name, shape, np.array([-1, *shape]))

    def conv(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None = None, strides=(1, 1), pads=(0, 0, 0, 0)
    ) -> str:
        """Of a value (C, H, W); pads are top, left, bottom, right.

        Groups and dilation are zeros in the weight: Marabou ignores those attributes of a Conv, or refuses them.
        """
        _, *size = self.shapes[name]
        kernel = weight.shape[2:]
        size = [(size[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1)]
        return self.node(
            "Conv",
            name,
            (len(weight), *size),
            weight,
            *(() if bias is None else (bias,)),
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
        )

    def model(self, classes: int) -> onnx.ModelProto:
        self.nodes[-1].output[0] = "logits"
        value = helper.make_tensor_value_info
        types = {"f": np.float32, "i": np.int64}
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, (1, *self.shapes["x"]))],
            [value("logits", TensorProto.FLOAT, (1, classes))],
            [numpy_helper.from_array(a.astype(types[a.dtype.kind]), name) for name, a in self.constants.items()],
        )
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="linf-plugin")


def _numbers(a: Tensor) -> np.ndarray:
    return a.detach().cpu().double().numpy()


def _given(name: str, shape: tuple[int, ...]) -> _Value:
    """A value of the graph that is as it stands what a layer gives."""
    return _Value(name, shape, np.ones(1), np.zeros(shape[0]))


def _settled(graph: _Graph, value: _Value, scale: float) -> _Value:
    """The same with the mix [scale] and without offset: the node that made it takes the rest in, where it is linear
    and has as many outputs, else new nodes do."""
    mix, offset = value.mix / scale, value.offset / scale
    name, channels = value.name, value.shape[0]
    weight, bias = graph.affine.get(name, (None, None))
    if weight is not None and len(graph.constants[bias]) == channels and len(mix) == 1:
        graph.constants[weight] = graph.constants[weight] * mix[0]
        graph.constants[bias] = graph.constants[bias] * mix[0] + offset
    else:
        flat = 1, channels, math.prod(value.shape[1:])
        if mix.tolist() != [1]:
            name = graph.conv(graph.view(name, len(mix), *flat[1:]), mix.reshape(1, -1, 1, 1))
        if offset.any():
            if graph.shapes[name][0] != channels:
                name = graph.view(name, *flat)
            shape = graph.shapes[name]
            ones = [1] * (len(shape) - 1 - (shape == flat))
            name = graph.node("Add", name, shape, offset.reshape(-1, *ones))
    return replace(value, name=name, mix=np.array([scale]), offset=np.zeros(channels))


# Distances: (graph, v, its shape (parts, in, windows), select (out, parts), weight (out, in)) → (result, its mix).
# Output k is about x_k − w_k, where x_k is the sum of v's parts with coefficients select[k].


def _pooled(graph: _Graph, name: str, shape: tuple, select: np.ndarray, weight: np.ndarray) -> tuple[str, np.ndarray]:
    """max_i |x_ki − w_ki| by one MaxPool over both signs and all i, (out, 1, windows)."""
    out, (_, features, windows) = len(weight), shape
    signs = np.array([1.0, -1.0])
    both = np.einsum("s,op->osp", signs, select).reshape(2 * out, -1, 1, 1)
    y = graph.conv(graph.view(name, *shape), both)
    y = graph.node("Add", y, graph.shapes[y], -np.einsum("s,oi->osi", signs, weight).reshape(2 * out, features, 1))
    y = graph.view(y, out, 2 * features, windows)
    kernel = (2 * features, 1)
    return graph.node("MaxPool", y, (out, 1, windows), kernel_shape=kernel, strides=kernel), np.ones(1)


def _compared(
    graph: _Graph, name: str, shape: tuple, select: np.ndarray, weight: np.ndarray, c: tuple[float, ...] = (1.0,)
) -> tuple[str, np.ndarray]:
    """Σ_j c_j·|x_k − w_k|_(j) in ReLUs, |t|_(j) in descending order: (channels, out·windows, 1).

    Lists of the largest so far are merged by twos, the same for all outputs.  An odd one out meets zeros, which are
    never above an absolute value; so they change no sum of the largest len(c), since that is at most in.
    """
    out, (parts, features, windows) = len(weight), shape
    if windows == 1:
        name = graph.view(name, parts, 1, features)
    else:
        name = graph.node("Transpose", graph.view(name, *shape), (parts, windows, features), perm=[0, 1, 3, 2])
    y = graph.conv(name, np.concatenate([select, -select])[:, :, None, None])
    y = graph.node("Add", y, graph.shapes[y], np.concatenate([-weight, weight])[:, None, :])
    y = graph.view(graph.node("Relu", y, graph.shapes[y]), 2, out * windows, features)
    wires = [np.ones(2)]  # a sorted list: its entries as combinations of the channels
    while features > 1:
        size, odd = len(wires), features % 2
        live = dict(enumerate(np.kron(np.eye(2), np.array(wires))))
        comparators, order = merge(list(range(size)), list(range(size, 2 * size)))
        order = order[: len(c)]
        kernel = (1, 2)
        for pairs, needed in stages(comparators, order):
            rows, live = compare(live, pairs, needed)
            rows = rows.reshape(len(rows), kernel[1], 1, -1).transpose(0, 3, 2, 1)
            y = graph.conv(y, rows, strides=kernel, pads=(0, 0, 0, odd))
            y = graph.node("Relu", y, graph.shapes[y])
            kernel, odd = (1, 1), 0
        wires = [live[w] for w in order]
        features = (features + 1) // 2
    return y, sum(a * w for a, w in zip(c, wires))


FLAVOURS: dict[str, Callable] = {"maxpool": _pooled, "relu": _compared}


# Layers: (graph, layer, value of its input) → value of its output.


def _expect(layer: nn.Module, value: _Value, dimensions: int) -> None:
    if len(value.shape) != dimensions:
        kind = {1: "flat values: put a flatten before it", 3: "images (C, H, W)"}[dimensions]
        raise ValueError(f"net: {type(layer).__name__} takes {kind}, and gets values of shape {value.shape}")


def _infinite(layer: nn.Module) -> None:
    if layer.p != math.inf:
        raise ValueError(f"net: {type(layer).__name__} has p={layer.p:g}; verifiers read p = ∞ alone")


def _biased(value: _Value, bias: Tensor | None) -> _Value:
    return value if bias is None else replace(value, offset=value.offset + _numbers(bias))


def _normalize(graph, layer, value):
    offset = (value.offset - _numbers(layer.mean)) * layer.scale
    return replace(value, mix=value.mix * layer.scale, offset=offset)


def _mean_shift(graph, layer, value):
    return replace(value, offset=value.offset - _numbers(layer.running_mean))


def _negate(graph, layer, value):
    return replace(value, mix=-value.mix, offset=-value.offset)


def _flatten(graph, layer, value):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(f"net: {layer} must flatten all but the batch dimension")
    features = math.prod(value.shape)
    return replace(value, shape=(features,), offset=np.repeat(value.offset, features // value.shape[0]))


def _crop(graph, layer, value):
    """A Conv whose kernel has one entry; few verifiers know Slice or Gather."""
    _expect(layer, value, 3)
    (channels, *size), side = value.shape, layer.size
    kernel = np.zeros([a - side + 1 for a in size])
    kernel[tuple((a - side) // 2 for a in size)] = 1
    return _convolved(graph, value, np.einsum("oc,hw->ochw", np.eye(channels), kernel), np.zeros(channels))


def _linear(graph, layer, value):
    _expect(layer, value, 1)
    return _product(graph, value, _numbers(layer.weight), layer.bias)


def _product(graph: _Graph, value: _Value, weight: np.ndarray, bias: Tensor | None = None) -> _Value:
    b = weight @ value.offset + (0 if bias is None else _numbers(bias))
    x = graph.view(value.name, *value.parts)
    return _given(graph.node("Gemm", x, b.shape, np.kron(value.mix, weight), b, transB=1), b.shape)


def _unrolled(layer: nn.Conv2d | LinfDistConv2d, w: np.ndarray) -> np.ndarray:
    """The kernel without groups and dilation, (out, C, kh, kw), with zeros between its entries."""
    out, depth, *kernel = w.shape
    spread = [d * (k - 1) + 1 for d, k in zip(layer.dilation, kernel)]
    dense = np.zeros((layer.groups, out // layer.groups, layer.groups, depth, *spread))
    grouped = w.reshape(layer.groups, -1, *w.shape[1:])
    for g in range(layer.groups):
        dense[g, :, g, :, :: layer.dilation[0], :: layer.dilation[1]] = grouped[g]
    return dense.reshape(out, -1, *spread)


def _convolved(
    graph: _Graph, value: _Value, weight: np.ndarray, bias: np.ndarray, stride=(1, 1), padding=(0, 0)
) -> _Value:
    """Zeros around an image are zeros of the value itself, so that with padding no offset may wait."""
    if any(padding) and value.offset.any():
        value = _settled(graph, value, value.mix[0] if len(value.mix) == 1 else 1.0)
    bias = bias + weight.sum((2, 3)) @ value.offset
    x = graph.view(value.name, *value.parts)
    weight = np.concatenate([m * weight for m in value.mix], axis=1)
    y = graph.conv(x, weight, bias, tuple(stride), (*padding, *padding))
    return _given(y, graph.shapes[y])


def _conv(graph, layer, value):
    _expect(layer, value, 3)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"net: {layer} must have padding_mode='zeros' and padding in numbers")
    bias = np.zeros(layer.out_channels) if layer.bias is None else _numbers(layer.bias)
    return _convolved(graph, value, _unrolled(layer, _numbers(layer.weight)), bias, layer.stride, layer.padding)


def _relu(graph, layer, value):
    """relu(s·x) = s·relu(x) for s > 0, so a scale may wait."""
    value = _settled(graph, value, float(abs(value.mix).max()))
    return replace(value, name=graph.node("Relu", value.name, graph.shapes[value.name]))


def _tanh(graph, layer, value):
    name = _settled(graph, value, 1.0).name
    return _given(graph.node("Tanh", name, graph.shapes[name]), value.shape)


def _dist(graph, layer, value):
    _expect(layer, value, 1)
    _infinite(layer)
    return _distances(graph, layer, value, FLAVOURS[graph.flavour])


def _sort_dist(graph, layer, value):
    """p is that of training: evaluation does not depend on it."""
    _expect(layer, value, 1)
    c = coefficients(layer.rho, layer.k, layer.in_features)
    largest = FLAVOURS[graph.flavour] if len(c) == 1 else functools.partial(_compared, c=c)
    return _distances(graph, layer, value, largest)


def _distances(graph: _Graph, layer: LinfDistLinear | SortDistLinear, value: _Value, largest: Callable) -> _Value:
    weight = _numbers(layer.weight)
    out, shape = len(weight), (len(value.mix), *value.shape, 1)
    y, mix = largest(graph, value.name, shape, np.tile(value.mix, (out, 1)), weight - value.offset)
    return _biased(_Value(y, (out,), mix, np.zeros(out)), layer.bias)


def _dist_conv(graph, layer, value):
    """Windows by a Conv whose kernels have one entry each, then distances of all of them."""
    _expect(layer, value, 3)
    _infinite(layer)
    weight = _numbers(layer.weight)
    out, depth, *kernel = weight.shape
    features, groups = math.prod(weight.shape[1:]), layer.groups
    conv = (layer.stride, layer.padding, layer.dilation, groups)
    shape = output_shape((1, *value.shape), weight.shape, conv)[1:]
    one_hot = np.tile(np.eye(features), (groups, 1)).reshape(groups * features, depth, *kernel)
    windows = _convolved(
        graph, value, _unrolled(layer, one_hot), np.zeros(groups * features), layer.stride, layer.padding
    )
    view, select = (groups, features, math.prod(shape[1:])), np.repeat(np.eye(groups), out // groups, axis=0)
    y, mix = FLAVOURS[graph.flavour](graph, windows.name, view, select, weight.reshape(out, -1))
    return _biased(_Value(y, shape, mix, np.zeros(out)), layer.bias)


EMITTERS: dict[type, Callable] = {
    Normalize: _normalize,
    CenterCrop: _crop,
    nn.Flatten: _flatten,
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    SortDistLinear: _sort_dist,
    MeanShift: _mean_shift,
    Negate: _negate,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
}


def _check(net: Net, flavour: str) -> None:
    """Raises as ``verifier_model`` says."""
    if not isinstance(net, Net):
        raise TypeError(f"net must be a linf_plugin.Net, got {type(net).__name__}")
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour must be one of {', '.join(FLAVOURS)}, got {flavour!r}")
    if any(m.training for m in net.modules()):
        raise ValueError("net is in training mode: call net.eval() first")
    for name, a in tensors(net).items():
        if a.dtype != torch.float32:
            raise ValueError(f"{name} of net must be float32, got {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{name} of net contains NaN or infinite values")


@torch.no_grad()
def verifier_model(net: Net, flavour: str) -> onnx.ModelProto:
    """The net as a chain of Conv, Gemm, Add, Relu, MaxPool, Tanh, Transpose and Reshape, for other verifiers.

    Input ``x`` (1, C, H, W) float32, raw pixels; output ``logits`` (1, classes).  Opset 13, every shape known, no
    attribute that Marabou 2.0 ignores.  Normalisation, means and biases are folded into weights in float64 and
    rounded once, so the logits differ from the net's by some roundings of the largest activation.

    Args:
        net: in evaluation mode, distances at p = ∞; of a sorted sum p does not matter.
        flavour: "maxpool", with a MaxPool (stride = kernel) for each layer of distances; "relu", with ReLU alone.
            Sorted sums are ReLUs in both.  Transpose is in convolutional distances of the flavour "relu" alone.

    Raises:
        TypeError: net is not a ``Net``.
        ValueError: flavour is unknown; the net is in training mode, not float32, not finite, has a finite p, a layer
            whose input it does not fit, or gives no logits (1, classes).
    """
    _check(net, flavour)
    graph = _Graph(flavour, net.input_shape)
    value = _given("x", net.input_shape)
    for layer in net:
        value = EMITTERS[type(layer)](graph, layer, value)
    if len(value.shape) != 1:
        raise ValueError(f"net must give logits (N, classes), gives {('N', *value.shape)}")
    if value.mix.tolist() != [1] or value.offset.any():
        value = _product(graph, value, np.eye(*value.shape * 2))
    graph.view(value.name, *value.shape)
    return graph.model(*value.shape)
