"""The operations of a traced net as nodes of an ONNX graph: one table of rules."""

import math
from collections.abc import Callable

import torch
from torch import nn

from linf_plugin.graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Slope,
    Softplus,
)
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.refusal import rule_of

from ..builder import Graph
from ..graph import bias_of, convolution, gemm, nodes_of_layer
from .describe import average_form, largest_form
from .folding import steps
from .forms import Shape, move_form


def _layer(g: Graph, i: int, module: nn.Module, xs: list[str], shape: Shape) -> str:
    return nodes_of_layer(g, i, module, xs[0], shape)


# Products.


def _spread(g: Graph, i: int, layer: nn.ConvTranspose2d, x: str, weight: str, bias: bool | str, shape: Shape) -> str:
    named = (bias,) if isinstance(bias, str) else bias_of(g, i, layer) if bias else ()
    return g.node(
        "ConvTranspose",
        x,
        weight,
        *named,
        shape=shape,
        group=layer.groups,
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=[*layer.padding] * 2,
        dilations=layer.dilation,
        output_padding=layer.output_padding,
    )


PRODUCT_NODES: dict[type[nn.Module], Callable[..., str]] = {
    nn.Linear: gemm,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.ConvTranspose1d: _spread,
    nn.ConvTranspose2d: _spread,
}


def product(g: Graph, i: int, layer: nn.Module, x: str, weight: str, bias: bool | str, shape: Shape) -> str:
    """Adds a linear layer or a convolution with this weight.

    Args:
        x: the name of its input.
        weight: the name of a weight.
        bias: whether the layer's bias is added, or the name of another one.
        shape: of its output for one sample.
    """
    return PRODUCT_NODES[type(layer)](g, i, layer, x, weight, bias, shape)


def _product(g: Graph, i: int, layer: nn.Module, xs: list[str], shape: Shape) -> str:
    return product(g, i, layer, xs[0], g.constant(f"{i}.weight", layer.weight), True, shape)


# Moves, sums and maxima.


def _joined(g: Graph, xs: list[str], padded: bool) -> tuple[str, int]:
    """Returns the numbers of each sample in a row, and how many there are; ``padded``: with a zero behind them."""
    numbers = [math.prod(g.shapes[x]) for x in xs]
    rows = [
        x if len(g.shapes[x]) == 1 else g.node("Flatten", x, axis=1, shape=(n,))
        for x, n in zip(xs, numbers, strict=True)
    ]
    total = sum(numbers)
    y = rows[0] if len(rows) == 1 else g.node("Concat", *rows, axis=1, shape=(total,))
    if padded:
        y = g.node("Pad", y, g.constant("one zero", [0, 0, 0, 1]), shape=(total + 1,))
    return y, total


def _gathered(g: Graph, i: int, gather: Gather, xs: list[str]) -> str:
    """Returns the numbers that an index names, in the shape of the index."""
    y, total = _joined(g, xs, gather.padded)
    index = torch.where(gather.index < 0, total, gather.index)
    return g.node("Gather", y, g.constant(f"{i}.index", index), axis=1, shape=tuple(index.shape))


def _move(g: Graph, i: int, module: Gather, xs: list[str], shape: Shape) -> str:
    form = move_form(module.index, [g.shapes[x] for x in xs])
    if form is None:
        return _gathered(g, i, module, xs)
    (name, a), x = form, xs[0]
    if name == "concat":
        return g.node("Concat", *xs, axis=1 + a["axis"], shape=shape)
    if name == "reshape":
        if len(shape) == 1:
            return g.node("Flatten", x, axis=1, shape=shape)
        return g.reshaped(x, [0, *shape], shape)
    if name == "transpose":
        return g.node("Transpose", x, perm=[0, *(1 + d for d in a["perm"])], shape=shape)
    if name == "pad":
        return _padded(g, i, x, a["pads"])
    for d, places in enumerate(a["axes"]):
        if places is not None:
            before = g.shapes[x]
            places = g.constant(f"{i}.places {d}", places)
            x = g.node("Gather", x, places, axis=1 + d, shape=(*before[:d], shape[d], *before[d + 1 :]))
    return x


