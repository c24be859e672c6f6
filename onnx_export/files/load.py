"""Opening ONNX files of which nothing is trusted: each is a whole model, or one sentence that says what is wrong."""

import collections
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

MOST_BYTES = 2**31  # of a protobuf message
MOST_EXTERNAL = 2**36  # bytes of weights beside a file
MOST_NODES = 100_000  # in a file, those of functions and subgraphs included
MOST_INLINED = 500_000  # once every call of a function is replaced by its body
MOST_PARTS = 100_000  # inputs, weights and so on of one graph
STANDARD = ("", "ai.onnx")  # two names of one domain
DEEPEST = 16  # subgraphs within subgraphs; functions that call functions

# Type of a tensor → field that holds its elements one by one, bits of an element, entries of the field an element.
_INT32 = ("int32_data", 1)
KINDS = {
    TensorProto.FLOAT: ("float_data", 1, 32),
    TensorProto.DOUBLE: ("double_data", 1, 64),
    TensorProto.COMPLEX64: ("float_data", 2, 64),
    TensorProto.COMPLEX128: ("double_data", 2, 128),
    TensorProto.INT64: ("int64_data", 1, 64),
    TensorProto.UINT64: ("uint64_data", 1, 64),
    TensorProto.UINT32: ("uint64_data", 1, 32),
    TensorProto.STRING: ("string_data", 1, 0),
    TensorProto.INT32: (*_INT32, 32),
    TensorProto.INT16: (*_INT32, 16),
    TensorProto.UINT16: (*_INT32, 16),
    TensorProto.INT8: (*_INT32, 8),
    TensorProto.UINT8: (*_INT32, 8),
    TensorProto.BOOL: (*_INT32, 8),
    TensorProto.FLOAT16: (*_INT32, 16),
    TensorProto.BFLOAT16: (*_INT32, 16),
}
FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data", "raw_data")

# Type of an attribute → the field that holds it.
ATTRIBUTES = {
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
    AttributeProto.STRING: "s",
    AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g",
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.STRINGS: "strings",
}


def said(name: str) -> str:
    """A name from a file, as a message shows it: in quotes, and short."""
    return repr(name if len(name) <= 80 else name[:77] + "…")


def shown(text: str) -> str:
    """Text from a file on one line of an output: what is not printable as Python writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def type_name(data_type: int) -> str:
    """What ONNX calls a type of tensors, in lower case."""
    known = TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if data_type in known else f"type {data_type}"


def load(path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """An ONNX file, checked by ``check_model``, with its weights, wherever they are stored.

    Beyond the size of the file no more is allocated than four times that of those beside it: weights may share a place.

    Args:
        weights: whether weights beside the file are read; if not, they are checked and stay where they are.

    Raises:
        FileNotFoundError: there is no such file, or one that holds its weights is missing.
        ValueError: it is no ONNX file, or ``check_model`` refuses it; or weights lie outside the file's folder, behind
            a link, or beyond the end of their file.  The message names the file.
    """
    return parsed(content_of(path), path, weights=weights)


def content_of(path: str | os.PathLike) -> bytes:
    """The bytes of a file, for ``parsed``.  Raises as ``load`` where there is none, or where it is none that may be
    one."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    mode = path.stat()
    if not stat.S_ISREG(mode.st_mode):
        raise ValueError(f"{path} cannot be read: it is no file but a folder or a device")
    if mode.st_size >= MOST_BYTES:
        raise ValueError(f"{path} cannot be read: it has {mode.st_size:,} bytes, and ONNX files end at 2 GiB")
    return path.read_bytes()


