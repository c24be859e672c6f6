"""Reads a traced net back from its description and the constants of its file.  Nothing in them is trusted."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin import plain
from linf_plugin.arguments import check_p, check_rho
from linf_plugin.graphs.graph import Graph, Node
from linf_plugin.graphs.operations import Add, Average, Clamp, Elu, Gather, Largest, Limit, Multiply, Slope, Softplus
from linf_plugin.layers import checks
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.sizes import MOST_VALUES
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.spec import MOST_LAYERS, MOST_PAIRS

from .folding import affine, noted
from .forms import Shape, filled, group_index, move_index
from .shapes import shape_after

MOST_PLACES = 2**27  # numbers in the indices of all forms together
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
MOST_SIZES = 8  # dimensions of a value

Arguments = dict[str, Any]
Tensors = dict[str, Tensor]
Build = Callable[[Arguments, Tensors, list[Shape]], nn.Module]


def _sizes(least: int) -> Callable:
    def check(value) -> None:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_SIZES:
            raise ValueError(f"must be a list of at most {MOST_SIZES} whole numbers")
        for each in value:
            checks.count(each, least)

    return check


def _pads(value) -> None:
    if not isinstance(value, list) or len(value) > MOST_SIZES:
        raise ValueError("must be a list of pairs")
    for each in value:
        checks.pair(0)(each)


def _places(value) -> None:
    if not isinstance(value, list) or len(value) > MOST_SIZES:
        raise ValueError("must be a list of lists")
    for each in value:
        if each is not None and not isinstance(each, list):
            raise ValueError("must be a list of lists")
        for place in each or ():
            checks.count(place, 0)


def _around(value) -> None:
    if not isinstance(value, list) or len(value) > 2 * MOST_SIZES:
        raise ValueError("must be a list of whole numbers")
    for each in value:
        checks.count(each, 0)


def _float32(value) -> None:
    checks.number(value)
    if ctypes.c_float(value).value != value:
        raise ValueError(f"must be a float32 number, got {value}")


def _alpha(value) -> None:
    _float32(value)
    if not 0 <= value <= 1:
        raise ValueError(f"must lie in [0, 1], got {value}")


_SIGN = {"sign": checks.only(1, -1)}
_OVER = {"axes": _sizes(0), "keepdims": checks.flag}
_WINDOW = {"kernel": _sizes(1), "stride": _sizes(1), "pads": _pads, "dilation": _sizes(1)}
_CONV = {"stride": _sizes(1), "padding": _sizes(0), "dilation": _sizes(1), "groups": checks.count}


# Moves and groups.


def _limited(numbers: int) -> None:
    if numbers > MOST_VALUES:
        raise ValueError(f"it moves more than {MOST_VALUES:,} numbers")


def _move(name: str) -> Build:
    def build(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
        if len(shapes) != 1 and name != "concat":
            raise ValueError("it takes one value")
        sizes = [len(p) if p is not None else n for p, n in zip(a.get("axes", ()), shapes[0])]
        around = zip(shapes[0][::-1], a.get("pads", [])[::2], a.get("pads", [])[1::2])
        for numbers in (math.prod(sizes), math.prod(n + b + e for n, b, e in around), sum(map(math.prod, shapes))):
            _limited(numbers)
        return Gather(move_index((name, a), shapes).contiguous())

    return build


def _index(tensors: Tensors, dimensions: int) -> Tensor:
    index = tensors["index"]
    if index.dim() < dimensions or index.numel() == 0:
        raise ValueError(f"its index has the shape {tuple(index.shape)}")
    return index


def _grouped(name: str, a: Arguments, shapes: list[Shape]) -> Tensor:
    if name == "pair":
        if len(shapes) != 2 or shapes[0] != shapes[1]:
            raise ValueError(f"its values have the shapes {shapes}")
        return group_index((name, a), shapes)
    (shape,) = shapes
    if name == "over":
        if len(set(a["axes"])) != len(a["axes"]) or max(a["axes"]) >= len(shape):
            raise ValueError(f"its axes are {a['axes']}, of a value of shape {shape}")
        return group_index((name, a), shapes)
    if len(shape) < 2 or any(len(a[key]) != len(shape) - 1 for key in _WINDOW):
        raise ValueError(f"its windows do not fit a value of shape {shape}")
    sides = list(zip(shape[1:], *(a[key] for key in _WINDOW)))
    if any(max(p) >= k or n + sum(p) <= d * (k - 1) for n, k, _, p, d in sides):
        raise ValueError(f"its windows do not fit a value of shape {shape}")
    windows = shape[0] * math.prod((n + sum(p)) // s + 1 for n, _, s, p, _ in sides)
    _limited(windows * math.prod(a["kernel"]))
    return group_index((name, a), shapes)


def _average(name: str) -> Build:
    def build(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
        index = _grouped(name, a, shapes)
        inside, terms = (index >= 0).sum(-1), torch.full(index.shape[:-1], index.shape[-1])
        if name == "over":
            return Average(index, terms if a["mean"] else torch.ones_like(terms))
        if not bool((inside > 0).all()):
            raise ValueError("a window lies beside the image")
        return Average(index, inside if a["inside"] else terms)

    return build


def _average_of_index(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    index, divisor = _index(tensors, 1), tensors["divisor"]
    if divisor.shape != index.shape[:-1] or not bool(((divisor >= 1) & (divisor == divisor.round())).all()):
        raise ValueError("its divisor is not a positive whole number for each sum")
    return Average(index, divisor)


def _largest(name: str) -> Build:
    def build(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
        index = _grouped(name, a, shapes)
        if not bool((index >= 0).any(-1).all()):
            raise ValueError("a window lies beside the image")
        return Largest(filled(index), a["sign"])

    return build


# Products and distances.


def _given(module: nn.Module, tensors: Tensors) -> nn.Module:
    """Returns a module, made without memory for weights, with those of the file."""
    if (weight := tensors["weight"]).shape != module.weight.shape or not weight.numel():
        raise ValueError(f"its weight has the shape {tuple(weight.shape)}")
    for name, a in tensors.items():
        if name == "bias" and a.shape != module.bias.shape:
            raise ValueError(f"its bias has the shape {tuple(a.shape)}")
        setattr(module, name, nn.Parameter(a, requires_grad=False))
    return module


def _linear(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    out, features = tensors["weight"].shape
    return _given(nn.Linear(features, out, "bias" in tensors, device="meta"), tensors)


def _dist(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    out, features = tensors["weight"].shape
    return _given(LinfDistLinear(features, out, bias=False, p=a.get("p", math.inf), device="meta"), tensors)


def _sort_dist(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    out, features = tensors["weight"].shape
    if a["k"] > features:
        raise ValueError("its k is larger than the number of its inputs")
    return _given(SortDistLinear(features, out, bias=False, rho=a["rho"], k=a["k"], device="meta"), tensors)


def _convolution(kinds: dict[int, Callable], transposed: bool = False) -> Build:
    def build(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
        ours, depth, *kernel = tensors["weight"].shape
        sizes = {key: tuple(a[key]) for key in a if key not in ("groups", "p")}
        if len(kernel) not in kinds or any(len(size) != len(kernel) for size in sizes.values()):
            raise ValueError(f"its weight has the shape {tuple(tensors['weight'].shape)}")
        if ours % a["groups"] or min(ours, depth, *kernel) < 1:
            raise ValueError(f"its {ours} channels are not {a['groups']} equal groups")
        channels, out = (ours, depth * a["groups"]) if transposed else (depth * a["groups"], ours)
        more = {"p": a.get("p", math.inf)} if kinds[len(kernel)] is LinfDistConv2d else {}
        module = kinds[len(kernel)](
            channels, out, tuple(kernel), groups=a["groups"], bias="bias" in tensors, device="meta", **sizes, **more
        )
        if transposed:
            module.image = shapes[0][1:]
        return _given(module, tensors)

    return build


def _clamp(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    module = Clamp(a.get("low", -math.inf), a.get("high", math.inf))
    if not (a and module.low <= module.high):
        raise ValueError("its ends are missing, or not in order")
    return module


def _slope(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    if not bool((tensors["slope"] >= 0).all()):
        raise ValueError("its slope is negative")
    return Slope(tensors["slope"])


def _affine(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    zero = torch.zeros(())
    parts = tensors.get("factor", zero + 1), tensors.get("centre", zero), tensors.get("offset", zero)
    return affine(*(each.double() for each in parts))


def _softplus(a: Arguments, tensors: Tensors, shapes: list[Shape]) -> nn.Module:
    if not (2.0**-20 <= a["beta"] <= 2.0**20 and 10 <= a["threshold"] <= 80):
        raise ValueError("its beta or its threshold is out of range")
    return Softplus(a["beta"], a["threshold"])


@dataclass(frozen=True)
class Row:
    """How an operation is read.

    Attributes:
        build: (arguments, constants, shapes of its values) → the module.
        inputs: how many values it takes; None if it takes one or more.
        needed, optional: the arguments that the description gives and may give, each with its check.
        tensors, more: the constants that the file holds and may hold.
    """

    build: Build
    inputs: int | None = 1
    needed: dict[str, Callable] = field(default_factory=dict)
    optional: dict[str, Callable] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


def _plainly(kind: Callable[[], nn.Module]) -> Build:
    return lambda a, tensors, shapes: kind()


_WEIGHT, _BIAS, _P = ("weight",), ("bias",), {"p": check_p}

# Name of an operation in a description → how it is read.
OPERATIONS: dict[str, Row] = {
    "identity": Row(_plainly(nn.Identity)),
    "relu": Row(_plainly(nn.ReLU)),
    "tanh": Row(_plainly(nn.Tanh)),
    "sigmoid": Row(_plainly(nn.Sigmoid)),
    "add": Row(lambda a, tensors, shapes: Add(a["sign"]), 2, _SIGN),
    "multiply": Row(_plainly(Multiply), 2),
    "affine": Row(_affine, more=("centre", "factor", "offset")),
    "clamp": Row(_clamp, optional={"low": _float32, "high": _float32}),
    "limit": Row(lambda a, tensors, shapes: Limit(tensors["end"], a["sign"]), needed=_SIGN, tensors=("end",)),
    "slope": Row(_slope, tensors=("slope",)),
    "elu": Row(lambda a, tensors, shapes: Elu(a["alpha"]), needed={"alpha": _alpha}),
    "softplus": Row(_softplus, needed={"beta": _float32, "threshold": _float32}),
    "reshape": Row(_move("reshape"), needed={"shape": _sizes(1)}),
    "transpose": Row(_move("transpose"), needed={"perm": _sizes(0)}),
    "take": Row(_move("take"), needed={"axes": _places}),
    "pad": Row(_move("pad"), needed={"pads": _around}),
    "concat": Row(_move("concat"), None, {"axis": lambda value: checks.count(value, 0)}),
    "gather": Row(lambda a, tensors, shapes: Gather(_index(tensors, 0)), None, tensors=("index",)),
    "average over": Row(_average("over"), needed=_OVER | {"mean": checks.flag}),
    "average window": Row(_average("window"), needed=_WINDOW | {"inside": checks.flag}),
    "average": Row(_average_of_index, None, tensors=("index", "divisor")),
    "largest over": Row(_largest("over"), needed=_OVER | _SIGN),
    "largest window": Row(_largest("window"), needed=_WINDOW | {"sign": checks.only(1)}),
    "largest pair": Row(_largest("pair"), 2, _SIGN),
    "largest": Row(lambda a, t, shapes: Largest(_index(t, 1), a["sign"]), None, _SIGN, tensors=("index",)),
    "linear": Row(_linear, tensors=_WEIGHT, more=_BIAS),
    "dist": Row(_dist, optional=_P, tensors=_WEIGHT),
    "sort_dist": Row(_sort_dist, needed={"rho": check_rho, "k": checks.count}, tensors=_WEIGHT),
    "conv": Row(_convolution(CONVOLUTIONS), needed=_CONV, tensors=_WEIGHT, more=_BIAS),
    "dist_conv": Row(_convolution({2: LinfDistConv2d}), needed=_CONV, optional=_P, tensors=_WEIGHT),
    "conv_transpose": Row(
        _convolution(TRANSPOSED, True), needed=_CONV | {"output_padding": _sizes(0)}, tensors=_WEIGHT, more=_BIAS
    ),
}
TENSORS = sorted({name for row in OPERATIONS.values() for name in (*row.tensors, *row.more)})


def _checked(row: Row, name: str, inputs: list[int], a: Arguments) -> None:
    if len(inputs) != row.inputs if row.inputs is not None else not inputs:
        raise ValueError(f"it takes {len(inputs)} values")
    known = row.needed | row.optional
    if not row.needed.keys() <= a.keys() <= known.keys():
        raise ValueError(f"its arguments are {', '.join(sorted(map(str, a)))[:80]}")
    for key, value in a.items():
        try:
            known[key](value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"its {key} {error}") from error


def _operation(i: int, node: Any, before: list[Shape], arrays: dict[str, np.ndarray]) -> Node:
    if not isinstance(node, list) or [*map(type, node)] != [str, list, dict] or node[0] not in OPERATIONS:
        raise ValueError(f"it is no operation: {plain.shown(node)}")
    name, inputs, arguments = node
    if any(type(value) is not int or not 0 <= value < len(before) for value in inputs):
        raise ValueError(f"it takes the values {plain.shown(inputs)}, of {len(before)}")
    row = OPERATIONS[name]
    _checked(row, name, inputs, arguments)
    held = {key: arrays[f"{i}.{key}"] for key in TENSORS if f"{i}.{key}" in arrays}
    if not set(row.tensors) <= held.keys() <= {*row.tensors, *row.more}:
        raise ValueError(f"its constants are {', '.join(held)}")
    for key, a in held.items():
        if a.dtype != (np.int64 if key == "index" else np.float32) or a.ndim > MOST_SIZES:
            raise ValueError(f"its {key} is {a.dtype} with {a.ndim} dimensions")
    tensors = {key: torch.from_numpy(np.array(a)) for key, a in held.items()}
    return Node(row.build(arguments, tensors, [before[value] for value in inputs]), tuple(inputs), f"operation {i}")


def read(text: str, arrays: dict[str, np.ndarray]) -> tuple[Graph, Shape]:
    """Returns the net that a text of ``describe.written`` describes, and the shape of a sample.

    Args:
        text: the description.
        arrays: the constants of the file, by name.

    Raises:
        ValueError: the text is no such description, or the constants do not fit it.
    """

    def refuse(constant: str):
        raise ValueError(f"{constant} is not a number")

    spec = plain.loads(text, parse_constant=refuse)
    if not isinstance(spec, dict) or spec.keys() != {"input_shape", "operations"}:
        raise ValueError("it does not describe its net")
    _sizes(1)(spec["input_shape"])
    operations, shapes, nodes = spec["operations"], [tuple(spec["input_shape"])], []
    if not isinstance(operations, list) or not 0 < len(operations) <= MOST_LAYERS:
        raise ValueError(f"it must describe 1 to {MOST_LAYERS:,} operations")
    _limited(math.prod(shapes[0]))
    total = places = 0
    for i, operation in enumerate(operations):
        try:
            node = _operation(i, operation, shapes, arrays)
            shape, cost = shape_after(node.module, *(shapes[value] for value in node.inputs))
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"operation {i} of its net cannot be built: {error}") from error
        index = getattr(getattr(node.module, "gather", node.module), "index", None)
        total, places = total + cost, places + (0 if index is None else index.numel())
        if total > MOST_PAIRS or places > MOST_PLACES:
            raise ValueError(f"operation {i} of its net is too large")
        nodes.append(node)
        shapes.append(shape)
    return noted(Graph(nodes).float().eval()), shapes[0]
