"""Checks that a model is whole: its names, the order of its nodes, its functions, its size."""

import collections
from collections.abc import Collection, Iterable, Iterator

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from .tensors import check_tensor
from .text import said

MOST_NODES = 100_000  # in a file, with those of functions and subgraphs
MOST_INLINED = 500_000  # nodes, after every call of a function is replaced by its body
MOST_PARTS = 100_000  # inputs of one graph, weights of one graph, and so on
STANDARD_DOMAINS = ("", "ai.onnx")  # two names of one domain
DEEPEST = 16  # how deep subgraphs are nested, and calls of functions

# Type of an attribute → the field that holds it.
ATTRIBUTE_FIELDS = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}


def check_structure(model: ModelProto) -> None:
    """Checks the structure of a model:

    - names are unique, and each value is computed before it is used;
    - tensors have the sizes that they state;
    - functions do not call themselves;
    - the model stays within ``MOST_NODES``, ``MOST_INLINED``, ``MOST_PARTS`` and ``DEEPEST``;
    - it has no part of ONNX that this package does not support: sparse weights, training graphs, functions with
      overloads, tensors in segments, attributes of sparse tensors, of types, and of several graphs or tensors.

    Raises:
        ValueError: one of these is not so.  The message names the part.
    """
    if model.training_info:
        raise ValueError("it has graphs for training, which are not supported")
    _unique("the domain", _imported(model), "is imported")
    _unique("the metadata", [p.key for p in model.metadata_props], "are there")
    _unique("the function", [f"{f.domain}::{f.name}" for f in model.functions], "is there")
    _count("functions", len(model.functions), MOST_PARTS)
    nodes = sum(_nodes(part.node, 0) for part in (model.graph, *model.functions))
    _count("nodes", nodes, MOST_NODES)
    _count("nodes, once its functions are inlined", _inlined(model), MOST_INLINED)
    _check_graph(model.graph, [])
    for function in model.functions:
        _check_function(function)


def _imported(part: ModelProto | FunctionProto) -> list[str]:
    return ["" if o.domain in STANDARD_DOMAINS else o.domain for o in part.opset_import]


def _unique(kind: str, names: Iterable[str], state: str) -> None:
    name, times = next(iter(collections.Counter(names).most_common(1)), ("", 0))
    if times > 1:
        raise ValueError(f"{kind} {said(name)} {state} {times} times")


def _count(kind: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"it has {count:,} {kind}; at most {most:,} are read")


def _nodes(nodes, depth: int) -> int:
    if depth > DEEPEST:
        raise ValueError(f"its subgraphs are nested more than {DEEPEST} deep")
    _count("nodes", len(nodes), MOST_NODES)
    return len(nodes) + sum(_nodes(a.g.node, depth + 1) for node in nodes for a in node.attribute if a.HasField("g"))


def _calls(nodes) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield node.domain, node.op_type
        for a in node.attribute:
            yield from _calls(a.g.node)


