"""The interval bound of ``certificate.CertifiedNet`` as nodes of an ONNX graph."""

import functools
from collections.abc import Callable

from onnx import TensorProto
from torch import nn

from linf_plugin.layers.activations import MaxMin, ParamRamp
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.facts import RANDOM, TRAINED
from linf_plugin.layers.noise import DRAWS
from linf_plugin.layers.potential import PotentialConv2d, PotentialLinear
from linf_plugin.layers.reparametrised import MATERIALISE
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize
from linf_plugin.layers.sort import SortDistLinear
from linf_plugin.models.folded import ADVICE
from linf_plugin.refusal import Refusal, rule_of

from ..functions.domain import LINF
from .builder import Graph
from .certificate import CertifiedNet
from .graph import bias_of, biased, branch, convolution, gemm, nodes_of_layer, operator, weights_of_branch


def _rising(g, i, layer, ends, shape):
    return tuple(nodes_of_layer(g, i, layer, x, shape) for x in ends)


def _negate(g, i, layer, ends, shape):
    return _rising(g, i, layer, ends[::-1], shape)


def _dist(g, i, layer, ends, shape):
    op, attributes = operator(layer)
    op, w = op.replace("Dist", "BoxDist"), g.constant(f"{i}.weight", layer.weight)
    conv = isinstance(layer, LinfDistConv2d)
    values = ends if conv else g.rows(*ends)
    found = g.nodes_of(op, *values, w, outputs=2, domain=LINF.domain, **attributes)
    g.shapes |= dict.fromkeys(found, shape if conv else (len(layer.weight),))
    found = [biased(g, i, layer, y) for y in found]
    return found if conv else [g.unrows(y, x) for y, x in zip(found, ends)]


def _by_signs(g: Graph, product: Callable[[str, str, bool], str], weight: str, bias: bool, ends):
    """The ends of a product (value, weight, bias) → value, by the signs of the weight."""
    zero, (lower, upper) = g.constant("zero", 0.0), ends
    up, down = g.node("Max", weight, zero), g.node("Min", weight, zero)
    return (
        g.same("Add", product(lower, up, bias), product(upper, down, False)),
        g.same("Add", product(upper, up, bias), product(lower, down, False)),
    )


def _product(make: Callable) -> Callable:
    def ends_of_product(g, i, layer, ends, shape):
        weight = g.constant(f"{i}.weight", layer.weight)
        return _by_signs(g, functools.partial(make, g, i, layer, shape=shape), weight, True, ends)

    return ends_of_product


def _potential(g, i, layer, ends, shape):
    (into, back), (weight, adjoint) = branch(g, i, layer, shape), weights_of_branch(g, i, layer)
    inner = [g.same("Relu", end) for end in _by_signs(g, into, weight, True, ends)]
    low, high = _by_signs(g, back, adjoint, False, inner)
    return g.same("Sub", ends[0], high), g.same("Sub", ends[1], low)


# Class of a layer → (graph, index, layer, (lower, upper), shape of the output) → (lower, upper).
# The nodes compute what ``certificate.CertifiedNet`` computes.
INTERVAL_NODES: dict[type[nn.Module], Callable | Refusal] = {
    Normalize: _rising,
    CenterCrop: _rising,
    nn.Flatten: _rising,
    nn.Identity: _rising,
    LinfDistLinear: _dist,
    LinfDistConv2d: _dist,
    SortDistLinear: _dist,
    MeanShift: _rising,
    Negate: _negate,
    nn.Linear: _product(gemm),
    nn.Conv2d: _product(convolution),
    nn.ReLU: _rising,
    nn.Tanh: _rising,
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d), Refusal(ADVICE)),
    ParamRamp: _rising,
    MaxMin: _rising,
    PotentialLinear: _potential,
    PotentialConv2d: _potential,
    **dict.fromkeys(TRAINED, Refusal(MATERIALISE)),
    **dict.fromkeys(RANDOM, Refusal(DRAWS)),
}


