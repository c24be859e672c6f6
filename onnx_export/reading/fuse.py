"""Distances in an ONNX graph, as they are computed, back to distance nodes.

auto_LiRPA has no linear bounds for the decomposed distance: its ReduceMax has interval bounds only.
"""

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from ..files.load import check_model
from ..files.operators import skeleton
from ..functions.bodies import check_bodies
from ..functions.domain import LINF, OPSET
from ..functions.library import POINT_DISTANCES, attach
from .fold import Constants, attribute, constants_of

SMALL = 64  # numbers in a constant that shapes may be made of


# Patterns.


def _producers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g


# Attributes of the distance operators in the inlined body that serves as pattern, told by their values.
_SENTINELS = {
    "p": 1234567.0,
    "coefficients": [1234567.0, 7654321.0],
    "strides": [901, 902],
    "pads": [903, 904, 905, 906],
    "dilations": [907, 908],
}


@functools.cache
def _pattern(name: str) -> tuple[dict[str, NodeProto], str]:
    """The body of a distance operator, inlined, from x and w: what produces each value, and the name of the last."""
    attributes = {a: _SENTINELS[a] for a in POINT_DISTANCES[name].to_function_proto().attribute}
    value = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=None)
    node = helper.make_node(name, ["x", "w"], ["y"], domain=LINF.domain, **attributes)
    graph = helper.make_graph([node], name, [value("x"), value("w")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    graph = inline_local_functions(attach(model)).graph
    return _producers(graph), graph.output[0].name


class _Scope:
    """What a graph of the pattern and one of the file produce, and which value of the one is which of the other."""

    def __init__(self, pattern: Mapping[str, NodeProto], graph: Mapping[str, NodeProto], inputs: dict[str, str]):
        self.pattern, self.graph, self.names = pattern, graph, dict(inputs)
        # Nothing is copied of the graph, which may be large, and has a scope for each of its nodes.
        self.ours, self.theirs = (pattern, inputs.keys()), (graph, set(inputs.values()))


def _level(scopes: tuple[_Scope, ...], side: str, name: str) -> int:
    """The innermost scope that has a name; the outermost has those that nothing produces."""
    return max((i for i, scope in enumerate(scopes) if any(name in part for part in getattr(scope, side))), default=0)


class _Match:
    """One attempt to find a pattern in a graph: ``attributes`` maps its sentinels.

    A name means the value of the innermost graph that has it, in the pattern and in the file: a subgraph may use names
    from around it again.
    """

    def __init__(self):
        self.attributes: dict[str, object] = {}

    def value(self, scopes: tuple[_Scope, ...], a: str, b: str) -> bool:
        """Whether the value b of the graph is computed as the value a of the pattern is."""
        if not (a and b):
            return a == b
        level = _level(scopes, "ours", a)
        if _level(scopes, "theirs", b) != level:
            return False
        scopes = scopes[: level + 1]
        scope = scopes[-1]
        if a in scope.names:
            return scope.names[a] == b
        scope.names[a] = b
        if a not in scope.pattern:
            return True  # x or w
        if b not in scope.graph:
            return False
        here, there = scope.pattern[a], scope.graph[b]
        return (
            (here.op_type, here.domain, len(here.input)) == (there.op_type, there.domain, len(there.input))
            and list(here.output).index(a) == list(there.output).index(b)
            and self._attributes(scopes, here, there)
            and all(self.value(scopes, *pair) for pair in zip(here.input, there.input))
        )

    def _attributes(self, scopes: tuple[_Scope, ...], here: NodeProto, there: NodeProto) -> bool:
        ours, theirs = ({a.name: a for a in node.attribute} for node in (here, there))
        return ours.keys() == theirs.keys() and all(
            self._attribute(scopes, a, theirs[name]) for name, a in ours.items()
        )

    def _attribute(self, scopes: tuple[_Scope, ...], a: AttributeProto, b: AttributeProto) -> bool:
        if a.type != b.type:
            return False
        if a.type == AttributeProto.GRAPH:
            return self._graph(scopes, a.g, b.g)
        if a.type == AttributeProto.TENSOR and (a.t.data_type, a.t.dims) != (b.t.data_type, b.t.dims):
            return False
        ours, theirs = helper.get_attribute_value(a), helper.get_attribute_value(b)
        for name, sentinel in _SENTINELS.items():
            if ours == sentinel:
                return self.attributes.setdefault(name, theirs) == theirs
        if a.type == AttributeProto.TENSOR:
            ours, theirs = numpy_helper.to_array(ours), numpy_helper.to_array(theirs)
            return np.array_equal(ours, theirs)
        return ours == theirs

    def _graph(self, scopes: tuple[_Scope, ...], a: GraphProto, b: GraphProto) -> bool:
        if len(a.input) != len(b.input) or len(a.output) != len(b.output):
            return False
        inner = _Scope(_producers(a), _producers(b), {i.name: j.name for i, j in zip(a.input, b.input)})
        return all(self.value((*scopes, inner), i.name, j.name) for i, j in zip(a.output, b.output))


def _body(producers: dict[str, NodeProto], output: str) -> NodeProto | None:
    """The distance node for a value that the inlined body of one computes."""
    for name in POINT_DISTANCES:
        (pattern, last), match = _pattern(name), _Match()
        if output not in producers or producers[output].op_type != pattern[last].op_type:
            continue  # as almost all values of a large graph
        outermost = _Scope(pattern, producers, {})
        if match.value((outermost,), last, output):
            names = [outermost.names["x"], outermost.names["w"]]
            return helper.make_node(name, names, [output], output, domain=LINF.domain, **match.attributes)
    return None


def _broadcast(
    producers: dict[str, NodeProto], constants: Constants, shapes: Callable[[], dict], output: str
) -> tuple[str, np.ndarray] | None:
    """x and the weight (out, in) where a value is ReduceMax(|Unsqueeze(x, 1) − w|, −1)."""

    def producer(name: str, op_type: str) -> NodeProto | None:
        node = producers.get(name)
        return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None

    def axes(node: NodeProto) -> list[int] | None:
        """An attribute before opset 13 (Unsqueeze) and 18 (ReduceMax), an input since."""
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


# Graphs.


def _names(nodes) -> set[str]:
    """Every value that nodes read, those that their subgraphs read included."""
    found = set()
    for node in nodes:
        found.update(node.input)
        for graph in _subgraphs(node):
            found |= _names(graph.node) | {o.name for o in graph.output}
    return found


def live_nodes(graph: GraphProto, outputs: list[str]) -> list[NodeProto]:
    """The nodes that outputs need, in order."""
    needed, live = set(outputs), []
    for node in reversed(graph.node):
        if needed & set(node.output):
            live.append(node)
            needed |= _names([node])
    return live[::-1]


def _shapes(model: ModelProto) -> dict[str, tuple]:
    """The shapes that ONNX infers from those of the inputs, sizes that depend on the input as None."""
    bare = skeleton(model, keep=SMALL)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")  # what a file says of its values may be wrong
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return {}
    return {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output)
        if v.type.tensor_type.HasField("shape")
    }


def _keep(graph: GraphProto, nodes: list[NodeProto]) -> None:
    """Leaves in a graph some of its nodes, and of the rest what these and the outputs need."""
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


def _fresh(name: str, taken: set[str]) -> str:
    """A name like this one that no value has yet."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def fuse_distance(model: ModelProto) -> ModelProto:
    """The same graph with ``linf::LinfDist``, ``LpDist``, ``LinfDistConv`` or ``LpDistConv`` in the place of

    - ReduceMax(|Unsqueeze(x, 1) − w|, last axis), x (N, in), w constant (out, in), in either order;
    - the body of one of these nodes as ``export`` writes it, inlined.

    Nodes of that kind that are there already stay.  New nodes have no bodies: ``attach`` adds them for a
    runtime.  Shapes that are needed (x has two dimensions) must be inferrable, else the graph stays as it is.

    Returns:
        A new model; what is used no longer is left out.

    Raises:
        ValueError: the model is not whole (``load.check_model``), or a function of the domain ``linf`` in it is not the
            one of that name (``check_bodies``).
    """
    return fuse(model)[0]


def fuse(model: ModelProto, outputs: list[str] | None = None) -> tuple[ModelProto, Constants]:
    """``fuse_distance``, and the constants of the new model, which has what ``outputs`` need: by default all."""
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
    producers = _producers(graph)
    for node in graph.node:
        new = _body(producers, node.output[0])
        if new is not None:
            node.CopyFrom(new)
    _keep(graph, live_nodes(graph, outputs))
    producers, constants = _producers(graph), constants_of(fused, graph.node)
    shapes = functools.cache(functools.partial(_shapes, model))
    taken = _names(graph.node) | producers.keys() | {t.name for t in graph.initializer}
    for node in graph.node:
        found = _broadcast(producers, constants, shapes, node.output[0])
        if found is not None:
            (x, w), y = found, node.output[0]
            weight = _fresh(f"{y}_weight", taken)
            node.CopyFrom(helper.make_node("LinfDist", [x, weight], [y], y, domain=LINF.domain))
            graph.initializer.append(numpy_helper.from_array(w, weight))
            constants.known[weight] = w
    _keep(graph, live_nodes(graph, outputs))
    if any(n.domain == LINF.domain for n in graph.node) and all(o.domain != LINF.domain for o in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid(LINF.domain, LINF.version))
    return fused, constants
