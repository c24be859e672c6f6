"""What a node of an ONNX graph says: its attributes, its subgraphs, its place in the graph."""

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto, helper


def attribute(node: NodeProto, name: str, default=None):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    return {name: node for node in graph.node for name in node.output if name}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
