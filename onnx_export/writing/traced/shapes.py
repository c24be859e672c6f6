"""The shape of each value of a graph for one sample, and the products that it costs, before anything is computed."""

import math
from collections.abc import Callable

import torch
from torch import nn

from linf_plugin.graphs.graph import Graph
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
    Scale,
    Shift,
    Slope,
    Softplus,
)
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.sizes import MOST_VALUES
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.spec import MOST_PAIRS
from linf_plugin.refusal import rule_of

Shape = tuple[int, ...]
Cost = tuple[Shape, int]  # of one sample: the shape of a value, and how many products or differences it takes


def _same(module: nn.Module, x: Shape) -> Cost:
    return x, math.prod(x)


def _with_constants(*names: str) -> Callable[[nn.Module, Shape], Cost]:
    """The rule of an operation whose constants must broadcast to the value."""

    def shape(module: nn.Module, x: Shape) -> Cost:
        for name in names:
            constant = tuple(getattr(module, name).shape)
            if len(constant) > len(x) or torch.broadcast_shapes(constant, x) != torch.Size(x):
                raise ValueError(f"its {name} has the shape {constant}, which does not fit a value of shape {x}")
        return x, math.prod(x)

    return shape


def _of_two(module: nn.Module, x: Shape, y: Shape) -> Cost:
    if x != y:
        raise ValueError(f"its values have the shapes {x} and {y}")
    return x, math.prod(x)


def _gathered(module: Gather | Average | Largest, *xs: Shape) -> Cost:
    index, most = getattr(module, "gather", module).index, sum(map(math.prod, xs))
    least = 0 if isinstance(module, Largest) else -1
    if index.numel() and not (least <= int(index.min()) and int(index.max()) < most):
        raise ValueError(f"its index names numbers that are not there: there are {most}")
    return tuple(index.shape if isinstance(module, Gather) else index.shape[:-1]), index.numel()


def _rows(module: nn.Module, x: Shape) -> Cost:
    out, features = module.weight.shape
    if not x or x[-1] != features:
        raise ValueError(f"it takes {features} numbers in a row, and its value has the shape {x}")
    return (*x[:-1], out), math.prod(x) * out


def _windows(module: nn.Module, x: Shape) -> Cost:
    out, depth, *kernel = module.weight.shape
    if len(x) != 1 + len(kernel) or x[0] != depth * module.groups:
        raise ValueError(f"it takes {depth * module.groups} channels, and its value has the shape {x}")
    sides = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(x[1:], module.padding, module.dilation, kernel, module.stride)
    ]
    padded = math.prod(n + 2 * p for n, p in zip(x[1:], module.padding)) * x[0]
    return _image(module, (out, *sides), depth * out * math.prod(kernel) * math.prod(sides), padded)


def _spread(module: nn.Module, x: Shape) -> Cost:
    channels, depth, *kernel = module.weight.shape
    if len(x) != 1 + len(kernel) or x[0] != channels:
        raise ValueError(f"it takes {channels} channels, and its value has the shape {x}")
    if any(o >= max(s, d) for o, s, d in zip(module.output_padding, module.stride, module.dilation)):
        raise ValueError("its output_padding is not smaller than its stride or its dilation")
    geometry = zip(x[1:], module.padding, module.dilation, kernel, module.stride, module.output_padding)
    sides = [(n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, p, d, k, s, o in geometry]
    padded = math.prod(n + 2 * p for n, p in zip(sides, module.padding)) * depth * module.groups
    return _image(module, (depth * module.groups, *sides), math.prod(x) * depth * math.prod(kernel), padded)


def _image(module: nn.Module, shape: Shape, cost: int, padded: int) -> Cost:
    if min(shape) < 1:
        raise ValueError(f"its value would have the shape {shape}")
    if padded > MOST_VALUES:
        raise ValueError(f"its padded value would have more than {MOST_VALUES:,} numbers")
    return shape, cost


# Type of an operation → (module, shapes of its inputs) → shape and cost.  Raises ValueError if they do not fit.
SHAPES: dict[type[nn.Module], Callable[..., Cost]] = {
    nn.Identity: _same,
    Gather: _gathered,
    Average: _gathered,
    Largest: _gathered,
    Add: _of_two,
    Multiply: _of_two,
    **dict.fromkeys((Affine, Shift, Scale), _with_constants("factor", "centre", "offset")),
    Clamp: _same,
    Limit: _with_constants("end"),
    Slope: _with_constants("slope"),
    Elu: _same,
    Softplus: _same,
    nn.ReLU: _same,
    nn.Tanh: _same,
    nn.Sigmoid: _same,
    nn.Linear: _rows,
    LinfDistLinear: _rows,
    SortDistLinear: _rows,
    nn.Conv1d: _windows,
    nn.Conv2d: _windows,
    LinfDistConv2d: _windows,
    nn.ConvTranspose1d: _spread,
    nn.ConvTranspose2d: _spread,
}


def shape_after(module: nn.Module, *shapes: Shape) -> Cost:
    """Returns the shape of a value for one sample, and its cost.

    Raises:
        TypeError: the operation is not written to files.
        ValueError: it does not fit its inputs, or its value has more than ``MOST_VALUES`` numbers.
    """
    shape, cost = rule_of(SHAPES, module, "ONNX node")(module, *shapes)
    if math.prod(shape) > MOST_VALUES:
        raise ValueError(f"its value would have more than {MOST_VALUES:,} numbers a sample")
    return shape, cost


def shapes_of(graph: Graph, shape: Shape) -> list[Shape]:
    """Returns the shape of each value of a graph for one sample, that of the input included.

    Raises:
        TypeError, ValueError: as ``shape_after``, or a sample costs more than ``MOST_PAIRS`` products.  The message
            names the place of the operation.
    """
    found, total = [tuple(shape)], 0
    for module, inputs, where in graph.nodes:
        try:
            value, cost = shape_after(module, *(found[i] for i in inputs))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from error
        total += cost
        if total > MOST_PAIRS:
            raise ValueError(f"{where}: one sample takes more than {MOST_PAIRS:,} products")
        found.append(value)
    return found
