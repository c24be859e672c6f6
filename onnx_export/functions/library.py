"""The operators of the domain ``linf`` as model-local functions: a table of them, and how they get into a model.

If an operator of the same name is registered in a runtime, the runtime uses it instead of the function.
"""

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto

from .boxes import BoxBlocks, LinfBoxDist, LinfBoxDistConv, SortBoxDist
from .distances import BLOCK, DistBlocks, DistJoin, LinfDist, LpDist, LpDistOf, SortDist
from .domain import LINF, OPSET
from .radius import CertifiedRadius, PairwiseRadius
from .windows import WINDOW_BLOCK, ConvBlocks, ConvJoin, LinfDistConv, LpDistConv

# The operators that nodes in a graph call: distances of points, and their ranges over boxes.
POINT_DISTANCES = {f.name: f for f in (LinfDist, LpDist, SortDist, LinfDistConv, LpDistConv)}
BOX_DISTANCES = {f.name: f for f in (LinfBoxDist, SortBoxDist, LinfBoxDistConv)}
BODIES = POINT_DISTANCES | BOX_DISTANCES

# Attribute of these operators → its type in ONNX.
ATTRIBUTE_TYPES = {
    "p": AttributeProto.FLOAT,
    "coefficients": AttributeProto.FLOATS,
    "strides": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "dilations": AttributeProto.INTS,
}

# All functions.  A function stands behind those that it calls: ONNX requires this order.
FUNCTIONS = {
    f.name: f
    for f in (DistBlocks, DistJoin, BoxBlocks, LpDistOf, ConvBlocks, ConvJoin, CertifiedRadius, PairwiseRadius)
} | BODIES

# Device → name of a constant in the bodies → its value: how many differences, and elements of windows, at a time.
STEP_SIZES = {
    "cpu": {"block": BLOCK, "windows": WINDOW_BLOCK},
    "cuda": {"block": 1 << 26, "windows": 1 << 24},  # 256 MB and 64 MB of float32
}


def called(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the operators of the domain ``linf`` that nodes call, also in their subgraphs."""
    for node in nodes:
        if node.domain == LINF.domain:
            yield node.op_type
        for attribute in node.attribute:
            yield from called(attribute.g.node)


def _body(name: str) -> onnx.FunctionProto:
    """A function without its docstring: so a file does not depend on the wording here."""
    body = FUNCTIONS[name].to_function_proto()
    body.ClearField("doc_string")
    return body


def bodies(names: Iterable[str]) -> dict[str, onnx.FunctionProto]:
    """The bodies of operators of the domain ``linf`` and of all that they call, in the order of ``FUNCTIONS``."""
    found, names = {}, set(names)
    while names:
        found |= {name: _body(name) for name in names}
        names = {name for body in found.values() for name in called(body.node)} - found.keys()
    return {name: found[name] for name in FUNCTIONS if name in found}


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds the bodies of the distance operators that a model uses and does not have yet.

    Returns:
        The same model.

    Raises:
        ValueError: the opset of the model is not that of the bodies.
    """
    opset = next((o.version for o in model.opset_import if o.domain == ""), None)
    if opset != OPSET:
        raise ValueError(f"the model has opset {opset}, the distance operators need {OPSET}")
    present = {f.name for f in model.functions if f.domain == LINF.domain}
    missing = bodies(set(called(model.graph.node)) - present)
    model.functions.extend(body for name, body in missing.items() if name not in present)
    if missing and all(o.domain != LINF.domain for o in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(LINF.domain, LINF.version))
    return model


def for_device(model: onnx.ModelProto, device: str) -> onnx.ModelProto:
    """A copy of a model whose bodies take steps of a size that suits a device.

    Distances and ranges at p = ∞ stay the same to the bit.  A sum may be rounded in another way.  Inlined bodies are
    not changed.

    Args:
        device: "cpu", the steps that ``attach`` gives; or "cuda", few large steps, because each step starts kernels.

    Raises:
        ValueError: device is another one.
    """
    if device not in STEP_SIZES:
        raise ValueError(f"device must be one of {', '.join(STEP_SIZES)}, got {device!r}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for body in result.functions:
        for node in body.node if body.domain == LINF.domain else ():
            if node.op_type == "Constant" and node.output[0] in STEP_SIZES[device]:
                node.attribute[0].i = STEP_SIZES[device][node.output[0]]
    return result
