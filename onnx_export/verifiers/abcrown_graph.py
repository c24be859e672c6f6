"""A graph as α,β-CROWN needs it: for several samples at a time, and without operators that it bounds wrongly."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors
from torch import Tensor, nn

from .readable import computes, other_sample

FAILURES = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented, errors.RuntimeException)
OPSET = 14  # its loader looks for the axes of reductions in attributes, which opset 18 made inputs
NOT_READ = ("storage_order", "noop_with_empty_axes")  # attributes that its loader or older operators do not know


@dataclass(frozen=True)
class Node:
    """A node with what is known about it: attributes by name, constants and shapes by the name of a value."""

    node: onnx.NodeProto
    constants: dict[str, np.ndarray]
    shapes: dict[str, list[int]]

    def attribute(self, name: str, default):
        found = [onnx.helper.get_attribute_value(a) for a in self.node.attribute if a.name == name]
        return found[0] if found else default

    def constant(self, index: int) -> np.ndarray | None:
        """Returns an operand if it is a constant."""
        names = self.node.input[index : index + 1]
        return self.constants.get(names[0]) if names else None


def _always(node: Node) -> bool:
    return True


def _even_power(node: Node) -> bool:
    exponent = node.constant(1)
    return exponent is None or bool(((exponent > 2) & (exponent % 2 == 0)).any())


def _steepens(node: Node) -> bool:
    return node.attribute("alpha", 0.01) > 1


def _dilates_unequally(node: Node) -> bool:
    return len(set(node.attribute("dilations", [1]))) > 1


def _pads(node: Node) -> bool:
    return any(node.attribute("pads", [0])) or node.attribute("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")


def _leaves_over(node: Node) -> bool:
    """Returns whether there are pixels that no window covers.  The width is then taken for the height."""
    size, kernel = node.shapes.get(node.node.input[0], [])[2:], node.attribute("kernel_shape", [])
    if len(size) != 2 or len(kernel) != 2 or not all(size):
        return True
    (height, width), (kh, kw) = size, kernel
    return bool(height % kh or width % kw) and (height, kh) != (width, kw)


def _pads_with_another_number(node: Node) -> bool:
    number = node.constant(2)
    return len(node.node.input) > 2 and node.node.input[2] != "" and (number is None or bool(number.any()))


# Operator → where α,β-CROWN bounds it wrongly, and whether a node is such a case.  These are the rows of
# ``linf_plugin.bounds.refused.TABLE``, and what ``linf_plugin.bounds.mended`` corrects, for its auto_LiRPA without
# patches mode, as far as they can come from an ONNX file.
FAULTS: dict[str, tuple[str, Callable[[Node], bool]]] = {
    "AveragePool": ("an image that is not square is no multiple of the windows", _leaves_over),
    "Cast": ("always", _always),
    "Conv": ("its two dilations differ", _dilates_unequally),
    "GatherElements": ("always", _always),
    "LeakyRelu": ("its slope is above 1", _steepens),
    "Log": ("always", _always),
    "MaxPool": ("windows are padded", _pads),
    "Pad": ("it pads with another number than 0", _pads_with_another_number),
    "Pow": ("the exponent is even and above 2", _even_power),
    "Softmax": ("always", _always),
    "Tile": ("always", _always),
}


@torch.no_grad()
def abcrown_graph(graph: onnx.ModelProto, model: nn.Module, x: Tensor) -> onnx.ModelProto:
    """Returns the graph for α,β-CROWN, which runs several samples at a time although the graph declares one.

    PyTorch's exporter writes the batch of one sample into the shapes of Reshape nodes.  These shapes get -1 there.  The
    result is compared with the module on two samples in onnxruntime.

    Args:
        graph: what ``readable_model`` returned; it is not changed.
        model: its module.
        x: (1, *) float32.

    Raises:
        ValueError: α,β-CROWN bounds an operator wrongly, or the graph computes something else for two samples.
    """
    graph = onnx.shape_inference.infer_shapes(_older(graph))
    constants = {a.name: numpy_helper.to_array(a) for a in graph.graph.initializer}
    values = (*graph.graph.input, *graph.graph.value_info, *graph.graph.output)
    shapes = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in values}
    for node in (Node(node, constants, shapes) for node in graph.graph.node):
        where, applies = FAULTS.get(node.node.op_type, ("", None))
        if applies is not None and applies(node):
            raise ValueError(f"α,β-CROWN bounds {node.node.op_type} wrongly ({where})")
        if node.node.op_type == "Reshape":
            _reshape_any_batch(graph, node)
    used = {name for node in graph.graph.node for name in node.input}
    for constant in [a for a in graph.graph.initializer if a.name not in used]:
        graph.graph.initializer.remove(constant)
    two = torch.cat([x, other_sample(x)])
    logits = torch.cat([model(sample.clone()) for sample in two.split(1)])
    try:
        same = computes(_of_any_batch(graph), two, logits)
    except FAILURES:
        same = False
    if not same:
        raise ValueError("the ONNX graph of the net does not compute the logits of several samples at a time")
    return graph


def _older(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy in the operators of ``OPSET``, or of the same ones if these cannot express it."""
    graph = _copy(graph)
    for node in graph.graph.node:
        for attribute in [a for a in node.attribute if a.name in NOT_READ and a.i == 0]:
            node.attribute.remove(attribute)
    if graph.opset_import[0].version <= OPSET:
        return graph
    try:
        return onnx.version_converter.convert_version(graph, OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError):
        return graph


def _reshape_any_batch(graph: onnx.ModelProto, node: Node) -> None:
    before, after = (node.shapes.get(name, []) for name in (node.node.input[0], node.node.output[0]))
    given = node.constant(1)
    if before[:1] == after[:1] == [1] and all(after) and (given is None or given[0] != -1):
        node.node.input[1] = f"{node.node.output[0]}_of_any_batch"
        graph.graph.initializer.append(numpy_helper.from_array(np.array([-1, *after[1:]]), node.node.input[1]))


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    found = onnx.ModelProto()
    found.CopyFrom(graph)
    return found


def _of_any_batch(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph with a batch of any size in the declarations of its input and output."""
    found = _copy(graph)
    del found.graph.value_info[:]
    for value in (*found.graph.input, *found.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    return found
