"""Checks that the functions in a file compute what their names say: they must be those that this package writes."""

import functools
import hashlib
from collections.abc import Iterable

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, helper

from ..files.structure import STANDARD_DOMAINS
from .domain import LINF
from .library import FUNCTIONS, STEP_SIZES, called, for_device


def body_digests(function: FunctionProto) -> list[bytes]:
    """A digest for each output of a function.  Two functions with the same graph have the same digests.

    The digest of a value is made of its operator, the attributes of the operator, and the digests of its inputs.
    It does not depend on the names of values, on notes, on the order of nodes that do not need each other, or on nodes
    that no output needs.

    Raises:
        ValueError: a value is used before it is computed, or computed twice.
    """
    values: dict[str, bytes] = {}
    for i, name in enumerate(function.input):
        _define(values, name, _digest(b"input", i))
    _follow(function.node, values, depth=0)
    return [_value(values, name) for name in function.output]


def _digest(*parts) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, bytes) else repr(part).encode()
        total.update(b"%d:" % len(text) + text)
    return total.digest()


def _value(values: dict[str, bytes], name: str) -> bytes:
    if name and name not in values:
        raise ValueError(f"{name!r} is used before it is computed")
    return values[name] if name else b""


def _define(values: dict[str, bytes], name: str, digest: bytes) -> None:
    if name in values:
        raise ValueError(f"{name!r} is computed twice")
    if name:
        values[name] = digest


def _follow(nodes: Iterable[NodeProto], values: dict[str, bytes], depth: int) -> None:
    for node in nodes:
        inputs = [_value(values, name) for name in node.input]
        attributes = sorted((a.name, _attribute(a, values, depth)) for a in node.attribute)
        operator = (node.domain if node.domain not in STANDARD_DOMAINS else "", node.op_type, node.overload)
        computed = _digest(operator, *inputs, attributes, len(node.output))
        for i, name in enumerate(node.output):
            _define(values, name, _digest(computed, i))


def _attribute(a: AttributeProto, values: dict[str, bytes], depth: int) -> bytes:
    if a.ref_attr_name:
        return _digest(b"of the call", a.ref_attr_name, a.type)
    if a.type == AttributeProto.GRAPH:
        inner = dict(values)
        for i, value in enumerate(a.g.input):
            _define(inner, value.name, _digest(b"inner", depth, i))
        _follow(a.g.node, inner, depth + 1)
        outputs = [_value(inner, output.name) for output in a.g.output]
        return _digest(b"graph", len(a.g.input), *outputs, len(a.g.initializer), len(a.g.sparse_initializer))
    if a.type == AttributeProto.TENSOR:
        return _digest(b"tensor", a.t.SerializeToString(deterministic=True))
    if a.type in (AttributeProto.GRAPHS, AttributeProto.UNDEFINED):
        raise ValueError(f"the attribute {a.name} is of no known type")
    return _digest(a.type, helper.get_attribute_value(a))


def _signature(function: FunctionProto) -> tuple:
    opsets = {o.domain if o.domain not in STANDARD_DOMAINS else "": o.version for o in function.opset_import}
    return (
        len(function.input),
        sorted(function.attribute),
        [a.name for a in function.attribute_proto],
        function.overload,
        sorted(opsets.items()),
        body_digests(function),
    )


@functools.cache
def _written(name: str) -> tuple:
    """The signatures of the function that this package writes under a name, with the steps for each device."""
    model = ModelProto(functions=[FUNCTIONS[name].to_function_proto()])
    return tuple(_signature(for_device(model, device).functions[0]) for device in STEP_SIZES)


def check_bodies(model: ModelProto) -> None:
    """Checks that every function of the domain ``linf`` in a model is the one that this package writes under its name.

    If the model has no function of a name, the name stands for the operator of this package.  A runtime loads such a
    model only if that operator is registered in it.

    Raises:
        ValueError: a function has another body, calls a function that the model does not have, is there twice, is
            unknown, or has the name of a standard operator.  The message names the function.
    """
    versions = {o.version for o in model.opset_import if o.domain == LINF.domain}
    if versions - {LINF.version}:
        raise ValueError(f"the domain linf must be of version {LINF.version}, got {', '.join(map(str, versions))}")
    present = set()
    for function in model.functions:
        if function.domain in STANDARD_DOMAINS:
            raise ValueError(f"the function {function.name} takes the name of a standard operator")
        if function.domain != LINF.domain:
            continue
        name = f"linf::{function.name}"
        if function.name in present:
            raise ValueError(f"the function {name} is there twice")
        present.add(function.name)
        if function.name not in FUNCTIONS:
            raise ValueError(f"the function {name} is not one that this package writes")
        try:
            same = _signature(function) in _written(function.name)
        except ValueError as error:
            raise ValueError(f"the function {name}: {error}") from error
        if not same:
            raise ValueError(
                f"the function {name} has another body than the one that this version writes, so what it computes is "
                "not known: export the net again"
            )
    for function in model.functions:
        missing = set(called(function.node)) - present if function.domain == LINF.domain else set()
        if missing:
            raise ValueError(
                f"the function linf::{function.name} calls linf::{min(missing)}, which the model does not have"
            )
