"""Distances in an ONNX graph, as they are computed, back to distance nodes; what is constant in a graph.

auto_LiRPA has no linear bounds for the decomposed distance: its ReduceMax has interval bounds only.
"""

import contextlib
import functools
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from .bodies import check_bodies
from .functions import LINF, OPSET, POINTS, attach

DISTANCES = {name: body for name, body in POINTS.items() if name != "SortDist"}  # a file does not have its ρ and k
# Not constants, whatever they are computed from.
RANDOM = {
    "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
}


# Patterns.

def _producers(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g


# Attributes of the distance operators in the inlined body that serves as pattern, told by their values.
_SENTINELS = {"p": 1234567.0, "strides": [901, 902], "pads": [903, 904, 905, 906], "dilations": [907, 908]}


@functools.cache
def _pattern(name: str) -> GraphProto:
    """The body of a distance operator, inlined: x, w → y."""
    attributes = {a: _SENTINELS[a] for a in DISTANCES[name].to_function_proto().attribute}
    value = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=None)
    node = helper.make_node(name, ["x", "w"], ["y"], domain=LINF.domain, **attributes)
    graph = helper.make_graph([node], name, [value("x"), value("w")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return inline_local_functions(attach(model)).graph


class _Match:
    """One attempt to find a pattern in a graph: ``names`` maps its values, ``attributes`` its sentinels."""

    def __init__(self):
        self.names: dict[str, str] = {}
        self.attributes: dict[str, object] = {}

    def value(self, pattern: dict, graph: dict, a: str, b: str) -> bool:
        """Whether the value b of the graph is computed as the value a of the pattern is."""
        if a in self.names or not (a and b):
            return self.names.get(a, a) == b
        self.names[a] = b
        if a not in pattern:
            return True  # x or w
        if b not in graph:
            return False
        here, there = pattern[a], graph[b]
        return (
            (here.op_type, here.domain, len(here.input)) == (there.op_type, there.domain, len(there.input))
            and list(here.output).index(a) == list(there.output).index(b)
            and self._attributes(pattern, graph, here, there)
            and all(self.value(pattern, graph, *pair) for pair in zip(here.input, there.input))
        )

    def _attributes(self, pattern: dict, graph: dict, here: NodeProto, there: NodeProto) -> bool:
        ours, theirs = ({a.name: a for a in node.attribute} for node in (here, there))
        return ours.keys() == theirs.keys() and all(
            self._attribute(pattern, graph, a, theirs[name]) for name, a in ours.items()
        )

    def _attribute(self, pattern: dict, graph: dict, a: AttributeProto, b: AttributeProto) -> bool:
        if a.type != b.type:
            return False
        if a.type == AttributeProto.GRAPH:
            return self._graph(pattern, graph, a.g, b.g)
        ours, theirs = helper.get_attribute_value(a), helper.get_attribute_value(b)
        for name, sentinel in _SENTINELS.items():
            if ours == sentinel:
                return self.attributes.setdefault(name, theirs) == theirs
        if a.type == AttributeProto.TENSOR:
            ours, theirs = numpy_helper.to_array(ours), numpy_helper.to_array(theirs)
            return ours.dtype == theirs.dtype and np.array_equal(ours, theirs)
        return ours == theirs

    def _graph(self, pattern: dict, graph: dict, a: GraphProto, b: GraphProto) -> bool:
        if len(a.input) != len(b.input) or len(a.output) != len(b.output):
            return False
        self.names |= {i.name: j.name for i, j in zip(a.input, b.input)}
        scopes = pattern | _producers(a), graph | _producers(b)
        return all(self.value(*scopes, i.name, j.name) for i, j in zip(a.output, b.output))


def _body(producers: dict[str, NodeProto], output: str) -> NodeProto | None:
    """The distance node for a value that the inlined body of one computes."""
    for name in DISTANCES:
        pattern, match = _pattern(name), _Match()
        if match.value(_producers(pattern), producers, pattern.output[0].name, output):
            names = [match.names["x"], match.names["w"]]
            return helper.make_node(name, names, [output], output, domain=LINF.domain, **match.attributes)
    return None


def _broadcast(
    producers: dict, known: dict[str, np.ndarray], shape: dict, output: str
) -> tuple[NodeProto, np.ndarray] | None:
    """The distance node and its weight (out, in) where a value is ReduceMax(|Unsqueeze(x, 1) − w|, −1)."""
    def producer(name: str, op_type: str) -> NodeProto | None:
        node = producers.get(name)
        return node if node is not None and (node.domain, node.op_type) == ("", op_type) else None

    def axes(node: NodeProto) -> list[int] | None:
        """An attribute before opset 13 (Unsqueeze) and 18 (ReduceMax), an input since."""
        given = known.get(node.input[1]) if len(node.input) > 1 else attribute(node, "axes")
        return None if given is None else [int(a) for a in given]

    reduce = producer(output, "ReduceMax")
    absolute = reduce and producer(reduce.input[0], "Abs")
    sub = absolute and producer(absolute.input[0], "Sub")
    if not sub or attribute(reduce, "keepdims", 1) or axes(reduce) not in ([2], [-1]):
        return None
    for moving, fixed in (sub.input, reversed(sub.input)):
        unsqueeze, w = producer(moving, "Unsqueeze"), known.get(fixed)
        if unsqueeze is None or w is None:
            continue
        w = w[0] if w.ndim == 3 and len(w) == 1 else w
        x = unsqueeze.input[0]
        if w.ndim == 2 and axes(unsqueeze) in ([1], [-2]) and shape.get(x, ())[1:] == w.shape[1:]:
            node = helper.make_node("LinfDist", [x, output + "_weight"], [output], output, domain=LINF.domain)
            return node, w
    return None


# Graphs.

def attribute(node: NodeProto, name: str, default=None):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


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


def evaluate(node: NodeProto, inputs: list[np.ndarray], opsets) -> list[np.ndarray]:
    """A node of standard operators on constants.  Raises ValueError where it has no value or not always the same."""
    if node.op_type in RANDOM:
        raise ValueError("its value is random")
    if node.domain or any(_subgraphs(node)):
        raise ValueError("this operator is not supported")
    names = [n for n in node.input if n]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for n, a in zip(names, inputs)]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.UNDEFINED, None) for n in node.output]
    graph = helper.make_graph([node], "constant", values, outputs)
    model = helper.make_model(graph, opset_imports=opsets)
    try:
        return ReferenceEvaluator(model).run(None, dict(zip(names, inputs)))
    except Exception as error:  # it raises whatever an operator leads it to
        raise ValueError(f"its value cannot be computed: {error}") from error


