"""The checks of operators that the onnx package makes, on a model without its weights."""

import onnx
from google.protobuf.message import EncodeError
from onnx import GraphProto, ModelProto, helper

from .tensors import elements_of
from .text import first_line


def skeleton(model: ModelProto, keep: int = 0) -> ModelProto:
    """A copy of a model in which each weight with more than ``keep`` elements is an input.

    It has all that onnx needs to check operators and to infer shapes, and it is small: onnx puts it into one message.
    """
    graph, given = model.graph, {i.name for i in model.graph.input}
    small = [t for t in graph.initializer if elements_of(t) <= keep]
    large = [t for t in graph.initializer if elements_of(t) > keep and t.name not in given]
    inputs = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large]
    return ModelProto(
        ir_version=model.ir_version,
        opset_import=model.opset_import,
        functions=model.functions,
        graph=GraphProto(
            name=graph.name or "graph",
            node=graph.node,
            initializer=small,
            input=[*graph.input, *inputs],
            output=graph.output,
        ),
    )


def check_operators(model: ModelProto) -> None:
    """Checks inputs and attributes of standard operators by onnx.  Raises ValueError where onnx refuses them."""
    bare = skeleton(model)
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # onnx wants a shape, but does not use it
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError, EncodeError, RuntimeError) as error:
        raise ValueError(f"onnx refuses it: {first_line(error)}") from error
