"""Traced nets are read back from their files; what a file says of them is not trusted."""

import copy
import functools
import json
import random
import re

import numpy as np
import pytest
import torch
import traced_nets
from onnx import numpy_helper

from onnx_export.files.seal import seal
from onnx_export.reading.recompute import contradictions, net_of
from onnx_export.writing.compose import compose
from onnx_export.writing.settings import Settings
from onnx_export.writing.traced.compose import traced, why_no_radius
from onnx_export.writing.traced.describe import IN_WORDS, described, written
from onnx_export.writing.traced.ends import END_NODES
from onnx_export.writing.traced.nodes import OPERATION_NODES
from onnx_export.writing.traced.read import OPERATIONS, read
from onnx_export.writing.traced.shapes import SHAPES, shapes_of
from onnx_export.writing.traced.widths import WIDTHS

each_net = pytest.mark.parametrize("name", traced_nets.NETS)


@functools.cache
def net_in_file(name: str):
    """What a file has of a net.  Not to be changed."""
    return traced(*traced_nets.net_of(name))


def model_of(name: str):
    """The model of a net, sealed, with the certificates that it can have."""
    net = net_in_file(name)
    model, props = compose(net, Settings(certified=why_no_radius(net) is None, interval=True, epsilon=0.01))
    seal(model, props)
    return net, model, props


@torch.no_grad()
@each_net
def test_a_net_is_read_back(name):
    """The same operations and constants, and so the same file."""
    net, model, props = model_of(name)
    assert contradictions(model) == []
    again = net_of(model)
    assert again.input_shape == net.input_shape and again.graph.inputs == net.graph.inputs
    assert written(again.graph, again.input_shape) == props["graph"]
    x = torch.rand(4, *net.input_shape)
    assert torch.equal(again.graph(x), net.graph(x))


def test_tables_have_the_same_operations():
    """One row in each for what a file may hold; scales and shifts become one operation before they are written."""
    kinds = OPERATION_NODES.keys()
    assert IN_WORDS.keys() == END_NODES.keys() == WIDTHS.keys() == kinds
    assert {kind.__name__ for kind in SHAPES.keys() - kinds} == {"Scale", "Shift"}


def test_every_operation_of_a_description_is_read():
    """The nets have each of them, but for those that take any index."""
    seen = set()
    for name in traced_nets.NETS:
        net = net_in_file(name)
        seen |= {one.name for one in described(net.graph, shapes_of(net.graph, net.input_shape))}
    assert seen <= OPERATIONS.keys()
    assert OPERATIONS.keys() - seen == {"identity", "average"}


# What is wrong is found, and nothing else happens.

WRONG = [None, True, -1, 0, 2, 10**12, 0.5, 1e400, "", "x", [], [1], [[]], {}, {"a": 1}]


