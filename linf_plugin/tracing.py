"""Access to the private modules of torch.onnx that tracing needs."""

import types
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch.onnx._internal.torchscript_exporter import symbolic_helper


def constant(value: Any, kind: Literal["f", "i", "is"]) -> Any:
    """Returns a constant argument of a symbolic function.  kind: "f" for float, "i" for int, "is" for list of ints."""
    return symbolic_helper._maybe_get_const(value, kind)


def sizes(value: Any, dims: int) -> list[int | None]:
    """Returns the sizes of a traced tensor with ``dims`` dimensions; None for a size that the trace does not know."""
    return value.type().varyingSizes() or [None] * dims


def register_symbolic(name: str, symbolic: Callable) -> None:
    """Tells the tracer how to write the operator ``name`` (for every opset from 9 on)."""
    torch.onnx.register_custom_op_symbolic(name, symbolic, 9)


def give_functions(protos: Iterable[Any]) -> None:
    """Puts ONNX functions into the model that ``torch.onnx.export(dynamo=True)`` is writing.

    It must be called while the exporter translates an operator whose node calls these functions.  At the end the
    exporter converts the model to the requested opset, which inlines its functions.  Until then the model has another
    opset, and functions without an opset of their own adopt it.  If an exporter keeps no list of functions, the node
    stays without a body.
    """
    from onnxscript import evaluator

    functions = getattr(evaluator.default(), "functions", None)
    if not isinstance(functions, dict):
        return
    for proto in protos:
        proto.ClearField("opset_import")
        functions[proto.domain, proto.name, ""] = types.SimpleNamespace(to_function_proto=lambda proto=proto: proto)
