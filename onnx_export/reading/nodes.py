"""Small functions for nodes of ONNX graphs."""

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto, helper


def attribute(node: NodeProto, name: str, default=None):
    """The value of an attribute of a node, or the default where it has none of this name."""
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def producers_of(graph: GraphProto) -> dict[str, NodeProto]:
    """Name of each value that a graph computes → the node that computes it."""
    return {name: node for node in graph.node for name in node.output if name}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in the attributes of a node."""
    for a in node.attribute:
        if a.type == AttributeProto.GRAPH:
            yield a.g
