"""A net at p = ∞ as a plain ONNX graph that other verifiers read: Conv, Gemm, Add, Relu, MaxPool, Reshape."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from linf_plugin.kernels.reference import coefficients
from linf_plugin.layers.activations import MaxMin, ParamRamp
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.facts import RANDOM, TRAINED
from linf_plugin.layers.noise import DRAWS
from linf_plugin.layers.potential import PotentialConv2d, PotentialLinear
from linf_plugin.layers.reparametrised import MATERIALISE
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.folded import ADVICE
from linf_plugin.models.materialised import materialise
from linf_plugin.models.net import Net
from linf_plugin.refusal import Refusal, rule_of
from linf_plugin.state import tensors

from .plain_distances import DISTANCE_NODES, compared
from .plain_graph import PlainGraph, Value, given, numbers, settled


def _expect(layer: nn.Module, value: Value, dimensions: int) -> None:
    if len(value.shape) != dimensions:
        kind = {1: "flat values: put a flatten before it", 3: "images (C, H, W)"}[dimensions]
        raise ValueError(f"net: {type(layer).__name__} takes {kind}, and gets values of shape {value.shape}")


def _infinite(layer: nn.Module) -> None:
    if layer.p != math.inf:
        raise ValueError(f"net: {type(layer).__name__} has p={layer.p:g}; verifiers read only p = ∞")


def _biased(value: Value, bias: Tensor | None) -> Value:
    return value if bias is None else replace(value, offset=value.offset + numbers(bias))


def _normalize(graph, layer, value):
    offset = (value.offset - numbers(layer.mean)) * layer.scale
    return replace(value, mix=value.mix * layer.scale, offset=offset)


def _mean_shift(graph, layer, value):
    return replace(value, offset=value.offset - numbers(layer.running_mean))


def _negate(graph, layer, value):
    return replace(value, mix=-value.mix, offset=-value.offset)


def _flatten(graph, layer, value):
    if (layer.start_dim, layer.end_dim) != (1, -1):
        raise ValueError(f"net: {layer} must flatten all but the batch dimension")
    features = math.prod(value.shape)
    return replace(value, shape=(features,), offset=np.repeat(value.offset, features // value.shape[0]))


def _crop(graph, layer, value):
    """A Conv whose kernel has one entry: few verifiers know Slice or Gather."""
    _expect(layer, value, 3)
    (channels, *size), side = value.shape, layer.size
    kernel = np.zeros([a - side + 1 for a in size])
    kernel[tuple((a - side) // 2 for a in size)] = 1
    return _convolved(graph, value, np.einsum("oc,hw->ochw", np.eye(channels), kernel), np.zeros(channels))


def _linear(graph, layer, value):
    _expect(layer, value, 1)
    bias = None if layer.bias is None else numbers(layer.bias)
    return _product(graph, value, numbers(layer.weight), bias)


def _product(graph: PlainGraph, value: Value, weight: np.ndarray, bias: np.ndarray | None = None) -> Value:
    b = weight @ value.offset + (0 if bias is None else bias)
    x = graph.view(value.name, *value.parts)
    return given(graph.node("Gemm", x, b.shape, np.kron(value.mix, weight), b, transB=1), b.shape)


def _unrolled(layer: nn.Conv2d | LinfDistConv2d, w: np.ndarray) -> np.ndarray:
    """The kernel (out, C, kh, kw) with zeros in place of groups and dilation."""
    out, depth, *kernel = w.shape
    spread = [d * (k - 1) + 1 for d, k in zip(layer.dilation, kernel)]
    dense = np.zeros((layer.groups, out // layer.groups, layer.groups, depth, *spread))
    grouped = w.reshape(layer.groups, -1, *w.shape[1:])
    for g in range(layer.groups):
        dense[g, :, g, :, :: layer.dilation[0], :: layer.dilation[1]] = grouped[g]
    return dense.reshape(out, -1, *spread)


def _convolved(
    graph: PlainGraph, value: Value, weight: np.ndarray, bias: np.ndarray, stride=(1, 1), padding=(0, 0)
) -> Value:
    """A convolution.  Padding adds zeros to the value itself, so with padding no offset may wait."""
    if any(padding) and value.offset.any():
        value = settled(graph, value, value.mix[0] if len(value.mix) == 1 else 1.0)
    bias = bias + weight.sum((2, 3)) @ value.offset
    x = graph.view(value.name, *value.parts)
    weight = np.concatenate([m * weight for m in value.mix], axis=1)
    y = graph.conv(x, weight, bias, tuple(stride), (*padding, *padding))
    return given(y, graph.shapes[y])


def _conv(graph, layer, value):
    _expect(layer, value, 3)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"net: {layer} must have padding_mode='zeros' and padding in numbers")
    bias = np.zeros(layer.out_channels) if layer.bias is None else numbers(layer.bias)
    return _convolved(graph, value, _unrolled(layer, numbers(layer.weight)), bias, layer.stride, layer.padding)


def _relu(graph, layer, value):
    """relu(s·x) = s·relu(x) for s > 0, so a positive scale may wait."""
    value = settled(graph, value, float(abs(value.mix).max()))
    return replace(value, name=graph.node("Relu", value.name, graph.shapes[value.name]))


def _ramp(graph, layer, value):
    """r − relu(r − relu(x))."""
    for _ in range(2):
        value = _relu(graph, layer, value)
        value = replace(value, mix=-value.mix, offset=numbers(layer.top))
    return value


def _max_min(graph, layer, value):
    """max(a, b) = relu(a − b) + b and min(a, b) = b − relu(b − a), where b = relu(b) − relu(−b)."""
    one = np.eye(value.shape[0] // 2)
    before = np.kron(one, [[1, -1], [-1, 1], [0, 1], [0, -1]])
    after = np.kron(one, [[1, 0, 1, -1], [0, -1, 1, -1]])
    value = _relu(graph, layer, _mixed(graph, layer, value, before))
    return _mixed(graph, layer, value, after)


def _mixed(graph: PlainGraph, layer: nn.Module, value: Value, weight: np.ndarray) -> Value:
    """Combinations of the channels."""
    if len(value.shape) == 1:
        return _product(graph, value, weight)
    _expect(layer, value, 3)
    return _convolved(graph, value, weight[:, :, None, None], np.zeros(len(weight)))


def _potential(graph, layer, value):
    """x is relu(x) − relu(−x), so a residual layer is a chain: relu of x, −x and W·x + b, and combinations of these."""
    w, shape = numbers(layer.weight), layer.weight.shape
    same = np.eye(shape[1])
    if isinstance(layer, PotentialConv2d):
        _expect(layer, value, 3)
        at_middle = np.zeros((*same.shape, *shape[2:]))
        at_middle[:, :, shape[2] // 2, shape[3] // 2] = same
        same, product = at_middle, functools.partial(_convolved, padding=layer.padding)
    else:
        _expect(layer, value, 1)
        product = _product
    bias = np.zeros(len(w)) if layer.bias is None else numbers(layer.bias)
    bias = np.concatenate([np.zeros(2 * shape[1]), bias])
    value = _relu(graph, layer, product(graph, value, np.concatenate([same, -same, w]), bias))
    back = np.swapaxes(w, 0, 1)[..., ::-1, ::-1] if w.ndim == 4 else w.T
    return product(graph, value, np.concatenate([same, -same, -back], axis=1), np.zeros(shape[1]))


def _tanh(graph, layer, value):
    name = settled(graph, value, 1.0).name
    return given(graph.node("Tanh", name, graph.shapes[name]), value.shape)


def _dist(graph, layer, value):
    _expect(layer, value, 1)
    _infinite(layer)
    return _distances(graph, layer, value, DISTANCE_NODES[graph.flavour])


def _sort_dist(graph, layer, value):
    """The exponent p is one of training; evaluation does not depend on it."""
    _expect(layer, value, 1)
    c = coefficients(layer.rho, layer.k, layer.in_features)
    largest = DISTANCE_NODES[graph.flavour] if len(c) == 1 else functools.partial(compared, c=c)
    return _distances(graph, layer, value, largest)


def _distances(graph: PlainGraph, layer: LinfDistLinear | SortDistLinear, value: Value, largest: Callable) -> Value:
    weight = numbers(layer.weight)
    out, shape = len(weight), (len(value.mix), *value.shape, 1)
    y, mix = largest(graph, value.name, shape, np.tile(value.mix, (out, 1)), weight - value.offset)
    return _biased(Value(y, (out,), mix, np.zeros(out)), layer.bias)


def _dist_conv(graph, layer, value):
    """Windows by a Conv whose kernels have one entry each, then the distances of all windows."""
    _expect(layer, value, 3)
    _infinite(layer)
    weight = numbers(layer.weight)
    out, depth, *kernel = weight.shape
    features, groups = math.prod(weight.shape[1:]), layer.groups
    shape = layer.geometry.output_shape((1, *value.shape), weight.shape)[1:]
    one_hot = np.tile(np.eye(features), (groups, 1)).reshape(groups * features, depth, *kernel)
    windows = _convolved(
        graph, value, _unrolled(layer, one_hot), np.zeros(groups * features), layer.stride, layer.padding
    )
    view, select = (groups, features, math.prod(shape[1:])), np.repeat(np.eye(groups), out // groups, axis=0)
    y, mix = DISTANCE_NODES[graph.flavour](graph, windows.name, view, select, weight.reshape(out, -1))
    return _biased(Value(y, shape, mix, np.zeros(out)), layer.bias)


# Class of a layer → (graph, layer, value of its input) → value of its output.
VERIFIER_NODES: dict[type[nn.Module], Callable | Refusal] = {
    Normalize: _normalize,
    CenterCrop: _crop,
    nn.Flatten: _flatten,
    nn.Identity: lambda graph, layer, value: value,
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    SortDistLinear: _sort_dist,
    MeanShift: _mean_shift,
    Negate: _negate,
    nn.Linear: _linear,
    nn.Conv2d: _conv,
    nn.ReLU: _relu,
    nn.Tanh: _tanh,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Refusal(ADVICE)),
    ParamRamp: _ramp,
    MaxMin: _max_min,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def _check(net: Net, flavour: str) -> None:
    """Raises as ``verifier_model`` says."""
    if not isinstance(net, Net):
        raise TypeError(f"net must be a linf_plugin.Net, got {type(net).__name__}")
    if flavour not in DISTANCE_NODES:
        raise ValueError(f"flavour must be one of {', '.join(DISTANCE_NODES)}, got {flavour!r}")
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

    The input ``x`` is (1, C, H, W) float32, raw pixels; the output ``logits`` is (1, classes).  The opset is 13, every
    shape is known, and no attribute is there that Marabou 2.0 ignores.  Normalisation, means and biases are folded into
    the weights in float64 and rounded once.  ``materialise`` does so to batch normalisation, and replaces layers for
    training.  So the logits differ from those of the net by some roundings of the largest activation.

    Args:
        net: in evaluation mode, with distances at p = ∞ (the p of a sorted sum does not matter).
        flavour: "maxpool": a MaxPool (stride = kernel) for each layer of distances; "relu": only ReLUs.  Sorted sums
            are ReLUs in both.  Only convolutional distances in the flavour "relu" have a Transpose.

    Returns:
        The model.

    Raises:
        TypeError: net is not a ``Net``, or ``VERIFIER_NODES`` has no rule for a layer.
        ValueError: flavour is unknown; or the net is in training mode, is not float32, is not finite, has a finite p,
            has a layer that does not take the output of the layer before it, or batch normalisation that cannot be
            folded, or does not give logits (1, classes).
    """
    if isinstance(net, Net) and not any(m.training for m in net.modules()):
        net = materialise(net)
    _check(net, flavour)
    graph = PlainGraph(flavour, net.input_shape)
    value = given("x", net.input_shape)
    for layer in net:
        value = rule_of(VERIFIER_NODES, layer, "verifier node")(graph, layer, value)
    if len(value.shape) != 1:
        raise ValueError(f"net must give logits (N, classes), gives {('N', *value.shape)}")
    empty = not graph.nodes and graph.shapes["x"] == value.shape
    if empty or value.mix.tolist() != [1] or value.offset.any():
        value = _product(graph, value, np.eye(*value.shape * 2))
    graph.view(value.name, *value.shape)
    return graph.model(*value.shape)
