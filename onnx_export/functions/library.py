"""The operators of the domain ``linf`` as model-local functions: which there are, and into a model with them.

A runtime that has an operator of that name registered uses its own instead.
"""

from collections.abc import Iterable, Iterator

import onnx
from onnx import AttributeProto

from .boxes import BoxBlocks, LinfBoxDist, LinfBoxDistConv, SortBoxDist
from .distances import BLOCK, DistBlocks, DistJoin, LinfDist, LpDist, LpDistOf, SortDist
from .domain import LINF, OPSET
from .radius import CertifiedRadius
from .windows import WINDOW_BLOCK, ConvBlocks, ConvJoin, LinfDistConv, LpDistConv

# What ``translate`` makes nodes of: distances of points, and their ranges over boxes.
POINT_DISTANCES = {f.name: f for f in (LinfDist, LpDist, SortDist, LinfDistConv, LpDistConv)}
BOX_DISTANCES = {f.name: f for f in (LinfBoxDist, SortBoxDist, LinfBoxDistConv)}
BODIES = POINT_DISTANCES | BOX_DISTANCES

# Attributes of these operators, and the types that ONNX has for them.
ATTRIBUTE_TYPES = {
    "p": AttributeProto.FLOAT,
    "coefficients": AttributeProto.FLOATS,
    "strides": AttributeProto.INTS,
    "pads": AttributeProto.INTS,
    "dilations": AttributeProto.INTS,
}

# Callees before callers, as ONNX wants them.
FUNCTIONS = {
    f.name: f for f in (DistBlocks, DistJoin, BoxBlocks, LpDistOf, ConvBlocks, ConvJoin, CertifiedRadius)
} | BODIES

# Device → what the constants of that name in the bodies are: differences, and elements of windows, at a time.
STEP_SIZES = {
    "cpu": {"block": BLOCK, "windows": WINDOW_BLOCK},
    "cuda": {"block": 1 << 26, "windows": 1 << 24},  # 256 MB and 64 MB of float32
}


def called(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """Names of the operators of the domain ``linf`` in nodes and in their subgraphs."""
    for node in nodes:
        if node.domain == LINF.domain:
            yield node.op_type
        for attribute in node.attribute:
            yield from called(attribute.g.node)


def _body(name: str) -> onnx.FunctionProto:
    """Without its description: a file that is written anew is the same in other words."""
    body = FUNCTIONS[name].to_function_proto()
    body.ClearField("doc_string")
    return body


def bodies(names: Iterable[str]) -> dict[str, onnx.FunctionProto]:
    """The bodies of operators of the domain ``linf`` and of all that they call, callees before callers."""
    found, names = {}, set(names)
    while names:
        found |= {name: _body(name) for name in names}
        names = {name for body in found.values() for name in called(body.node)} - found.keys()
    return {name: found[name] for name in FUNCTIONS if name in found}


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Adds the bodies of the distance operators that a model uses and does not have yet; returns that model.

    Raises:
        ValueError: the model's opset is not the one that the bodies are written in.
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
    """A copy of a model whose bodies take steps of the size that suits a device.

    Distances and ranges at p = ∞ are the same to the bit; a sum may round otherwise.  Bodies that are inlined stay
    as they are.

    Args:
        device: "cpu", what ``attach`` gives, or "cuda": few large steps, since each is a launch of kernels.

    Raises:
        ValueError: device is neither.
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
