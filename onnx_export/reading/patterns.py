"""Finds the inlined bodies of distance operators in a graph."""

import functools
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

from ..functions.domain import LINF, OPSET
from ..functions.library import POINT_DISTANCES, attach
from .nodes import producers_of

# Values of attributes in the pattern, by which they are recognised.
_SENTINELS = {
    "p": 1234567.0,
    "coefficients": [1234567.0, 7654321.0],
    "strides": [901, 902],
    "pads": [903, 904, 905, 906],
    "dilations": [907, 908],
}


@functools.cache
def _pattern(name: str) -> tuple[dict[str, NodeProto], str]:
    """The inlined body of a distance operator, from x and w: value → its node, and the name of the last value."""
    attributes = {a: _SENTINELS[a] for a in POINT_DISTANCES[name].to_function_proto().attribute}
    value = functools.partial(helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=None)
    node = helper.make_node(name, ["x", "w"], ["y"], domain=LINF.domain, **attributes)
    graph = helper.make_graph([node], name, [value("x"), value("w")], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    graph = inline_local_functions(attach(model)).graph
    return producers_of(graph), graph.output[0].name


class _Scope:
    """A graph of the pattern and a graph of the file, and which values of the two correspond."""

    def __init__(self, pattern: Mapping[str, NodeProto], graph: Mapping[str, NodeProto], inputs: dict[str, str]):
        self.pattern, self.graph, self.names = pattern, graph, dict(inputs)
        # The graph is not copied: it may be large, and there is a scope for each of its nodes.
        self.ours, self.theirs = (pattern, inputs.keys()), (graph, set(inputs.values()))


def _level(scopes: tuple[_Scope, ...], side: str, name: str) -> int:
    """The index of the innermost scope that has a name.  The outermost one has those that no node produces."""
    return max((i for i, scope in enumerate(scopes) if any(name in part for part in getattr(scope, side))), default=0)


class _Match:
    """One attempt to find a pattern in a graph.

    A name means the value of the innermost graph that has it, in the pattern and in the file: a subgraph may define
    names of graphs around it again.

    Attributes:
        attributes: the attributes of the operator that were found.
    """

    def __init__(self):
        self.attributes: dict[str, object] = {}

    def value(self, scopes: tuple[_Scope, ...], a: str, b: str) -> bool:
        """Whether the graph computes its value b as the pattern computes its value a."""
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
        kinds = [(node.op_type, node.domain) for node in (here, there)]
        if kinds == [("CastLike", ""), ("Identity", "")]:  # of a constant that has the type already
            return self.value(scopes, here.input[0], there.input[0])
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
        inner = _Scope(producers_of(a), producers_of(b), {i.name: j.name for i, j in zip(a.input, b.input)})
        return all(self.value((*scopes, inner), i.name, j.name) for i, j in zip(a.output, b.output))


def body_at(producers: dict[str, NodeProto], output: str) -> NodeProto | None:
    """The distance node whose inlined body computes the value ``output``; None where there is none."""
    for name in POINT_DISTANCES:
        (pattern, last), match = _pattern(name), _Match()
        if output not in producers or producers[output].op_type != pattern[last].op_type:
            continue  # that is so for almost all values of a large graph
        outermost = _Scope(pattern, producers, {})
        if match.value((outermost,), last, output):
            names = [outermost.names["x"], outermost.names["w"]]
            return helper.make_node(name, names, [output], output, domain=LINF.domain, **match.attributes)
    return None
