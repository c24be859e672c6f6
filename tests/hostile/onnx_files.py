"""Hostile ONNX files: whole ones, of which a seed changes a field or some bytes, and kinds known to do harm."""

import copy
import json
import os
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from google.protobuf.message import Message
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.inliner import inline_local_functions

import linf_plugin
from linf_plugin.kernels.reference import coefficients
from onnx_export.exporting import export
from onnx_export.files.seal import FORMAT, seal
from onnx_export.functions.library import attach

DATA = "weights.bin"  # beside a file


# Whole files.


def _array(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _model(nodes, shape, constants: dict, opset: int = 20, kind: int = TensorProto.FLOAT) -> ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", kind, ("N", *shape))],
        [value("y", TensorProto.FLOAT, ("N", None))],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("linf", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="tests")


def _linf(name: str, x: str, w: str, y: str, **attributes):
    return helper.make_node(name, [x, w], [y], y, domain="linf", **attributes)


def distances() -> ModelProto:
    """Normalisation, flattening by a computed shape, a distance, a mean, a sorted sum, a linear layer."""
    node = helper.make_node
    return attach(
        _model(
            [
                node("Shape", ["x"], ["n"], start=0, end=1),
                node("Concat", ["n", "rest"], ["s"], axis=0),
                node("Sub", ["x", "mean"], ["a"]),
                node("Mul", ["a", "scale"], ["b"]),
                node("Reshape", ["b", "s"], ["c"]),
                _linf("LinfDist", "c", "w", "d"),
                node("Add", ["d", "bias"], ["e"]),
                _linf("SortDist", "e", "v", "f", coefficients=coefficients(0.3, 3, 6)),
                node("Gemm", ["f", "u", "t"], ["y"], transB=1),
            ],
            (2, 3, 3),
            {
                "rest": np.int64([-1]),
                "mean": np.float32([0.2, 0.3]).reshape(2, 1, 1),
                "scale": np.float32(4),
                "w": _array(6, 18),
                "bias": _array(6),
                "v": _array(5, 6),
                "u": _array(4, 5),
                "t": _array(4),
            },
        )
    )


def convolution() -> ModelProto:
    node, window = helper.make_node, {"strides": [2, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    return attach(
        _model(
            [
                node("Slice", ["x", "from", "to", "axes"], ["a"]),
                _linf("LinfDistConv", "a", "w", "b", **window),
                node("Relu", ["b"], ["c"]),
                node("Conv", ["c", "k", "t"], ["d"], pads=[1, 1, 1, 1]),
                node("Flatten", ["d"], ["e"]),
                _linf("LpDist", "e", "v", "f", p=8.0),
                node("Neg", ["f"], ["y"]),
            ],
            (2, 6, 7),
            {
                "from": np.int64([1, 1]),
                "to": np.int64([5, 5]),
                "axes": np.int64([2, 3]),
                "w": _array(3, 2, 3, 3),
                "k": _array(2, 3, 3, 3),
                "t": _array(2),
                "v": _array(4, 16),
            },
        )
    )


def broadcast() -> ModelProto:
    node = helper.make_node
    return _model(
        [
            node("Transpose", ["w"], ["t"], perm=[1, 0]),
            node("Unsqueeze", ["t", "zero"], ["u"]),
            node("Unsqueeze", ["x", "one"], ["a"]),
            node("Sub", ["a", "u"], ["b"]),
            node("Abs", ["b"], ["c"]),
            node("ReduceMax", ["c", "last"], ["d"], keepdims=0),
            node("MatMul", ["d", "m"], ["e"]),
            node("Tanh", ["e"], ["y"]),
        ],
        (6,),
        {"w": _array(6, 5), "m": _array(5, 3), "zero": np.int64([0]), "one": np.int64([1]), "last": np.int64([-1])},
        18,
    )


def of_bytes() -> ModelProto:
    node = helper.make_node
    return attach(
        _model(
            [
                node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
                node("Div", ["a", "levels"], ["b"]),
                node("Flatten", ["b"], ["c"]),
                _linf("LinfDist", "c", "w", "y"),
            ],
            (1, 3, 3),
            {"levels": np.float32(255), "w": _array(4, 9)},
            kind=TensorProto.UINT8,
        )
    )


def whole(folder: Path, exports: bool) -> dict[str, ModelProto]:
    """Files that are as they should be, by name; with ``exports`` also some that ``export`` writes."""
    found = {
        "distances": distances(),
        "inlined": inline_local_functions(distances()),
        "convolution": convolution(),
        "inlined convolution": inline_local_functions(convolution()),
        "broadcast": broadcast(),
        "bytes": of_bytes(),
    }
    if exports:
        torch.manual_seed(0)
        for name, net, options in (
            (
                "exported",
                linf_plugin.build(
                    "linf-mlp-head", shape=(2, 5, 6), classes=4, width=6, depth=2, hidden=5, crop=3, mean=(0.1, 0.2)
                ),
                {"epsilon": 0.1, "certificate": "interval"},
            ),
            (
                "exported for verifiers",
                linf_plugin.build("linf-mlp", shape=(1, 3, 3), classes=4, width=6, depth=2),
                {"flavour": "maxpool"},
            ),
            (
                "exported in l2",
                linf_plugin.build("sll-mlp", shape=(1, 3, 3), classes=4, depth=2, hidden=5, mean=(0.1,)),
                {"norm": "l2"},
            ),
        ):
            path = folder / f"{name}.onnx"
            export(net.eval(), path, {"dataset": "digits", "seed": 1, "epsilon": 0.1}, force=True, **options)
            found[name] = onnx.load(path)
    return found


# Changes of one field, chosen by a seed.

NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, -(2**31), 2**40, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38, 0.5)


def _places(message: Message, path: tuple = ()) -> list[tuple]:
    """(message, field) of everything that is set in a message and within it."""
    found = []
    for field, value in message.ListFields():
        found.append((message, field))
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                found += _places(part)
    return found


def _other(field, rng: random.Random, names: list[str]):
    if field.enum_type is not None:
        return rng.choice(list(field.enum_type.values_by_number))
    kind = field.cpp_type
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == field.CPPTYPE_STRING:
        if field.type == field.TYPE_BYTES:
            return rng.randbytes(rng.choice((0, 1, 8, 1000)))
        return rng.choice([*names, "", "ℓ" * 10_000, "../x", "Loop", "linf", "\0"])
    low, high = {
        field.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
        field.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
        field.CPPTYPE_UINT64: (0, 2**64 - 1),
        field.CPPTYPE_UINT32: (0, 2**32 - 1),
    }[kind]
    return max(low, min(high, rng.choice(NUMBERS)))


def change_a_field(model: ModelProto, rng: random.Random) -> str:
    """Sets, deletes, doubles or moves something; says what."""
    places = _places(model)
    message, field = rng.choice(places)
    names = [name for node in model.graph.node for name in (*node.input, *node.output, node.op_type)] or ["x"]
    value = getattr(message, field.name)
    if field.message_type is None and (isinstance(value, (bool, int, float, str, bytes))):
        setattr(message, field.name, _other(field, rng, names))
        return f"{field.full_name} set"
    if isinstance(value, Message):
        message.ClearField(field.name)
        return f"{field.full_name} cleared"
    how, i = rng.choice(("deleted", "doubled", "moved", "set")), rng.randrange(len(value))
    parts = list(value)
    if how == "set" and field.message_type is None:
        parts[i] = _other(field, rng, names)
    elif how == "doubled":
        parts.insert(rng.randrange(len(parts) + 1), parts[i])
    elif how == "moved":
        parts.insert(rng.randrange(len(parts)), parts.pop(i))
    else:
        del parts[i]
    parts = [copy.deepcopy(part) for part in parts]
    message.ClearField(field.name)
    getattr(message, field.name).extend(parts)
    return f"{field.full_name} {how}"


def change_bytes(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    data, at = bytearray(content), rng.randrange(len(content))
    how = rng.choice(("flipped", "cut off", "doubled", "inserted", "removed"))
    if how == "flipped":
        for _ in range(rng.choice((1, 1, 4, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut off":
        del data[at:]
    elif how == "doubled":
        data[at:at] = data[max(0, at - rng.randrange(1, 2000)) : at]
    elif how == "inserted":
        data[at:at] = rng.randbytes(rng.choice((1, 10, 1000)))
    else:
        del data[at : at + rng.randrange(1, 200)]
    return bytes(data), f"bytes {how}"


# Kinds that are known to do harm: each returns a model, or bytes, and may write files beside.


def _bomb(op_type: str, inputs: list[str], constants: dict[str, np.ndarray], **attributes) -> ModelProto:
    """A constant that is as large as it pleases, in the way to the output."""
    node = helper.make_node
    return _model(
        [
            node(op_type, inputs, ["big"], **attributes),
            node("ReduceMax", ["big"], ["m"], keepdims=0),
            node("Add", ["x", "m"], ["y"]),
        ],
        (6,),
        constants,
    )


def _constant(change: Callable[[TensorProto], None]) -> ModelProto:
    model = distances()
    change(next(t for t in model.graph.initializer if t.name == "w"))
    return model


def _set(tensor: TensorProto, array: np.ndarray, kind: int | None = None, dims=None) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    if kind is not None:
        tensor.data_type = kind
    if dims is not None:
        tensor.dims[:] = dims


def _nan(tensor, value=np.nan):
    a = np.array(numpy_helper.to_array(tensor))
    a[0, 0] = value
    _set(tensor, a)


def _deep(depth: int) -> bytes:
    """Messages within messages: a node with a graph with a node …"""

    def field(number: int, content: bytes) -> bytes:
        size, count = b"", len(content)
        while count > 127:
            size, count = size + bytes([count & 127 | 128]), count >> 7
        return bytes([number << 3 | 2]) + size + bytes([count]) + content

    content = b""
    for _ in range(depth):
        content = field(1, field(5, field(6, content)))  # GraphProto.node, NodeProto.attribute, AttributeProto.g
    return field(7, content)


def _called(levels: int, each: int) -> ModelProto:
    """Functions that call functions: each^levels nodes once they are inlined."""
    model = broadcast()
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("f", 1)]
    for i in range(levels):
        callee = ("Neg", "") if i == 0 else (f"f{i - 1}", "f")
        names = ["a", *(f"b{j}" for j in range(each - 1)), "c"]
        nodes = [helper.make_node(callee[0], [a], [b], domain=callee[1]) for a, b in pairwise(names)]
        model.functions.append(helper.make_function("f", f"f{i}", ["a"], ["c"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("f", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = f"f{levels - 1}", "f"
    return model


def _recursive() -> ModelProto:
    model = _called(2, 2)
    model.functions[0].node[0].op_type, model.functions[0].node[0].domain = "f1", "f"
    return model


def _nodes(change: Callable[[ModelProto], None], base: Callable[[], ModelProto] = distances) -> ModelProto:
    model = base()
    change(model)
    return model


def _before(node, *added) -> Callable[[ModelProto], None]:
    def change(model: ModelProto) -> None:
        nodes = [*added, *model.graph.node]
        model.graph.ClearField("node")
        model.graph.node.extend(nodes)
        node(model)

    return change


def many(count: int) -> ModelProto:
    names = ["x", *(f"a{i}" for i in range(count - 1)), "y"]
    return _model([helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)], (6,), {})


def many_constants(count: int) -> ModelProto:
    names = ["c", *(f"a{i}" for i in range(count))]
    nodes = [helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)]
    return _model([*nodes, helper.make_node("Add", ["x", names[-1]], ["y"])], (6,), {"c": _array(6)})


def _batch(*nodes) -> ModelProto:
    """A value that is computed from the size of the batch, added to x."""
    node = helper.make_node
    return _model(
        [node("Shape", ["x"], ["n"], start=0, end=1), *nodes, node("Add", ["x", "b"], ["y"])],
        (6,),
        {"seven": np.int64([7]), "zero": np.int64([0])},
    )


def _branch(name: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([helper.make_node("Relu", ["x"], [name])], name, [], [value])


def _body(change: Callable[[onnx.FunctionProto], None], name: str = "LinfDist") -> ModelProto:
    model = distances()
    change(next(f for f in model.functions if f.name == name))
    return model


def _outside(location: str, offset: int = 0, length: int | None = 432, write: int = 432, link=False) -> Callable:
    """Weights beside the file, at a place of the file's choosing."""

    def make(folder: Path) -> ModelProto:
        model = distances()
        w = next(t for t in model.graph.initializer if t.name == "w")
        data = w.raw_data
        w.ClearField("raw_data")
        w.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                w.external_data.add(key=key, value=str(value))
        if link:
            (folder / "elsewhere").write_bytes(data)
            os.symlink(folder / "elsewhere", folder / DATA)
        elif write:
            (folder / DATA).write_bytes((data * 2)[:write])
        return model

    return make


def _with_ints(attribute: int, numbers: list[int]) -> Callable:
    """A distance of windows with these dilations (0), pads (1) or strides (2)."""

    def make() -> ModelProto:
        model = convolution()
        model.graph.node[1].attribute[attribute].ints[:] = numbers
        return model

    return make


def _in_l2(name: str, **sizes: int) -> ModelProto:
    """A small file that describes a net with a radius in ℓ2 whose matrix of pairs, or of rows, would need 27 GB."""
    model = _model(
        [helper.make_node("Gemm", ["x", "0.weight"], ["y"], transB=1)], (2,), {"0.weight": _array(60_000, 2)}
    )
    net = json.dumps({"input_shape": [2], "layers": [[name, sizes | {"bias": False}]]})
    seal(model, {"file_format": FORMAT, "norm": "l2", "flavour": "function", "certificate": "lipschitz", "net": net})
    return model


def _channels(model: ModelProto):
    return model.graph.input[0].type.tensor_type.shape.dim[1]


E = helper.make_node
TABLE: dict[str, Callable[..., ModelProto | bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello, world\n",
    "zeros": lambda: bytes(1000),
    "only a length": lambda: b"\x3a\xff\xff\xff\xff\x07",
    "deep": lambda: _deep(2000),
    "deep as protobuf allows": lambda: _deep(30),
    "ConstantOfShape": lambda: _bomb("ConstantOfShape", ["s"], {"s": np.int64([2**32])}),
    "ConstantOfShape in many sizes": lambda: _bomb("ConstantOfShape", ["s"], {"s": np.int64([2**20] * 6)}),
    "ConstantOfShape, negative": lambda: _bomb("ConstantOfShape", ["s"], {"s": np.int64([-5, -(2**40)])}),
    "Expand": lambda: _bomb("Expand", ["c", "s"], {"c": np.float32([1]), "s": np.int64([2**32])}),
    "Tile": lambda: _bomb("Tile", ["c", "s"], {"c": np.float32([1]), "s": np.int64([2**32])}),
    "Range": lambda: _bomb("Range", ["a", "b", "d"], {"a": np.float32(0), "b": np.float32(2**32), "d": np.float32(1)}),
    "Range without end": lambda: _bomb("Range", ["a", "b", "d"], dict(zip("abd", np.int64([0, 5, 0])))),
    "Pad": lambda: _bomb("Pad", ["c", "p"], {"c": np.float32([1]), "p": np.int64([2**31, 2**31])}),
    "Gather": lambda: _bomb("Gather", ["c", "i"], {"c": _array(1, 5000), "i": np.zeros(2**20, np.int64)}),
    "MatMul": lambda: _bomb("MatMul", ["a", "b"], {"a": _array(2**18, 1), "b": _array(1, 2**18)}),
    "Where": lambda: _bomb("Add", ["a", "b"], {"a": _array(2**17, 1), "b": _array(1, 2**17)}),
    "Pow": lambda: _bomb("Pow", ["a", "b"], {"a": np.int64([7] * 2**18), "b": np.int64([2**62] * 2**18)}),
    "Resize": lambda: _bomb(
        "Resize", ["c", "", "", "s"], {"c": _array(1, 1, 2, 2), "s": np.int64([1, 1, 2**16, 2**16])}
    ),
    "Einsum": lambda: _bomb("Einsum", ["a", "b"], {"a": _array(4000), "b": _array(4001)}, equation="i,j->ij"),
    "many nodes": lambda: many(200_000),
    "a long chain": lambda: many(5_000),
    "many constants": lambda: many_constants(3_900),
    "very many constants": lambda: many_constants(30_000),
    "a longer chain": lambda: many(90_000),
    "functions of functions": lambda: _called(12, 10),
    "recursive functions": _recursive,
    "NaN": lambda: _constant(_nan),
    "infinite": lambda: _constant(lambda t: _nan(t, np.inf)),
    "complex": lambda: _constant(lambda t: _set(t, np.zeros((6, 18), np.complex64))),
    "float16": lambda: _constant(lambda t: _set(t, np.zeros((6, 18), np.float16))),
    "float64": lambda: _constant(lambda t: _set(t, np.zeros((6, 18)))),
    "int8": lambda: _constant(lambda t: _set(t, np.zeros((6, 18), np.int8))),
    "strings": lambda: _constant(lambda t: _set(t, np.array([["a"] * 18] * 6, object))),
    "float8": lambda: _constant(lambda t: _set(t, np.zeros((6, 18), np.int8), TensorProto.FLOAT8E4M3FN)),
    "another shape": lambda: _constant(lambda t: _set(t, _array(6, 17))),
    "no rows": lambda: _constant(lambda t: _set(t, _array(0, 18))),
    "more dimensions": lambda: _constant(lambda t: _set(t, _array(6, 18, 1))),
    "negative dims": lambda: _constant(lambda t: _set(t, _array(6, 18), dims=[-6, -18])),
    "dims that overflow": lambda: _constant(lambda t: _set(t, _array(6, 18), dims=[2**32, 2**32])),
    "dims beyond the data": lambda: _constant(lambda t: _set(t, _array(6, 18), dims=[2**40, 18])),
    "data twice": lambda: _constant(lambda t: t.float_data.extend([0.0] * 108)),
    "segment": lambda: _constant(lambda t: setattr(t.segment, "begin", 0)),
    "type 99": lambda: _constant(lambda t: setattr(t, "data_type", 99)),
    "sparse": lambda: _nodes(
        lambda m: m.graph.sparse_initializer.append(
            onnx.SparseTensorProto(
                values=numpy_helper.from_array(np.float32([5]), "w"),
                indices=numpy_helper.from_array(np.int64([0])),
                dims=[6, 18],
            )
        )
    ),
    "weights twice": lambda: _nodes(lambda m: m.graph.initializer.append(m.graph.initializer[3])),
    "weights that a node computes": lambda: _nodes(_before(lambda m: None, E("Neg", ["v"], ["w"]))),
    "weights named as the input": lambda: _nodes(lambda m: setattr(m.graph.initializer[3], "name", "x")),
    "cycle": lambda: _nodes(lambda m: m.graph.node[2].input.__setitem__(0, "y")),
    "missing input": lambda: _nodes(lambda m: m.graph.node[5].input.__setitem__(1, "nowhere")),
    "no input": lambda: _nodes(lambda m: m.graph.node[5].ClearField("input")),
    "no output": lambda: _nodes(lambda m: m.graph.node[5].ClearField("output")),
    "no outputs": lambda: _nodes(lambda m: m.graph.ClearField("output")),
    "two inputs": lambda: _nodes(lambda m: m.graph.input.append(helper.make_tensor_value_info("z", 1, [1]))),
    "weights as the moving part": lambda: _nodes(lambda m: m.graph.node[5].input.__setitem__(slice(None), ["w", "c"])),
    "three inputs": lambda: _nodes(lambda m: m.graph.node[5].input.append("w")),
    "p": lambda: _nodes(lambda m: m.graph.node[5].attribute.append(helper.make_attribute("p", 0.5)), convolution),
    "NaN as p": lambda: _nodes(lambda m: setattr(m.graph.node[5].attribute[0], "f", float("nan")), convolution),
    "dilations of 0": _with_ints(0, [0, 0]),
    "negative pads": _with_ints(1, [-3] * 4),
    "huge pads": _with_ints(1, [2**40] * 4),
    "strides of 0": _with_ints(2, [0, 0]),
    "group": lambda: _nodes(lambda m: m.graph.node[3].attribute.append(helper.make_attribute("group", 3)), convolution),
    "unknown operator": lambda: _nodes(lambda m: setattr(m.graph.node[6], "op_type", "Adding")),
    "unknown domain": lambda: _nodes(lambda m: setattr(m.graph.node[6], "domain", "com.example")),
    "If": lambda: _nodes(
        _before(
            lambda m: (
                m.graph.node[3].input.__setitem__(0, "chosen"),
                m.graph.initializer.append(numpy_helper.from_array(np.bool_(True), "yes")),
            ),
            E("If", ["yes"], ["chosen"], then_branch=_branch("one"), else_branch=_branch("two")),
        )
    ),
    "opset 6": lambda: _nodes(lambda m: setattr(m.opset_import[0], "version", 6)),
    "opset 999": lambda: _nodes(lambda m: setattr(m.opset_import[0], "version", 999)),
    "opset -1": lambda: _nodes(lambda m: setattr(m.opset_import[0], "version", -1)),
    "no opset": lambda: _nodes(lambda m: m.ClearField("opset_import")),
    "IR 99": lambda: _nodes(lambda m: setattr(m, "ir_version", 99)),
    "a huge image": lambda: _nodes(lambda m: setattr(_channels(m), "dim_value", 2**40)),
    "a negative image": lambda: _nodes(lambda m: setattr(_channels(m), "dim_value", -2)),
    "input of strings": lambda: _nodes(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8)),
    "metadata": lambda: _nodes(
        lambda m: helper.set_model_props(m, {"epsilon": "ten", "seed": "1e9", "versions": "{", "net": "["})
    ),
    "metadata twice": lambda: _nodes(lambda m: [m.metadata_props.add(key="epsilon", value=v) for v in ("0.1", "0.2")]),
    "nested metadata": lambda: _nodes(
        lambda m: helper.set_model_props(m, {"versions": '{"a":' * 50_000, "net": "[" * 50_000})
    ),
    "batch as a number": lambda: _batch(E("Cast", ["n"], ["b"], to=TensorProto.FLOAT)),
    "batch in a product": lambda: _batch(E("Mul", ["n", "seven"], ["m"]), E("Cast", ["m"], ["b"], to=1)),
    "batch as a size": lambda: _batch(E("Expand", ["seven", "n"], ["m"]), E("Cast", ["m"], ["b"], to=1)),
    "a body that doubles": lambda: _body(
        lambda f: (f.node.append(E("Add", ["y", "y"], ["twice"])), f.output.__setitem__(0, "twice"))
    ),
    "a body of another": lambda: _body(lambda f: f.node[-1].input.__setitem__(slice(None), ["c"]), "DistJoin"),
    "a body with a cycle": lambda: _body(lambda f: f.node[0].input.__setitem__(0, "y")),
    "no body of what is called": lambda: _nodes(lambda m: m.functions.remove(m.functions[0])),
    "no bodies": lambda: _nodes(lambda m: m.ClearField("functions")),
    "Neg as a function": lambda: _nodes(
        lambda m: m.functions.append(
            helper.make_function("", "Neg", ["x"], ["y"], [E("Identity", ["x"], ["y"])], [helper.make_opsetid("", 20)])
        )
    ),
    "coefficients": lambda: _nodes(lambda m: m.graph.node[7].attribute[0].floats.__setitem__(0, 9.0)),
    "very many rows in l2": lambda: _in_l2("potential", features=2, inner=60_000),
    "very many classes in l2": lambda: _in_l2("linear", in_features=2, out_features=60_000),
    "weights beside": _outside(DATA),
    "weights elsewhere": _outside("/etc/hostname"),
    "weights above": _outside("../../" + DATA),
    "weights behind a link": _outside(DATA, link=True),
    "weights missing": _outside("nowhere"),
    "weights cut off": _outside(DATA, write=100),
    "weights beyond the end": _outside(DATA, offset=2**40),
    "a huge length": _outside(DATA, length=2**62),
    "a negative offset": _outside(DATA, offset=-4),
    "no length": _outside(DATA, length=None),
    "the folder": _outside("."),
    "a device": _outside("/dev/zero"),
    "no location": _outside(""),
}


def written(name: str, folder: Path) -> bytes:
    """A file of ``TABLE``; what lies beside it is written to the folder."""
    make = TABLE[name]
    made = make(folder) if make.__code__.co_argcount else make()
    return made if isinstance(made, bytes) else made.SerializeToString()
