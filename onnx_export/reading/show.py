"""A summary of an ONNX file for people: its inputs, its outputs, its layers, its metadata."""

import re
from collections import Counter
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from linf_plugin import plain
from linf_plugin.norms import NORMS, SYMBOLS

from ..files.seal import DIGEST, FORMAT, broken_seal, props_of
from ..files.text import said, shown, type_name
from ..functions.domain import LINF

# Output of a certified model → its meaning.
OUTPUT_MEANINGS = {
    "logits": "one for each class",
    "prediction": "the class of the largest logit",
    "certified_radius": "no smaller change of x in {norm} changes the prediction",
    "certified": "no change of x within ε changes the prediction",
    "lower": "no change of x within ε gives a smaller logit",
    "upper": "no change of x within ε gives a larger logit",
}


def _meaning(output: str, model: ModelProto) -> str:
    """The meaning of an output of a model.  A file that names no norm is older than other norms than ℓ∞."""
    norm = NORMS.get(props_of(model).get("norm", "linf"))
    return OUTPUT_MEANINGS.get(output, "").format(norm="an unknown norm" if norm is None else SYMBOLS[norm])


SHOWN_TYPES = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32}
SHAPE_OPERATORS = {"Concat", "Constant", "Shape", "Squeeze", "Unsqueeze"}  # they mostly handle shapes


def _name(text: str) -> str:
    """A name from a file, in quotes where it has unusual characters."""
    return text if re.fullmatch(r"[\w.:/-]+", text) else said(text)


def _type(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = ", ".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
    return f"{type_name(tensor.elem_type)} ({sizes})"


def _attributes(node: NodeProto) -> str:
    """The numbers in the attributes of a node; a graph in an attribute is not shown."""
    found = []
    for a in node.attribute:
        if a.name == "p":
            found.append(f"p = {a.f:g}")
        elif a.ints:
            found.append(f"{a.name} {'×'.join(map(str, a.ints))}")
        elif a.floats:
            found.append(f"{len(a.floats)} {a.name}")
    return f" [{', '.join(found)}]" if found else ""


def _constant(tensor: TensorProto) -> str:
    """The sizes of a constant; the number itself if there is one, without dimensions."""
    if tensor.dims:
        return "×".join(map(str, tensor.dims))
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in SHOWN_TYPES:
        return "one number"
    return f"{numpy_helper.to_array(tensor).item():g}"


def _nodes(graph: GraphProto) -> list[str]:
    """A line for each node.  Equal lines in a row are written once, with their number."""
    shapes = {t.name: _constant(t) for t in graph.initializer}
    lines = []
    for node in graph.node:
        if not node.domain and node.op_type in SHAPE_OPERATORS:
            continue
        name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        weights = " ".join(shapes[i] for i in node.input if i in shapes)
        lines.append(f"{_name(name):<22} {weights}{_attributes(node)}".rstrip())
    counted = []
    for line in lines:
        if counted and counted[-1][0] == line:
            counted[-1][1] += 1
        else:
            counted.append([line, 1])
    return [line + (f"  ({times} times)" if times > 1 else "") for line, times in counted]


def _layers(text: str) -> str:
    """The names of the layers in a description of a net."""
    try:
        return ", ".join(name for name, _ in plain.loads(text)["layers"])
    except (KeyError, TypeError, ValueError):
        return "(not readable)"


def _operations(text: str) -> str:
    """The names of the operations in a description of a traced net."""
    try:
        names = [name for name, *_ in plain.loads(text)["operations"]]
        return ", ".join(names) + " (traced; the certificates are about the operations of this file)"
    except (KeyError, TypeError, ValueError):
        return "(not readable)"


DESCRIPTIONS = {"net": _layers, "graph": _operations}  # key of a description → a line about it


def _metadata(model: ModelProto) -> list[str]:
    props = props_of(model)
    ours, lines = props.get("file_format") == FORMAT, []
    for key, value in props.items():
        if key == "versions":
            value = _versions(value)
        elif key in DESCRIPTIONS and ours:
            value = DESCRIPTIONS[key](value)
        elif key == DIGEST:
            value += " (as written)" if broken_seal(model) is None else " (CHANGED since it was written)"
        lines.append(f"{_name(key):<28} {value}")
    return lines


def _versions(value: str) -> str:
    try:
        return ", ".join(f"{name} {v}" for name, v in plain.loads(value).items())
    except (AttributeError, ValueError):
        return value


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {shown(line)}" for line in lines)] if lines else []


def summary(model: ModelProto, path: str | Path = "") -> str:
    """The text that ``linf-export show`` prints about a model with its weights."""
    graph, kinds = model.graph, Counter(node.op_type for node in model.graph.node)
    numbers = sum(len(t.raw_data) // 4 for t in graph.initializer if t.data_type == TensorProto.FLOAT)
    opsets = ", ".join(f"{_name(o.domain or 'default')} {o.version}" for o in model.opset_import)
    inputs = [i for i in graph.input if i.name not in {t.name for t in graph.initializer}]
    lines = [
        f"{path or 'model'}: {sum(kinds.values())} nodes, {numbers:,} float32 weights, opsets: {opsets}",
        *_section("input", [f"{_name(i.name):<18} {_type(i)}" for i in inputs]),
        *_section(
            "outputs", [f"{_name(o.name):<18} {_type(o):<24} {_meaning(o.name, model)}".rstrip() for o in graph.output]
        ),
        *_section("graph, without nodes that handle shapes", _nodes(graph)),
        *_section(
            "functions in standard operators, which native operators may replace",
            [
                f"{f.domain}::{_name(f.name):<18} {len(f.node)} nodes"
                for f in model.functions
                if f.domain == LINF.domain
            ],
        ),
        *_section("metadata", _metadata(model)),
    ]
    return "\n".join(lines)