def parsed(content: bytes, path: str | os.PathLike, *, weights: bool = True) -> ModelProto:
    """``load`` of the bytes that a file had when they were read."""
    model = ModelProto()
    try:
        model.ParseFromString(content)
        if not model.HasField("graph") or not model.graph.output:
            raise DecodeError("it has no outputs")
        check_structure(model)
        _external(model, Path(path).parent, weights)
        _check_operators(model)
    except DecodeError as error:
        raise ValueError(f"{path} is not a complete ONNX file: {first_line(error)}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return model


def check_model(model: ModelProto) -> None:
    """That a model is whole, and small enough to be looked at: ``check_structure``, and onnx's own checks of operators.

    Raises:
        ValueError: as these say, in one sentence.
    """
    check_structure(model)
    _check_operators(model)


# Structure.


def check_structure(model: ModelProto) -> None:
    """That names are unique, values are computed before they are used, tensors have the size that they state, functions
    do not call themselves, and the whole stays within ``MOST_NODES``, ``MOST_INLINED``, ``MOST_PARTS`` and ``DEEPEST``.

    Refused are also the parts of ONNX that nothing here takes into account: sparse weights, training graphs, functions
    with overloads, tensors in segments, and attributes of sparse tensors, of types and of several graphs or tensors.

    Raises:
        ValueError: something of that is not so; the message names it.
    """
    if model.training_info:
        raise ValueError("it has graphs for training, which are not supported")
    _unique("the domain", _imported(model), "is imported")
    _unique("the metadata", [p.key for p in model.metadata_props], "are there")
    _unique("the function", [f"{f.domain}::{f.name}" for f in model.functions], "is there")
    _count("functions", len(model.functions), MOST_PARTS)
    nodes = sum(_nodes(part.node, 0) for part in (model.graph, *model.functions))
    _count("nodes", nodes, MOST_NODES)
    _count("nodes, once its functions are inlined", _inlined(model), MOST_INLINED)
    _check_graph(model.graph, [])
    for function in model.functions:
        _check_function(function)


def _imported(part: ModelProto | FunctionProto) -> list[str]:
    return ["" if o.domain in STANDARD else o.domain for o in part.opset_import]


def _unique(kind: str, names: Iterable[str], state: str) -> None:
    name, times = next(iter(collections.Counter(names).most_common(1)), ("", 0))
    if times > 1:
        raise ValueError(f"{kind} {said(name)} {state} {times} times")


def _count(kind: str, count: int, most: int) -> None:
    if count > most:
        raise ValueError(f"it has {count:,} {kind}; at most {most:,} are read")


def _nodes(nodes, depth: int) -> int:
    if depth > DEEPEST:
        raise ValueError(f"its subgraphs lie more than {DEEPEST} deep")
    _count("nodes", len(nodes), MOST_NODES)
    return len(nodes) + sum(_nodes(a.g.node, depth + 1) for node in nodes for a in node.attribute if a.HasField("g"))


def _calls(nodes) -> Iterator[tuple[str, str]]:
    for node in nodes:
        yield node.domain, node.op_type
        for a in node.attribute:
            yield from _calls(a.g.node)


def _inlined(model: ModelProto) -> int:
    """Nodes of the graph when every call of a function is replaced by its body.  Raises ValueError for recursion."""
    calls = {(f.domain, f.name): collections.Counter(_calls(f.node)) for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(of: collections.Counter, above: tuple = ()) -> int:
        total = 0
        for name, times in of.items():
            if name in calls and name not in sizes:
                if name in above or len(above) > DEEPEST:
                    raise ValueError(f"the function {said('::'.join(name))} calls itself, or functions call too deep")
                sizes[name] = min(size(calls[name], (*above, name)), MOST_INLINED + 1)
            total += times * sizes.get(name, 1)
        return total

    return size(collections.Counter(_calls(model.graph.node)))


Scopes = list[set[str]]  # names of values, of each graph around a node and then of its own


def _seen(name: str, scopes: Scopes) -> bool:
    return any(name in names for names in scopes)


def _check_graph(graph: GraphProto, outer: Scopes, formal: Collection[str] = ()) -> None:
    """``outer``: what the graph may use from around it, and must not use as names of its own."""
    for kind in ("input", "output", "initializer", "value_info"):
        _count(f"parts {kind}", len(getattr(graph, kind)), MOST_PARTS)
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ValueError(f"the sparse initializer {said(name)} is not supported: store it as a dense one")
    _unique("the input", [i.name for i in graph.input], "is there")
    _unique("the initializer", [t.name for t in graph.initializer], "is there")
    _unique("the output", [o.name for o in graph.output], "is there")
    for tensor in graph.initializer:
        if not tensor.name:
            raise ValueError("an initializer has no name")
        _check_tensor(tensor, f"the initializer {said(tensor.name)}")
    names = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    # An input of a subgraph may hide a name from around it, as where functions were inlined.
    twice = next((t.name for t in graph.initializer if _seen(t.name, outer)), None)
    if twice is not None:
        raise ValueError(f"{said(twice)} is the name of two values")
    scopes = [*outer, names]
    _check_nodes(graph.node, scopes, formal)
    for output in graph.output:
        if not _seen(output.name, scopes):
            raise ValueError(f"the output {said(output.name)} is not computed")


def _check_function(function: FunctionProto) -> None:
    name = f"{function.domain}::{function.name}"
    if function.overload:
        raise ValueError(f"the function {said(name)} has overloads, which are not supported")
    try:
        _unique("the input", function.input, "is there")
        _unique("the domain", _imported(function), "is imported")
        names = set(function.input)
        _check_nodes(function.node, [names], {*function.attribute, *(a.name for a in function.attribute_proto)})
        for output in function.output:
            if output not in names:
                raise ValueError(f"the output {said(output)} is not computed")
    except ValueError as error:
        raise ValueError(f"the function {said(name)}: {error}") from error


def _check_nodes(nodes: Iterable[NodeProto], scopes: Scopes, formal: Collection[str] = ()) -> None:
    """Adds what the nodes compute to the last scope; ``formal``: the attributes of the function that they are in."""
    for node in nodes:
        what = f"node {said(node.name or next(iter(node.output), ''))} ({said(node.op_type)[1:-1]})"
        if node.overload:
            raise ValueError(f"{what} calls an overload, which is not supported")
        if not any(node.output):
            raise ValueError(f"{what} has no output")
        for name in node.input:
            if name and not _seen(name, scopes):
                raise ValueError(f"{what} reads {said(name)}, which nothing before it computes")
        if len(node.attribute) > 1:
            _unique(f"{what}: the attribute", [a.name for a in node.attribute], "is there")
        for a in node.attribute:
            _check_attribute(a, what, scopes, formal)
        for name in filter(None, node.output):
            if _seen(name, scopes):
                raise ValueError(f"{said(name)} is the name of two values, of which {what} computes one")
            scopes[-1].add(name)


def _check_attribute(a: AttributeProto, what: str, scopes: Scopes, formal: Collection[str]) -> None:
    what = f"{what}: the attribute {said(a.name)}"
    given = {field.name for field, _ in a.ListFields()} - {"name", "type", "doc_string", "ref_attr_name"}
    if a.ref_attr_name:
        if a.ref_attr_name not in formal or given:
            raise ValueError(f"{what} refers to {said(a.ref_attr_name)}, which is no attribute of a function around it")
    elif a.type not in ATTRIBUTES:
        raise ValueError(f"{what} is of a type that is not supported")
    elif given - {ATTRIBUTES[a.type]} or (not given and ATTRIBUTES[a.type] in ("t", "g")):
        raise ValueError(f"{what} does not hold what its type says")
    elif a.type == AttributeProto.TENSOR:
        _check_tensor(a.t, what)
    elif a.type == AttributeProto.GRAPH:
        _check_graph(a.g, scopes, formal)


def _check_tensor(tensor: TensorProto, what: str) -> None:
    """That a tensor holds as many elements as its sizes say."""
    if tensor.data_type not in KINDS:
        raise ValueError(f"{what} is of {type_name(tensor.data_type)}, which is not supported")
    if tensor.HasField("segment"):
        raise ValueError(f"{what} comes in segments, which are not supported")
    if len(tensor.dims) > 64 or any(size < 0 for size in tensor.dims):
        raise ValueError(f"{what} has negative sizes or too many: {list(tensor.dims[:8])}")
    field, entries, _ = KINDS[tensor.data_type]
    given = [name for name in FIELDS if len(getattr(tensor, name))]
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        if given or tensor.data_location != TensorProto.EXTERNAL:
            raise ValueError(f"{what} is stored both in the file and beside it")
        if not tensor.external_data:
            raise ValueError(f"{what} says in no way where it is stored")
        return
    if given == ["raw_data"] and field != "string_data":
        have, want = len(tensor.raw_data), bytes_of(tensor)
    elif given in ([], [field]):
        have, want = len(getattr(tensor, field)), elements_of(tensor) * entries
    else:
        raise ValueError(f"{what} is stored as {' and '.join(given)}, which does not fit its type")
    if have != want:
        raise ValueError(f"{what} has sizes {list(tensor.dims)} and does not hold as many numbers")


def elements_of(tensor: TensorProto) -> int:
    """How many elements the sizes of a tensor say that it has."""
    total = 1
    for size in tensor.dims:
        total *= size
    return total


def bytes_of(tensor: TensorProto) -> int:
    """How many bytes they take."""
    return elements_of(tensor) * KINDS[tensor.data_type][2] // 8


# Weights beside the file.


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model, those in attributes included."""

    def of_nodes(nodes) -> Iterator[TensorProto]:
        for node in nodes:
            for a in node.attribute:
                if a.type == AttributeProto.TENSOR:
                    yield a.t
                elif a.type == AttributeProto.GRAPH:
                    yield from of_graph(a.g)

    def of_graph(graph: GraphProto) -> Iterator[TensorProto]:
        yield from graph.initializer
        yield from of_nodes(graph.node)

    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)


def _external(model: ModelProto, folder: Path, read: bool) -> None:
    """Checks the tensors that are stored beside the file, and reads them."""
    places = [(tensor, *_place(tensor, folder)) for tensor in _tensors(model) if tensor.external_data]
    total, there = sum(length for *_, length in places), sum(p.stat().st_size for p in {p for _, p, *_ in places})
    if total > min(4 * there, MOST_EXTERNAL):  # tied weights may share a place
        raise ValueError(f"its weights take {total:,} bytes of files that have {there:,}")
    for tensor, path, offset, length in places if read else ():
        with open(path, "rb") as f:
            f.seek(offset)
            tensor.raw_data = f.read(length)
        if len(tensor.raw_data) != length:
            raise ValueError(f"{path.name} became shorter while it was read")
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")  # as if it had been in the file


def _place(tensor: TensorProto, folder: Path) -> tuple[Path, int, int]:
    """(file, offset, length) of a tensor."""
    what, given = f"the tensor {said(tensor.name)}", {e.key: e.value for e in tensor.external_data}
    if len(given) != len(tensor.external_data) or not {"location"} <= given.keys() <= PLACE:
        raise ValueError(f"{what} says in no known way where it is stored")
    if tensor.data_type == TensorProto.STRING:
        raise ValueError(f"{what} holds strings, which cannot be stored beside the file")
    location = PurePosixPath(given["location"])
    if "\\" in given["location"] or "\0" in given["location"] or location.is_absolute() or ".." in location.parts:
        raise ValueError(f"{what} is stored in {said(given['location'])}, which is not within the folder of the file")
    path = folder
    for part in location.parts:
        path = path / part
        if path.is_symlink():
            raise ValueError(f"{what} is stored in {said(given['location'])}, which is a link")
    try:
        state = path.stat()
    except OSError as error:
        raise FileNotFoundError(f"{path}, where {what} is stored, is missing") from error
    if not stat.S_ISREG(state.st_mode):
        raise ValueError(f"{what} is stored in {said(given['location'])}, which is no file")
    numbers = [given.get("offset", "0"), given.get("length", str(bytes_of(tensor)))]
    if not all(n.isascii() and n.isdecimal() and len(n) < 20 for n in numbers):
        raise ValueError(f"{what} is stored at {said(numbers[0])}, {said(numbers[1])} long, which are no numbers")
    offset, length = map(int, numbers)
    if length != bytes_of(tensor):
        raise ValueError(f"{what} has sizes {list(tensor.dims)} and is stored in {length:,} bytes")
    if offset + length > state.st_size:
        raise ValueError(f"{what} is stored beyond the end of {said(given['location'])}")
    return path, offset, length


PLACE = {"location", "offset", "length", "checksum", "basepath"}


# Operators.


def skeleton(model: ModelProto, keep: int = 0) -> ModelProto:
    """A copy of a model in which weights of more than ``keep`` elements are inputs: all that onnx needs to check
    operators and to infer shapes, and none of what would not fit a message."""
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


def _check_operators(model: ModelProto) -> None:
    """Inputs and attributes of standard operators, as onnx knows them."""
    bare = skeleton(model)
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()  # which onnx wants, though it does not need it
    try:
        onnx.checker.check_model(bare)
    except (onnx.checker.ValidationError, ValueError, EncodeError, RuntimeError) as error:
        raise ValueError(f"onnx refuses it: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an error of another library says, without its context, which may be as long as the file."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 300 else text[:297] + "…"
