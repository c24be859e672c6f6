"""The interval bound of a traced net as nodes of an ONNX graph: one rule for each operation.

A rule adds nodes that compute two ends from the ends of its inputs.  ``widths`` has the amounts by which they are moved
outwards, so that all float32 values of the operation lie between them.  docs/onnx.md, "Traced nets", has the proof.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

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
from ..interval_graph import INTERVAL_NODES
from .forms import Shape
from .nodes import PRODUCT_NODES, nodes_of_operation, product
from .widths import Width


class Ends:
    """The ends of the interval of one value, by their names in the graph.

    Attributes:
        lower, upper: the ends.
        positive: whether the lower end is never negative.
    """

    def __init__(self, lower: str, upper: str, positive: bool = False):
        self.lower, self.upper, self.positive = lower, upper, positive
        self._size: str | None = None
        self._middle: tuple[str, str] | None = None

    def size(self, g: Graph) -> str:
        """Returns the largest |x| of the interval, which is exact.  Its nodes are added once."""
        if self._size is None:
            self._size = self.upper if self.positive else g.same("Max", g.same("Neg", self.lower), self.upper)
        return self._size

    def middle(self, g: Graph) -> tuple[str, str]:
        """Returns a number near the middle and the distance to its farther end, rounded.  Nodes are added once."""
        if self._middle is None:
            middle = g.same("Mul", g.same("Add", self.lower, self.upper), g.constant("half", 0.5))
            beside = g.same("Sub", self.upper, middle), g.same("Sub", middle, self.lower)
            self._middle = middle, g.same("Max", *beside)
        return self._middle


def _widened(g: Graph, ends: tuple[str, str], by: str) -> Ends:
    lower, upper = ends
    return Ends(g.same("Sub", lower, by), g.same("Add", upper, by))


def _amount(g: Graph, i: int, width: Width, magnitude: str | None = None) -> str:
    """Returns times·magnitude + added as a value, or added as a constant."""
    added = g.constant(f"{i}.added", width.added)
    if magnitude is None or width.times == 0:
        return added
    return g.same("Add", g.same("Mul", magnitude, g.constant(f"{i}.times", width.times)), added)


def _both(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape) -> tuple[str, str]:
    """The ends of an operation that does not fall when an input rises."""
    lower = nodes_of_operation(g, i, module, [x.lower for x in xs], shape)
    return lower, nodes_of_operation(g, i, module, [x.upper for x in xs], shape)


def _exact(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    positive = isinstance(module, nn.ReLU) or all(x.positive for x in xs)
    if isinstance(module, Clamp):
        positive = module.low >= 0 or (positive and module.high >= 0)
    if isinstance(module, Limit):
        above = bool((module.end >= 0).all())
        positive = positive or above if module.sign > 0 else positive and above
    return Ends(*_both(g, i, module, xs, shape), positive)


def _rising(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    return _widened(g, _both(g, i, module, xs, shape), _amount(g, i, width))


def _by_upper(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    """The rule of a rising operation with values ≥ 0, whose upper end is its magnitude."""
    ends = _both(g, i, module, xs, shape)
    return _widened(g, ends, _amount(g, i, width, ends[1]))


def _product(g: Graph, i: int, layer: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    """W·m + b ∓ (spread·|W|·r + times·(|W|·size + |b|) + added), for the middle m and the radius r of the input."""
    (x,) = xs
    weight = g.constant(f"{i}.weight", layer.weight)
    sizes = g.node("Abs", weight)
    offset = False if layer.bias is None else g.node("Abs", g.constant(f"{i}.bias", layer.bias))
    middle, radius = x.middle(g)
    centre = product(g, i, layer, middle, weight, True, shape)
    spread = product(g, i, layer, radius, sizes, False, shape)
    spread = g.same("Mul", spread, g.constant(f"{i}.spread", width.spread))
    by = _amount(g, i, width, product(g, i, layer, x.size(g), sizes, offset, shape))
    return _widened(g, (centre, centre), g.same("Add", spread, by))


def _average(g: Graph, i: int, module: Average, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    lower, upper = _both(g, i, module, xs, shape)
    if all(x.positive for x in xs):
        magnitude = upper
    else:
        magnitude = nodes_of_operation(g, i, module, [x.size(g) for x in xs], shape)
    return _widened(g, (lower, upper), _amount(g, i, width, magnitude))


def _add(g: Graph, i: int, module: Add, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    x, y = xs
    if module.sign > 0:
        ends = g.same("Add", x.lower, y.lower), g.same("Add", x.upper, y.upper)
    else:
        ends = g.same("Sub", x.lower, y.upper), g.same("Sub", x.upper, y.lower)
    magnitude = g.same("Add", x.size(g), y.size(g)) if module.fused else None
    return _widened(g, ends, _amount(g, i, width, magnitude))


def _multiply(g: Graph, i: int, module: Multiply, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    x, y = xs
    corners = [g.same("Mul", a, b) for a in (x.lower, x.upper) for b in (y.lower, y.upper)]
    return _widened(g, (g.same("Min", *corners), g.same("Max", *corners)), _amount(g, i, width))


def above32(a: Tensor) -> Tensor:
    """Returns the least float32 numbers that are not below these float64 numbers ≥ 0."""
    rounded = a.float()
    up = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    return torch.where(rounded.double() < a, up, rounded)


def _affine(g: Graph, i: int, module: Affine, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    """Where a factor is negative, the lower end becomes the upper one."""
    (x,) = xs
    first, second = _both(g, i, module, xs, shape)
    signs = {bool(s) for s in (module.factor >= 0).flatten()}
    if signs == {True}:
        ends = first, second
    elif signs == {False}:
        ends = second, first
    else:
        ends = g.same("Min", first, second), g.same("Max", first, second)
    if not width.rounds:
        return Ends(*ends)
    if width.times == 0:
        return _widened(g, ends, _amount(g, i, width))
    factor, centre, offset = (a.double().abs() for a in (module.factor, module.centre, module.offset))
    each = above32(width.times * factor), above32(width.times * (factor * centre + offset) + width.added)
    times, added = (g.constant(f"{i}.{name}", a) for name, a in zip(("times", "added"), each))
    return _widened(g, ends, g.same("Add", g.same("Mul", x.size(g), times), added))


def _distance(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    (x,) = xs
    ends = INTERVAL_NODES[type(module)](g, i, module, (x.lower, x.upper), shape)
    return _widened(g, ends, _amount(g, i, width, ends[1]))


# Type of an operation → (graph, index, module, ends of its inputs, shape of the output, width) → ends of the output.
END_NODES: dict[type[nn.Module], Callable[..., Ends]] = {
    **dict.fromkeys((nn.Identity, nn.ReLU, Gather, Largest, Clamp, Limit), _exact),
    **dict.fromkeys(PRODUCT_NODES, _product),
    **dict.fromkeys((LinfDistLinear, LinfDistConv2d, SortDistLinear), _distance),
    **dict.fromkeys((Slope, Elu, nn.Tanh, nn.Sigmoid), _rising),
    Softplus: _by_upper,
    Average: _average,
    Add: _add,
    Multiply: _multiply,
    Affine: _affine,
}


def ends_of_operation(g: Graph, i: int, module: nn.Module, xs: list[Ends], shape: Shape, width: Width) -> Ends:
    """Adds the nodes of the interval of operation i.

    Args:
        xs: the ends of its values.
        shape: of its output for one sample.
        width: from ``widths``.

    Returns:
        The ends of its output.

    Raises:
        TypeError: ``END_NODES`` has no rule for it.
    """
    return rule_of(END_NODES, module, "interval bound")(g, i, module, xs, shape, width)
