"""An ONNX graph in the form that onnx2torch reads: functions inlined, constants computed, shapes known in advance."""

import math
import re

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper
from torch import nn

from linf_plugin.models.spec import MOST_LAYERS

from ..files.load import check_model
from ..files.text import first_line, said, type_name
from .fold import BATCHES, Constants, Varying
from .fuse import fresh, keep, live_nodes
from .net import OPSETS, input_of, logits_of
from .nodes import attribute
from .shapes import shapes_of

RESHAPING = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}  # operators that only give their input another shape
OTHER_FLOATS = {TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}

Shapes = dict[str, tuple[int | None, ...]]


def plain_form(model: ModelProto) -> ModelProto:
    """Returns a model that computes the same logits, with less to understand.

    - Its local functions are inlined, and nodes that the logits do not need are left out.
    - Values that do not depend on the input are weights.  Sizes may be computed from the shape of the input.
    - A node that changes a shape is a Flatten, or a Reshape with known sizes that keeps the batch (size 0).
    - The first size of the input is free, also where the file fixes it at 1.

    Args:
        model: whole (``files.load.check_model``), with its weights.

    Raises:
        ValueError: the model has several inputs or outputs (and none named logits), the input is not float32 or has
            sizes beyond the first that are not fixed, the model computes in another precision, or a node mixes the
            samples of a batch.  The message names the part.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset not in OPSETS:
        raise ValueError(f"the opset must be one of {OPSETS.start} to {OPSETS.stop - 1}, got {opset}")
    output, (name, (batch, *_), of_bytes) = logits_of(model), input_of(model)
    if of_bytes:
        raise ValueError(f"the input {said(name)} must be float32, got uint8")
    if batch > 1:
        raise ValueError(
            f"the input {said(name)} has a fixed batch of {batch}: export the net with any batch, or with 1"
        )
    plain = _trimmed(model, name, output)
    graph, sizes = plain.graph, BATCHES if batch == 0 else (1, 1)
    shapes = [shapes_of(plain, size) for size in sizes]
    constants = _constants(plain, shapes)
    if constants.has(output):
        raise ValueError(f"the output {said(output)} does not depend on the input")
    taken = {name, *(t.name for t in graph.initializer), *(n for node in graph.node for n in node.output)}
    for node in graph.node:
        if node.op_type in RESHAPING and not node.domain and not constants.has(node.input[0]):
            _reshape(node, shapes[0], sizes[0], constants, taken)
    _store(plain, constants)
    keep(graph, live_nodes(graph, [output]))
    if len(graph.node) > MOST_LAYERS:
        raise ValueError(f"it has {len(graph.node):,} nodes beside its constants; at most {MOST_LAYERS:,} are read")
    _check_float32(plain)
    _name_nodes(plain)
    return plain


def _trimmed(model: ModelProto, name: str, output: str) -> ModelProto:
    """The model with one input and one output, without functions and without what the output does not need."""
    plain = ModelProto()
    plain.CopyFrom(_inlined(model) if model.functions else model)
    graph = plain.graph
    for field, wanted in (("input", name), ("output", output)):
        kept = [value for value in getattr(graph, field) if value.name == wanted]
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    graph.ClearField("value_info")  # shapes that a file states may be wrong
    graph.output[0].type.tensor_type.ClearField("shape")
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    keep(graph, live_nodes(graph, [output]))
    return plain


def _inlined(model: ModelProto) -> ModelProto:
    try:
        found = inliner.inline_local_functions(model)
    except RuntimeError as error:
        raise ValueError(f"onnx cannot inline its functions: {first_line(error)}") from error
    check_model(found)  # a call may lack an input
    return found


def _constants(model: ModelProto, shapes: list[Shapes]) -> Constants:
    """The values that do not depend on the input, and the sizes of values, as far as both can be computed."""
    found = Constants(model)
    for node in model.graph.node:
        names = [name for name in node.input if name]
        known = [s.get(names[0]) for s in shapes] if node.op_type == "Shape" and not node.domain else [None]
        if all(shape is not None and None not in shape for shape in known):
            part = slice(attribute(node, "start", 0), attribute(node, "end"))
            found.add(node.output[0], Varying(*(np.array(shape[part], np.int64) for shape in known)))
        elif all(found.has(n) for n in names):
            try:
                found.compute(node)
            except ValueError:
                continue  # it stays a node
    return found


def _reshape(node: NodeProto, shapes: Shapes, batch: int, constants: Constants, taken: set[str]) -> None:
    """Replaces a node that gives its input another shape by one that states the sizes of a sample."""
    what = f"node {said(node.name or node.output[0])} ({node.op_type})"
    before, after = (shapes.get(value) for value in (node.input[0], node.output[0]))
    if before is None or after is None or None in (*before, *after):
        raise ValueError(f"{what}: the shape of its output is not known before it runs")
    if before[:1] != (batch,) or after[:1] != (batch,) or math.prod(before[1:]) != math.prod(after[1:]):
        raise ValueError(f"{what}: it does not keep the first size, which is that of the batch")
    if len(after) == 2:
        node.CopyFrom(helper.make_node("Flatten", node.input[:1], node.output, node.name, axis=1))
        return
    sizes = fresh(f"{node.output[0]}_sizes", taken)
    constants.add(sizes, np.array([0, *after[1:]], np.int64))
    node.CopyFrom(helper.make_node("Reshape", [node.input[0], sizes], node.output, node.name))


def _store(model: ModelProto, constants: Constants) -> None:
    """Makes weights of the constants that nodes with other inputs read, and removes the nodes that compute them."""
    graph, there = model.graph, {t.name for t in model.graph.initializer}
    nodes = [node for node in graph.node if not all(name in constants.known for name in node.output if name)]
    read = {name for node in nodes for name in node.input} & constants.known.keys() - there
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(constants.known[name], name) for name in sorted(read))


def _name_nodes(model: ModelProto) -> None:
    """Names nodes so that the names can be those of layers.  onnx2torch takes a node for an input of the same name."""
    taken = {*dir(nn.Module()), "initializers", *(value.name for value in model.graph.input)}
    for i, node in enumerate(model.graph.node):
        name = re.sub(r"\W", "_", node.name.strip("/")) or f"{node.op_type.lower()}_{i}"
        node.name = f"{name}_{i}" if name in taken else name
        node.name = fresh(node.name, taken)


def _check_float32(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type in OTHER_FLOATS:
            raise ValueError(f"the constant {said(tensor.name)} is {type_name(tensor.data_type)}, and must be float32")
    for node in model.graph.node:
        if node.op_type == "Cast" and attribute(node, "to") in OTHER_FLOATS:
            what = f"node {said(node.name or node.output[0])} (Cast)"
            raise ValueError(f"{what} computes in {type_name(attribute(node, 'to'))}, and only float32 is read")


def lowered(model: ModelProto, opset: int) -> ModelProto:
    """Returns the same model with the operators of an earlier opset, as onnx converts it.  Raises ValueError."""
    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # assertions of the converter have no class of their own
        raise ValueError(f"onnx cannot convert it to opset {opset}: {first_line(error)}") from error