def _inlined(model: ModelProto) -> int:
    """How many nodes the graph has after inlining its functions.  Raises ValueError for recursion."""
    calls = {(f.domain, f.name): collections.Counter(_calls(f.node)) for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(of: collections.Counter, above: tuple = ()) -> int:
        total = 0
        for name, times in of.items():
            if name in calls and name not in sizes:
                if name in above or len(above) > DEEPEST:
                    raise ValueError(
                        f"the function {said('::'.join(name))} calls itself, or calls of functions are nested too deep"
                    )
                sizes[name] = min(size(calls[name], (*above, name)), MOST_INLINED + 1)
            total += times * sizes.get(name, 1)
        return total

    return size(collections.Counter(_calls(model.graph.node)))


Scopes = list[set[str]]  # names of values: in each graph around a node, then in its own graph


def _seen(name: str, scopes: Scopes) -> bool:
    return any(name in names for names in scopes)


def _check_graph(graph: GraphProto, outer: Scopes, formal: Collection[str] = ()) -> None:
    """Checks a graph.  It may use the names in ``outer``, of graphs around it, but may not define them again."""
    for kind in ("input", "output", "initializer", "value_info"):
        _count(f"parts {kind}", len(getattr(graph, kind)), MOST_PARTS)
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ValueError(f"the sparse initializer {said(name)} is not supported: store it as a dense one")
    _unique("the input", [i.name for i in graph.input], "is there")
    _unique("the initializer", [t.name for t in graph.initializer], "is there")
    _unique("the output", [o.name for o in graph.output], "is there")
    for tensor in graph.initializer:
        if not tensor.name:
            raise ValueError("an initializer has no name")
        check_tensor(tensor, f"the initializer {said(tensor.name)}")
    names = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    # An input of a subgraph may hide a name from around it: the inliner of functions makes such graphs.
    twice = next((t.name for t in graph.initializer if _seen(t.name, outer)), None)
    if twice is not None:
        raise ValueError(f"{said(twice)} is the name of two values")
    scopes = [*outer, names]
    _check_nodes(graph.node, scopes, formal)
    for output in graph.output:
        if not _seen(output.name, scopes):
            raise ValueError(f"the output {said(output.name)} is not computed")


def _check_function(function: FunctionProto) -> None:
    name = f"{function.domain}::{function.name}"
    if function.overload:
        raise ValueError(f"the function {said(name)} has overloads, which are not supported")
    try:
        _unique("the input", function.input, "is there")
        _unique("the domain", _imported(function), "is imported")
        names = set(function.input)
        _check_nodes(function.node, [names], {*function.attribute, *(a.name for a in function.attribute_proto)})
        for output in function.output:
            if output not in names:
                raise ValueError(f"the output {said(output)} is not computed")
    except ValueError as error:
        raise ValueError(f"the function {said(name)}: {error}") from error


def _check_nodes(nodes: Iterable[NodeProto], scopes: Scopes, formal: Collection[str] = ()) -> None:
    """Checks nodes, and adds the names of what they compute to the last scope.

    formal: the attributes of the function that the nodes are in.
    """
    for node in nodes:
        what = f"node {said(node.name or next(iter(node.output), ''))} ({said(node.op_type)[1:-1]})"
        if node.overload:
            raise ValueError(f"{what} calls an overload, which is not supported")
        if not any(node.output):
            raise ValueError(f"{what} has no output")
        for name in node.input:
            if name and not _seen(name, scopes):
                raise ValueError(f"{what} reads {said(name)}, which no node before it computes")
        if len(node.attribute) > 1:
            _unique(f"{what}: the attribute", [a.name for a in node.attribute], "is there")
        for a in node.attribute:
            _check_attribute(a, what, scopes, formal)
        for name in filter(None, node.output):
            if _seen(name, scopes):
                raise ValueError(f"{said(name)} is the name of two values, of which {what} computes one")
            scopes[-1].add(name)


def _check_attribute(a: AttributeProto, what: str, scopes: Scopes, formal: Collection[str]) -> None:
    what = f"{what}: the attribute {said(a.name)}"
    given = {field.name for field, _ in a.ListFields()} - {"name", "type", "doc_string", "ref_attr_name"}
    if a.ref_attr_name:
        if a.ref_attr_name not in formal or given:
            raise ValueError(
                f"{what} refers to {said(a.ref_attr_name)}, which is not an attribute of a function around it"
            )
    elif a.type not in ATTRIBUTE_FIELDS:
        raise ValueError(f"{what} is of a type that is not supported")
    elif given - {ATTRIBUTE_FIELDS[a.type]} or (not given and ATTRIBUTE_FIELDS[a.type] in ("t", "g")):
        raise ValueError(f"{what} does not hold what its type says")
    elif a.type == AttributeProto.TENSOR:
        check_tensor(a.t, what)
    elif a.type == AttributeProto.GRAPH:
        _check_graph(a.g, scopes, formal)
