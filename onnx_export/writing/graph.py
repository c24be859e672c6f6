"""Layers as nodes of an ONNX graph: one table of rules."""

import math
from collections.abc import Callable

import numpy as np
from torch import nn

from linf_plugin.kernels.reference import coefficients
from linf_plugin.layers.activations import MaxMin, ParamRamp
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.facts import RANDOM, TRAINED
from linf_plugin.layers.noise import DRAWS
from linf_plugin.layers.potential import Potential, PotentialConv2d, PotentialLinear
from linf_plugin.layers.reparametrised import MATERIALISE
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.folded import ADVICE
from linf_plugin.refusal import Refusal, rule_of

from ..functions.domain import LINF
from .builder import Graph


def biased(g: Graph, i: int, layer: nn.Module, y: str) -> str:
    """y with the bias of layer i, where it has one."""
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


def operator(layer: LinfDistLinear | SortDistLinear | LinfDistConv2d) -> tuple[str, dict]:
    """The distance operator of a layer: its name and its attributes."""
    if isinstance(layer, SortDistLinear):
        return "SortDist", {"coefficients": coefficients(layer.rho, layer.k, layer.in_features)}
    name, attributes = ("LinfDist", {}) if layer.p == math.inf else ("LpDist", {"p": layer.p})
    if isinstance(layer, LinfDistConv2d):
        window = {"strides": layer.stride, "pads": [*layer.padding] * 2, "dilations": layer.dilation}
        return name + "Conv", window | attributes
    return name, attributes


def _dist(g, i, layer, x, shape):
    op, attributes = operator(layer)
    (rows,), w = g.rows(x), g.constant(f"{i}.weight", layer.weight)
    y = g.node(op, rows, w, shape=(len(layer.weight),), domain=LINF.domain, **attributes)
    return g.unrows(biased(g, i, layer, y), x)


def _dist_conv(g, i, layer, x, shape):
    op, attributes = operator(layer)
    w = g.constant(f"{i}.weight", layer.weight)
    return biased(g, i, layer, g.node(op, x, w, shape=shape, domain=LINF.domain, **attributes))


def _mean_shift(g, i, layer, x, shape):
    return g.shifted("Sub", x, f"{i}.running_mean", layer.running_mean)


def bias_of(g: Graph, i: int, layer: nn.Module) -> tuple[str, ...]:
    """The bias of layer i as an input of a node; empty where it has none."""
    return () if layer.bias is None else (g.constant(f"{i}.bias", layer.bias),)


def _bias(g: Graph, i: int, layer: nn.Module, bias: bool | str) -> tuple[str, ...]:
    if isinstance(bias, str):
        return (bias,)
    return bias_of(g, i, layer) if bias else ()


def gemm(g: Graph, i: int, layer: nn.Linear, x: str, weight: str, bias: bool | str, shape) -> str:
    """A linear layer with this weight.  bias: whether its bias is added, or the name of another one."""
    (rows,) = g.rows(x)
    inputs = (rows, weight, *_bias(g, i, layer, bias))
    y = g.node("Gemm", *inputs, shape=(layer.out_features,), alpha=1.0, beta=1.0, transA=0, transB=1)
    return g.unrows(y, x)


# A padding mode in torch → in NumPy.
NUMPY_PADDING = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def convolution(g: Graph, i: int, layer: nn.Conv2d, x: str, weight: str, bias: bool | str, shape) -> str:
    """A convolution of one or two dimensions with this weight.  bias: as for ``gemm``."""
    around = layer._reversed_padding_repeated_twice
    sides = list(zip(around[-2::-2], around[-1::-2]))  # of each dimension
    pads = [n for end in zip(*sides) for n in end]
    if layer.padding_mode != "zeros":  # by Gather: Pad fails on an empty batch in one of these modes
        for axis, beside in enumerate(sides, 2):
            sizes = g.shapes[x]
            index = np.pad(np.arange(sizes[axis - 1]), beside, NUMPY_PADDING[layer.padding_mode])
            index = g.constant(f"{i}.padding {axis}", index.astype(np.int64))
            wider = (*sizes[: axis - 1], sizes[axis - 1] + sum(beside), *sizes[axis:])
            x, pads = g.node("Gather", x, index, axis=axis, shape=wider), [0] * len(pads)
    return g.node(
        "Conv",
        x,
        weight,
        *_bias(g, i, layer, bias),
        shape=shape,
        group=layer.groups,
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=pads,
        dilations=layer.dilation,
    )


def _ramp(g, i, layer, x, shape):
    return g.shifted("Min", g.same("Relu", x), f"{i}.top", layer.top)


def _max_min(g, i, layer, x, shape):
    channels, *rest = shape
    pairs, one = (channels // 2, 2, *rest), (channels // 2, 1, *rest)
    x, axis = g.reshaped(x, [0, *pairs], pairs), g.constant("axis 2", [2])
    ends = [g.node(f"Reduce{end}", x, axis, keepdims=1, shape=one) for end in ("Max", "Min")]
    return g.reshaped(g.node("Concat", *ends, axis=2, shape=pairs), [0, *shape], shape)


def branch(g: Graph, i: int, layer: Potential, shape) -> list[Callable[[str, str, bool | str], str]]:
    """W·x + b and Wᵀ·h of layer i as functions (value, weight, bias) → value, with arguments as those of ``gemm``."""
    make = convolution if isinstance(layer, PotentialConv2d) else gemm
    inner = (layer.inner, *shape[1:])
    return [
        lambda x, weight, bias, part=part, of=of: make(g, i, part, x, weight, bias, of)
        for part, of in zip(layer.branch(), (inner, shape))
    ]


def weights_of_branch(g: Graph, i: int, layer: Potential) -> tuple[str, str]:
    """The constants of W and Wᵀ."""
    _, back = layer.branch()
    return g.constant(f"{i}.weight", layer.weight), g.constant(f"{i}.adjoint", back.weight)


def _potential(g, i, layer, x, shape):
    (into, back), (weight, adjoint) = branch(g, i, layer, shape), weights_of_branch(g, i, layer)
    return g.same("Sub", x, back(g.same("Relu", into(x, weight, True)), adjoint, False))


def _product(make: Callable) -> Callable:
    """The rule of a layer of products, with its own weight and bias."""
    return lambda g, i, layer, x, shape: make(g, i, layer, x, g.constant(f"{i}.weight", layer.weight), True, shape)


def _unary(op: str) -> Callable:
    return lambda g, i, layer, x, shape: g.same(op, x)


# Class of a layer → (graph, index, layer, value, shape of the output) → value of the output.
NODES: dict[type[nn.Module], Callable | Refusal] = {
    Normalize: _normalize,
    CenterCrop: _crop,
    nn.Flatten: _flatten,
    nn.Identity: _unary("Identity"),
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist_conv,
    SortDistLinear: _dist,
    MeanShift: _mean_shift,
    Negate: _unary("Neg"),
    nn.Linear: _product(gemm),
    nn.Conv2d: _product(convolution),
    nn.ReLU: _unary("Relu"),
    nn.Tanh: _unary("Tanh"),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Refusal(ADVICE)),
    ParamRamp: _ramp,
    MaxMin: _max_min,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def nodes_of_layer(g: Graph, i: int, layer: nn.Module, x: str, shape: tuple[int, ...]) -> str:
    """Adds the nodes of layer i.

    Args:
        x: the name of its input.
        shape: of its output for one sample.

    Returns:
        The name of its output.

    Raises:
        TypeError: ``NODES`` has no rule for the layer.
    """
    return rule_of(NODES, layer, "ONNX node")(g, i, layer, x, shape)
