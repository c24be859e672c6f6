"""Turns distances that an ONNX graph computes from standard operators back into distance nodes.

auto_LiRPA has no linear bounds for such a distance: it has only interval bounds for ReduceMax.
"""

import functools
from collections.abc import Callable

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from ..files.load import check_model
from ..functions.bodies import check_bodies
from ..functions.domain import LINF
from .fold import Constants, constants_of
from .nodes import attribute, producers_of, subgraphs
from .patterns import body_at
from .shapes import shapes_of


def _broadcast(
    producers: dict[str, NodeProto], constants: Constants, shapes: Callable[[], dict], output: str
) -> tuple[str, np.ndarray] | None:
    """x and the weight (out, in), if a value is ReduceMax(|Unsqueeze(x, 1) − w|, −1); else None."""

    def producer(name: str, op_type: str) -> NodeProto | None:
        node = producers.get(name)
        return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None

    def axes(node: NodeProto) -> list[int] | None:
        """The axes of a node.  They are an attribute before opset 13 (Unsqueeze) and 18 (ReduceMax), then an input."""
        given = constants.known.get(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
        return None if given is None else [int(a) for a in given]

    reduce = producer(output, "ReduceMax")
    absolute = reduce and producer(reduce.input[0], "Abs")
    sub = absolute and producer(absolute.input[0], "Sub")
    if not sub or attribute(reduce, "keepdims", 1) or axes(reduce) not in ([2], [-1]):
        return None
    for moving, fixed in (sub.input, reversed(sub.input)):
        unsqueeze, w = producer(moving, "Unsqueeze"), constants.known.get(fixed)
        if unsqueeze is None or w is None:
            continue
        w = w[0] if w.ndim == 3 and len(w) == 1 else w
        x = unsqueeze.input[0]
        if w.ndim == 2 and axes(unsqueeze) in ([1], [-2]) and shapes().get(x, ())[1:] == w.shape[1:]:
            return x, w
    return None


def _names(nodes) -> set[str]:
    """Every value that nodes read, also in their subgraphs."""
    found = set()
    for node in nodes:
        found.update(node.input)
        for graph in subgraphs(node):
            found |= _names(graph.node) | {o.name for o in graph.output}
    return found


def live_nodes(graph: GraphProto, outputs: list[str]) -> list[NodeProto]:
    """The nodes that the outputs need, in order."""
    needed, live = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            live.append(node)
            needed |= _names([node])
    return live[::-1]


def keep(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Removes all nodes of a graph but these, and all other parts that these nodes and the outputs do not need."""
    used = _names(nodes) | {o.name for o in graph.output}
    for field, kept in (
        ("node", nodes),
        ("initializer", [t for t in graph.initializer if t.name in used]),
        ("value_info", [v for v in graph.value_info if v.name in used]),
    ):
        if len(kept) < len(getattr(graph, field)):
            kept = [type(part).FromString(part.SerializeToString()) for part in kept]
            graph.ClearField(field)
            getattr(graph, field).extend(kept)


def fresh(name: str, taken: set[str]) -> str:
    """A name like this one that is not taken; adds it to those that are."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def fuse_distance(model: ModelProto) -> ModelProto:
    """Replaces distances in a graph by nodes ``linf::LinfDist``, ``LpDist``, ``LinfDistConv`` and ``LpDistConv``.

    These are replaced:

    - ReduceMax(|Unsqueeze(x, 1) − w|, last axis), also of w − x, with x (N, in) and a constant w (out, in);
    - the inlined body of one of these nodes, as ``export`` writes it.

    The first one is replaced only if ONNX can infer the shape of x.  Distance nodes in the graph stay.  New nodes have
    no bodies; ``attach`` adds them for a runtime.

    Returns:
        A new model, without parts that are not used any more.

    Raises:
        ValueError: the model is not whole (``load.check_model``), or a function of the domain ``linf`` in it is not
            that of this package (``check_bodies``).
    """
    return fuse(model)[0]


def fuse(model: ModelProto, outputs: list[str] | None = None) -> tuple[ModelProto, Constants]:
    """Does what ``fuse_distance`` does, and also returns the constants of the new model.

    outputs: those that the new model has; by default all.
    """
    check_model(model)
    check_bodies(model)
    fused = ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    if outputs is not None:
        kept = [o for o in graph.output if o.name in outputs]
        graph.ClearField("output")
        graph.output.extend(kept)
    outputs = [o.name for o in graph.output]
    producers = producers_of(graph)
    for node in graph.node:
        new = body_at(producers, node.output[0])
        if new is not None:
            node.CopyFrom(new)
    keep(graph, live_nodes(graph, outputs))
    producers, constants = producers_of(graph), constants_of(fused, graph.node)
    shapes = functools.cache(functools.partial(shapes_of, model))
    taken = _names(graph.node) | producers.keys() | {t.name for t in graph.initializer}
    for node in graph.node:
        found = _broadcast(producers, constants, shapes, node.output[0])
        if found is not None:
            (x, w), y = found, node.output[0]
            weight = fresh(f"{y}_weight", taken)
            node.CopyFrom(helper.make_node("LinfDist", [x, weight], [y], y, domain=LINF.domain))
            graph.initializer.append(numpy_helper.from_array(w, weight))
            constants.known[weight] = w
    keep(graph, live_nodes(graph, outputs))
    if any(n.domain == LINF.domain for n in graph.node) and all(o.domain != LINF.domain for o in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid(LINF.domain, LINF.version))
    return fused, constants
