"""ONNX graphs back to distance nodes: written by ``export``, inlined, and in the broadcast form."""

import numpy as np
import onnx
import pytest
import torch
from graphs import V, W, distance, each_form, model_of, operators, run
from onnx import helper, numpy_helper
from onnx.inliner import inline_local_functions

from onnx_export import attach
from onnx_export.reading.fuse import fuse_distance
from onnx_export.reading.net import to_net


@each_form
@pytest.mark.parametrize("name", ["distances", "convolution"])
def test_fused_models_run(exported, name, form):
    """With bodies again, logits and radii are what they were."""
    net, model = exported(name)
    x = torch.rand(3, *net.input_shape)
    fused = attach(fuse_distance(form(model)))
    onnx.checker.check_model(fused, full_check=True)
    expected = [n.op_type for n in model.graph.node if n.domain == "linf" and n.op_type != "CertifiedRadius"]
    assert [n.op_type for n in fused.graph.node if n.domain == "linf"][: len(expected)] == expected
    assert "Scan" not in operators(fused)
    for before, after in zip(run(model, x), run(fused, x), strict=True):
        assert np.array_equal(before, after)


@torch.no_grad()
@pytest.mark.parametrize("opset", [11, 13, 18, 20])
@pytest.mark.parametrize("order", [1, -1], ids=["x−w", "w−x"])
@pytest.mark.parametrize("axis, last", [(1, -1), (-2, 2)])
def test_broadcast(opset, order, axis, last):
    nodes = distance("x", "w", "h", opset, order, axis, last) + distance("h", "v", "y", opset, order, axis, last)
    axes = {"one": np.int64([axis]), "last": np.int64([last])}
    model = model_of(nodes, opset, w=W[None], v=V, **axes)
    fused, x = fuse_distance(model), torch.randn(4, 6)
    assert operators(fused) == ["LinfDist", "LinfDist"] and len(fused.graph.initializer) == 2
    net = to_net(model)
    assert net.input_shape == (6,) and torch.equal(net(x), torch.from_numpy(run(model, x)[0]))


def test_weights_that_are_computed():
    """A constant by way of nodes: what exporters make of ``w[None]`` or of a transposed weight."""
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(W.T.copy())),
        helper.make_node("Transpose", ["c"], ["t"]),
        helper.make_node("Unsqueeze", ["t", "zero"], ["w"]),
        *distance("x", "w", "y", 18),
    ]
    model = model_of(nodes, one=np.int64([1]), last=np.int64([-1]), zero=np.int64([0]))
    fused = fuse_distance(model)
    assert operators(fused) == ["LinfDist"]
    assert np.array_equal(numpy_helper.to_array(fused.graph.initializer[0]), W)


def look_alikes():
    """name → (nodes, shape of x): not a distance of rows, though nearly."""

    def change(i, op_type=None, **attributes):
        nodes = distance("x", "w", "y", 18)
        nodes[i] = helper.make_node(op_type or nodes[i].op_type, nodes[i].input, nodes[i].output, **attributes)
        return nodes

    yield "ReduceMin", change(3, "ReduceMin", keepdims=0), ("N", 6)
    yield "keepdims", change(3), ("N", 6)
    yield "no Abs", change(2, "Neg"), ("N", 6)
    yield "Add", change(1, "Add"), ("N", 6)
    yield "one feature", distance("x", "w", "y", 18), ("N", 1)
    yield "unknown features", distance("x", "w", "y", 18), ("N", "F")
    yield "three dimensions", distance("x", "w", "y", 18), (1, 5, 6)


@pytest.mark.parametrize("nodes, shape", [c[1:] for c in look_alikes()], ids=[c[0] for c in look_alikes()])
def test_look_alikes_stay(nodes, shape):
    model = model_of(nodes, shape=shape, w=W, one=np.int64([1]), last=np.int64([-1]))
    assert operators(fuse_distance(model)) == operators(model)


def test_a_body_that_was_changed_stays(exported):
    """One operator differs from what ``export`` writes: another function."""
    model = inline_local_functions(exported("one-distance")[1])
    assert "LinfDist" in operators(fuse_distance(model))
    graph = model.graph
    for op_type in ("Scan", "Scan", "ReduceMin"):
        (node,) = (n for n in graph.node if n.op_type == op_type)
        graph = next((a.g for a in node.attribute if a.name == "body"), None)
    node.op_type = "ReduceMax"
    assert "LinfDist" not in operators(fuse_distance(model))
    with pytest.raises(ValueError, match="node "):
        to_net(model)


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    """It, and what its nodes hold."""
    inner = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [graph, *(g for part in inner for g in _graphs(part))]


def _distances(model: onnx.ModelProto) -> int:
    return sum(n.op_type == "LinfDist" for n in fuse_distance(model).graph.node)


def test_a_subgraph_that_hides_a_name_computes_something_else(exported):
    """Its own input under the name of a value from around it: where that one was meant, it now reads its input."""
    model = inline_local_functions(exported("distances")[1])
    before, hidden = _distances(model), 0
    for i, body in enumerate(_graphs(model.graph)):
        made = {name for g in _graphs(body) for node in g.node for name in node.output}
        own = {value.name for g in _graphs(body) for value in g.input}
        around = {name for g in _graphs(body) for node in g.node for name in node.input if name} - made - own
        for mine, name in ((value.name, name) for value in body.input if i for name in sorted(around)):
            changed = onnx.ModelProto.FromString(model.SerializeToString())
            target = _graphs(changed.graph)[i]
            for value in target.input:
                value.name = name if value.name == mine else value.name
            for node in (node for g in _graphs(target) for node in g.node):
                node.input[:] = [name if given == mine else given for given in node.input]
            assert _distances(changed) < before
            hidden += 1
    assert before and hidden


def test_other_weights_of_the_same_name_as_a_fused_one():
    """The broadcast form gets a weight of a new name, also where that name is in use."""
    nodes = [*distance("x", "w", "h", 18), helper.make_node("Add", ["h", "h_weight"], ["y"])]
    model = model_of(nodes, one=np.int64([1]), last=np.int64([-1]), w=W, h_weight=np.float32([1, 2, 3, 4, 5]))
    x = torch.randn(3, 6)
    assert torch.equal(to_net(model)(x), torch.from_numpy(run(model, x)[0]))