def _padded(g: Graph, i: int, x: str, pads: list[int]) -> str:
    """Adds zeros around a value: one zero beside each dimension, which is then taken as often as it is needed.

    A node Pad must not stand before a pool: onnxruntime makes them one node and takes −∞ for the zeros of a maximum.
    The zero lies where it makes the order of the places another one, so that their Gather is never left out.
    """
    shape = list(g.shapes[x])
    for d, (begin, end) in enumerate(zip(pads[-2::-2], pads[-1::-2]), len(shape) - len(pads) // 2):
        if begin == end == 0:
            continue
        size, first = shape[d], begin == 0
        sides = [0] * 2 * (len(shape) + 1)
        sides[1 + d + (0 if first else len(shape) + 1)] = 1
        shape[d] = size + 1
        name = f"one zero of {len(shape)}, {'before' if first else 'behind'} {d}"
        x = g.node("Pad", x, g.constant(name, sides), shape=tuple(shape))
        zero, own = (0, list(range(1, size + 1))) if first else (size, list(range(size)))
        shape[d] = begin + size + end
        places = g.constant(f"{i}.places {d}", [zero] * begin + own + [zero] * end)
        x = g.node("Gather", x, places, axis=1 + d, shape=tuple(shape))
    return x


def _over(g: Graph, op: str, x: str, axes: list[int], keepdims: bool, shape: Shape) -> str:
    named = g.constant("axes " + ",".join(str(1 + d) for d in axes), [1 + d for d in axes])
    return g.node(op, x, named, keepdims=int(keepdims), shape=shape)


def _window(form: dict) -> dict:
    return {
        "kernel_shape": form["kernel"],
        "strides": form["stride"],
        "pads": [end for ends in zip(*form["pads"]) for end in ends],
    }


def _average(g: Graph, i: int, module: Average, xs: list[str], shape: Shape) -> str:
    form = average_form(module, [g.shapes[x] for x in xs])
    if form is None:
        y = _over(g, "ReduceSum", _gathered(g, i, module.gather, xs), [len(shape)], False, shape)
        if bool((module.divisor == 1).all()):
            return y
        return g.same("Div", y, g.constant(f"{i}.divisor", module.divisor))
    name, a = form
    if name == "over":
        return _over(g, "ReduceMean" if a["mean"] else "ReduceSum", xs[0], a["axes"], a["keepdims"], shape)
    return g.node("AveragePool", xs[0], count_include_pad=int(not a["inside"]), shape=shape, **_window(a))


def _largest(g: Graph, i: int, module: Largest, xs: list[str], shape: Shape) -> str:
    form = largest_form(module, [g.shapes[x] for x in xs])
    end = "Max" if module.sign > 0 else "Min"
    if form is None:
        return _over(g, f"Reduce{end}", _gathered(g, i, module.gather, xs), [len(shape)], False, shape)
    name, a = form
    if name == "pair":
        return g.same(end, *xs)
    if name == "over":
        return _over(g, f"Reduce{end}", xs[0], a["axes"], a["keepdims"], shape)
    return g.node("MaxPool", xs[0], dilations=a["dilation"], shape=shape, **_window(a))


# Number by number.


def _add(g: Graph, i: int, module: Add, xs: list[str], shape: Shape) -> str:
    return g.same("Add" if module.sign > 0 else "Sub", *xs)


def _affine(g: Graph, i: int, module: Affine, xs: list[str], shape: Shape) -> str:
    y = xs[0]
    for op, name, there in zip(("Sub", "Mul", "Add"), ("centre", "factor", "offset"), steps(module)):
        if there:
            y = g.same(op, y, g.constant(f"{i}.{name}", getattr(module, name)))
    return y if y != xs[0] else g.same("Identity", y)


def _clamp(g: Graph, i: int, module: Clamp, xs: list[str], shape: Shape) -> str:
    ends = [
        g.constant(f"{i}.{name}", float(end)) if math.isfinite(end) else ""
        for name, end in (("low", module.low), ("high", module.high))
    ]
    return g.same("Clip", xs[0], *(ends if ends[1] else ends[:1]))


def _limit(g: Graph, i: int, module: Limit, xs: list[str], shape: Shape) -> str:
    return g.same("Max" if module.sign > 0 else "Min", xs[0], g.constant(f"{i}.end", module.end))


def _slope(g: Graph, i: int, module: Slope, xs: list[str], shape: Shape) -> str:
    return g.same("PRelu", xs[0], g.constant(f"{i}.slope", module.slope))


def _softplus(g: Graph, i: int, module: Softplus, xs: list[str], shape: Shape) -> str:
    if module.beta == 1:
        return g.same("Softplus", xs[0])
    beta = g.constant(f"{i}.beta", float(module.beta))
    return g.same("Div", g.same("Softplus", g.same("Mul", xs[0], beta)), beta)


def _unary(op: str) -> Callable[..., str]:
    return lambda g, i, module, xs, shape: g.same(op, xs[0])


# Type of an operation → (graph, index, module, values, shape of the output) → value of the output.
OPERATION_NODES: dict[type[nn.Module], Callable[..., str]] = {
    Gather: _move,
    Average: _average,
    Largest: _largest,
    Add: _add,
    Multiply: lambda g, i, module, xs, shape: g.same("Mul", *xs),
    Affine: _affine,
    Clamp: _clamp,
    Limit: _limit,
    Slope: _slope,
    Elu: lambda g, i, module, xs, shape: g.same("Elu", xs[0], alpha=module.alpha),
    Softplus: _softplus,
    nn.Sigmoid: _unary("Sigmoid"),
    **dict.fromkeys(PRODUCT_NODES, _product),
    **dict.fromkeys((nn.Identity, nn.ReLU, nn.Tanh, LinfDistLinear, LinfDistConv2d, SortDistLinear), _layer),
}


def nodes_of_operation(g: Graph, i: int, module: nn.Module, xs: list[str], shape: Shape) -> str:
    """Adds the nodes of operation i.

    Args:
        xs: the names of its values.
        shape: of its output for one sample.

    Returns:
        The name of its output.

    Raises:
        TypeError: ``OPERATION_NODES`` has no rule for it.
    """
    return rule_of(OPERATION_NODES, module, "ONNX node")(g, i, module, xs, shape)