def certified(g: Graph, net: CertifiedNet, x: str, shapes: list[tuple[int, ...]]) -> str:
    """Adds the nodes of the interval bound.

    Args:
        net: with an interval bound.
        x: the name of the pixels.
        shapes: of the output of each layer, for one sample.

    Returns:
        The name of the value ``certified``, (N,) bool, as ``CertifiedNet`` computes it.
    """
    layers, zero, one = list(net), g.constant("zero", 0.0), g.constant("one", 1.0)
    reach = g.constant("reach", net.reach)
    ends = g.same("Max", g.same("Sub", x, reach), zero), g.same("Min", g.same("Add", x, reach), one)
    last = layers[-1]
    bounded = layers[:-1] if isinstance(last, nn.Linear) else layers
    for i, (layer, by, shape) in enumerate(zip(bounded, net.widenings, shapes)):
        ends = rule_of(INTERVAL_NODES, layer, "ONNX node of intervals")(g, i, layer, ends, shape)
        if by:
            by = g.constant(f"{i}.widening", by)
            ends = g.same("Sub", ends[0], by), g.same("Add", ends[1], by)
    lower, upper = ends
    g.constant("axis 1", [1])
    g.constant("axis 2", [2])  # written even where no node uses it, as in earlier files
    label, i = predicted(g), len(layers) - 1
    if isinstance(last, nn.Linear):
        weight = g.constant(f"{i}.weight", last.weight)
        above = g.node(
            "Greater",
            least_differences(g, weight, bias_of(g, i, last), ends),
            g.constant(f"{i}.widening", net.widenings[-1]),
        )
    else:
        above = g.node("Greater", g.node("GatherElements", lower, label, axis=1), upper)
    return verdict(g, x, above, label, shapes[-1])


def predicted(g: Graph) -> str:
    """Adds the node of the predicted class as a column, (N, 1)."""
    return g.node("Unsqueeze", "prediction", g.constant("axis 1", [1]))


def least_differences(g: Graph, weight: str, bias: tuple[str, ...], ends: tuple[str, str]) -> str:
    """Adds the nodes of the least logit_y − logit_j of a linear layer, for the predicted class y and every j.

    Args:
        weight, bias: of the layer.
        ends: of its input, (N, features) each.

    Returns:
        The name of the value, (N, classes).
    """
    lower, upper = ends
    first, second, zero = g.constant("axis 1", [1]), g.constant("axis 2", [2]), g.constant("zero", 0.0)
    rows = g.node("Sub", g.node("Unsqueeze", g.node("Gather", weight, "prediction", axis=0), first), weight)
    parts = [
        g.node("MatMul", g.node(op, rows, zero), g.node("Unsqueeze", end, second))
        for op, end in (("Max", lower), ("Min", upper))
    ]
    least = g.node("Squeeze", g.node("Add", *parts), second)
    for b in bias:
        own = g.node("Unsqueeze", g.node("Gather", b, "prediction", axis=0), first)
        least = g.node("Add", least, g.node("Sub", own, b))
    return least


def verdict(g: Graph, x: str, above: str, label: str, shape: tuple[int, ...]) -> str:
    """Adds the nodes of ``certified``: the predicted class is above all others, and every pixel is in range.

    Args:
        x: the pixels.
        above: (N, classes) bool: whether the predicted logit stays above each logit; its own column does not count.
        label: (N, 1), the predicted class.
        shape: (classes,).
    """
    zero, one = g.constant("zero", 0.0), g.constant("one", 1.0)
    (classes,) = shape
    others = g.node("Not", g.node("Equal", g.constant("classes", list(range(classes))), label))
    wrong = g.node("And", others, g.node("Not", above))
    outside = g.node("Not", g.node("And", g.node("GreaterOrEqual", x, zero), g.node("LessOrEqual", x, one)))
    wrong = g.node("Concat", wrong, g.node("Flatten", outside, axis=1), axis=1)
    count = g.node("ReduceSum", g.node("Cast", wrong, to=TensorProto.FLOAT), g.constant("axis 1", [1]), keepdims=0)
    return g.called(g.node("Equal", count, zero), "certified")