def _constants(model: ModelProto) -> dict[str, np.ndarray]:
    """The values into which no input of the model enters, as far as they can be computed."""
    known = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        inputs = [known.get(n) for n in node.input if n]
        if all(a is not None for a in inputs):
            with contextlib.suppress(ValueError):
                known.update(zip(node.output, evaluate(node, inputs, model.opset_import)))
    return known


def _shapes(model: ModelProto) -> dict[str, tuple]:
    """The shapes that ONNX infers, sizes that depend on the input as None."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {
        v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim)
        for v in (*inferred.input, *inferred.value_info, *inferred.output) if v.type.tensor_type.HasField("shape")
    }


def fuse_distance(model: ModelProto) -> ModelProto:
    """The same graph with ``linf::LinfDist``, ``LpDist``, ``LinfDistConv`` or ``LpDistConv`` in the place of

    - ReduceMax(|Unsqueeze(x, 1) − w|, last axis), x (N, in), w constant (out, in), in either order;
    - the body of one of these nodes as ``export`` writes it, inlined.

    Nodes of that kind that are there already stay.  New nodes have no bodies: ``attach`` adds them for a
    runtime.  Shapes that are needed (x has two dimensions) must be inferrable, else the graph stays as it is.

    Returns:
        A new model; what is used no longer is left out.

    Raises:
        ValueError: a function of the domain ``linf`` in the model is not the one of that name (``check_bodies``).
    """
    return fuse(model)[0]


def fuse(model: ModelProto) -> tuple[ModelProto, dict[str, np.ndarray]]:
    """``fuse_distance``, and the values of the new model that are constant."""
    check_bodies(model)
    fused = ModelProto()
    fused.CopyFrom(model)
    graph = fused.graph
    producers, known, shapes = _producers(graph), _constants(model), _shapes(model)
    for place, node in enumerate(graph.node):
        new = _body(producers, node.output[0])
        if new is None:
            found = _broadcast(producers, known, shapes, node.output[0])
            if found is None:
                continue
            new, w = found
            graph.initializer.append(numpy_helper.from_array(w, new.input[1]))
            known[new.input[1]] = w
        graph.node[place].CopyFrom(new)
    live = live_nodes(graph, [o.name for o in graph.output])
    used = _names(live) | {o.name for o in graph.output}
    for field, kept in (
        ("node", live),
        ("initializer", [t for t in graph.initializer if t.name in used]),
        ("value_info", [v for v in graph.value_info if v.name in used]),
    ):
        kept = [type(part).FromString(part.SerializeToString()) for part in kept]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    if any(n.domain == LINF.domain for n in live) and all(o.domain != LINF.domain for o in fused.opset_import):
        fused.opset_import.append(helper.make_opsetid(LINF.domain, LINF.version))
    return fused, known