def places(value, path=()):
    """The path to each part of plain data."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield from places(part, (*path, key))


def replaced(value, path, new):
    value = copy.deepcopy(value)
    if not path:
        return new
    part = value
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = new
    return value


@each_net
def test_hostile_descriptions(name):
    """Each part of some is replaced: what is read fits the constants, and everything else is refused in a sentence."""
    _, model, props = model_of(name)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    spec, random_ = json.loads(props["graph"]), random.Random(0)
    paths = list(places(spec))
    for path in random_.sample(paths, min(len(paths), 60)):
        for new in WRONG:
            text = json.dumps(replaced(spec, path, new))
            if json.loads(text) == spec:
                continue
            try:
                graph, shape = read(text, arrays)
            except (ValueError, TypeError) as error:
                assert str(error)
                continue
            with torch.no_grad():
                graph(torch.zeros(1, *shape))
            assert written(graph, shape) != props["graph"]


def test_descriptions_that_ask_for_too_much():
    weight = np.ones((1, 1, 1, 1), np.float32)
    for operations, shape, match in (
        ([["pad", [0], {"pads": [0, 2**30, 0, 0]}]], [1, 4, 4], "moves more than"),
        ([["take", [0], {"axes": [list(range(4)) * 4096] * 2}]], [4, 4], "moves more than"),
        ([["conv", [0], WINDOW | {"padding": [2**20, 2**20]}]], [1, 4, 4], "padded value would have more than"),
        ([["average window", [0], POOL | {"kernel": [2**20, 1]}]], [1, 4, 4], "windows do not fit"),
        ([["reshape", [0], {"shape": [2**40]}]], [4], "below 2³¹"),
        ([["identity", [0], {}]] * 10_001, [4], "1 to 10,000 operations"),
        ([["identity", [0], {}]], [2**30], "moves more than"),
    ):
        with pytest.raises(ValueError, match=match):
            read(
                json.dumps({"input_shape": shape, "operations": operations}),
                {"0.weight": weight} if "conv" in str(operations) else {},
            )


WINDOW = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}
POOL = {"kernel": [2, 2], "stride": [1, 1], "pads": [[0, 0]] * 2, "dilation": [1, 1], "inside": False}


@pytest.mark.parametrize(
    "change, match",
    [
        (lambda a: a | {"0.weight": a["0.weight"].astype(np.float64)}, "its weight is float64"),
        (lambda a: a | {"0.weight": a["0.weight"][:3]}, "its 3 channels are not 2 equal groups"),
        (lambda a: a | {"0.bias": a["0.bias"][:2]}, "its bias has the shape"),
        (lambda a: {key: b for key, b in a.items() if key != "0.weight"}, "its constants are bias"),
        (lambda a: a | {"1.weight": a["0.weight"]}, "its constants are weight"),
    ],
)
def test_hostile_constants(change, match):
    _, model, props = model_of("moves")
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    with pytest.raises(ValueError, match=match):
        read(props["graph"], change(arrays))


@pytest.mark.parametrize("index", [-2, 10**9])
def test_hostile_indices(index):
    spec = {"input_shape": [4], "operations": [["gather", [0], {}], ["largest", [1], {"sign": 1}]]}
    arrays = {"0.index": np.array([0, 3, -1]), "1.index": np.array([[0, 2]])}
    graph, _ = read(json.dumps(spec), arrays)
    assert graph(torch.tensor([[1.0, 2, 3, 4]])).tolist() == [[1.0]]
    for name in arrays:
        wrong = {key: a.copy() for key, a in arrays.items()}
        wrong[name].flat[0] = index
        with pytest.raises(ValueError, match="names numbers that are not there"):
            read(json.dumps(spec), wrong)


# Forged files.


def changed(model, name: str, change):
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))


@pytest.mark.parametrize(
    "name, change, match",
    [
        ("2.weight", lambda a: 1.5 * a, "lipschitz is|rounding_slack is"),
        ("2.times", lambda a: a / 2, "initializer 2.times is not as it is written"),
        ("2.added", lambda a: a / 2, "initializer 2.added is not as it is written"),
        ("2.spread", lambda a: a * 0 + 1, "initializer 2.spread is not as it is written"),
        ("18.margin times", lambda a: a * 0, "initializer 18.margin times is not as it is written"),
        ("half", lambda a: a * 0.99, "initializer half is not as it is written"),
        ("reach", lambda a: a / 2, "initializer reach is not as it is written"),
        ("lipschitz", lambda a: a / 2, "initializer lipschitz is not as it is written"),
    ],
)
def test_constants_that_were_changed(name, change, match):
    _, model, props = model_of("resnet")
    changed(model, name, change)
    (found,) = contradictions(model)
    assert "its digest is not that of its content" in found
    seal(model, props)
    assert any(re.search(match, a) for a in contradictions(model))


def test_nodes_and_words_that_were_changed():
    _, model, props = model_of("resnet")
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.attribute[0].i = 2
            break
    seal(model, props)
    assert any("is not as it is written" in a for a in contradictions(model))
    for key, value in (("certificate", "interval"), ("epsilon", "0.02"), ("graph", "[]"), ("net", "{}")):
        _, model, props = model_of("resnet")
        seal(model, props | {key: value})
        assert contradictions(model) != []
