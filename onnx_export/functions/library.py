"""The operators of the domain ``linf`` as model-local functions: which there are, and into a model with them.

A runtime that has an operator of that name registered uses its own instead.
"""

from collections.abc import Iterable, Iterator

import onnx
from onnxscript import opset20 as op
from onnxscript import script

from .distances import (
    BLOCK,
    LINF,
    OPSET,
    WINDOWS,
    BoxBlocks,
    ConvBlocks,
    ConvJoin,
    DistBlocks,
    DistJoin,
    LinfBoxDist,
    LinfBoxDistConv,
    LinfDist,
    LinfDistConv,
    LpDist,
    LpDistConv,
    LpDistOf,
    SortBoxDist,
    SortDist,
)

# Of radii: 1 − SLACK outweighs the rounding of numbers from LEAST on to float32.
SLACK, LEAST = 2.0**-23, 2.0**-126


@script(LINF)
def CertifiedRadius(x, logits, lipschitz, slack, most):
    """(largest − second largest logit − slack) / (2·lipschitz), at most ``most``, rounded down; 0 where that is
    not positive, a pixel is not in [0, 1] or a logit is not finite.

    ``certificate.radius_constants`` says what makes it a radius.  The quotient is taken in float64, whose rounding
    the constants cover; less 2⁻²³ of itself, it stays below itself when rounded to float32, as long as float32
    rounds relatively.  Graph optimisers drop a factor as close to 1 as 1 − 2⁻²³, hence the difference.
    (N, …), (N, classes), three float64 numbers → (N,).
    """
    values, _ = op.TopK(op.Cast(logits, to=onnx.TensorProto.DOUBLE), [2])
    first, second = op.Split(values, num_outputs=2, axis=1)
    exact = op.Min((first - second - slack) / (2.0 * lipschitz), most)
    down = op.Cast(exact - exact * SLACK, to=onnx.TensorProto.FLOAT)
    outside = op.Flatten(op.Not(op.And(x >= 0.0, x <= 1.0)))
    wrong = op.Concat(outside, op.Or(op.IsNaN(logits), op.IsInf(logits)), axis=1)
    right = op.ReduceSum(op.Cast(wrong, to=onnx.TensorProto.FLOAT), [1]) == 0.0
    radius = op.Squeeze(op.Where(op.And(right, exact >= LEAST), down, 0.0), [1])
    return radius


# What ``translate`` makes nodes of: distances of points, and their ranges over boxes.
POINTS = {f.name: f for f in (LinfDist, LpDist, SortDist, LinfDistConv, LpDistConv)}
BOXES = {f.name: f for f in (LinfBoxDist, SortBoxDist, LinfBoxDistConv)}
BODIES = POINTS | BOXES

# Callees before callers, as ONNX wants them.
FUNCTIONS = {
    f.name: f for f in (DistBlocks, DistJoin, BoxBlocks, LpDistOf, ConvBlocks, ConvJoin, CertifiedRadius)
} | BODIES

# Device → what the constants of that name in the bodies are: differences, and elements of windows, at a time.
STEPS = {
    "cpu": {"block": BLOCK, "windows": WINDOWS},
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
    if device not in STEPS:
        raise ValueError(f"device must be one of {', '.join(STEPS)}, got {device!r}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for body in result.functions:
        for node in body.node if body.domain == LINF.domain else ():
            if node.op_type == "Constant" and node.output[0] in STEPS[device]:
                node.attribute[0].i = STEPS[device][node.output[0]]
    return result
