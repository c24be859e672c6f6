"""Residual layers in ONNX graphs, read back; and what looks like them and is not."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import linf_plugin as lp
from onnx_export.exporting import export
from onnx_export.reading.net import to_net

NETS = {
    "dense": ("sll-mlp", {"depth": 3, "hidden": 6}),
    "convolutions": ("sll-conv", {"convs": 2, "dense": 2, "width": 4, "inner": 3, "hidden": 6}),
}


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"flavour": "inlined"}, {"pixels": "byte"}, {"norm": "l2"}], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_round_trip(small_net, tmp_path, name, settings):
    """From the graph, without the description in the file."""
    architecture, arguments = NETS[name]
    net = lp.materialise(small_net(architecture, **arguments))
    export(net, tmp_path / "net.onnx", **settings)
    model = onnx.load(tmp_path / "net.onnx")
    helper.set_model_props(model, {})
    back, x = to_net(model), torch.rand(5, 1, 8, 8)
    assert torch.equal(back(x), net(x))
    assert [type(layer) for layer in back] == [type(layer) for layer in net]
    assert lp.lipschitz_bound(back, 2) == lp.lipschitz_bound(net, 2)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def dense(second: np.ndarray, nodes=(), kept: str = "h", left: str = "x") -> onnx.ModelProto:
    """x − second·relu(W·x), as other exporters write it, with W computed once and W (3, 4) transposed by a node."""
    parts = [
        helper.make_node("Gemm", ["x", "w"], ["f"], transB=1),
        helper.make_node("Relu", ["f"], ["h"]),
        helper.make_node("MatMul", [kept, "v"], ["g"]),
        *nodes,
        helper.make_node("Sub", [left, "g"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    constants = {"w": weight(3, 4), "v": second}
    graph = helper.make_graph(
        parts,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 4])],
        [value("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@torch.no_grad()
def test_a_graph_of_another_exporter():
    net = to_net(dense(weight(3, 4)))
    x, w = torch.rand(5, 4), torch.from_numpy(weight(3, 4))
    assert isinstance(net[0], lp.PotentialLinear) and len(net) == 1
    torch.testing.assert_close(net(x), x - torch.relu(x @ w.t()) @ w)


def test_other_weights_are_not_read():
    other = weight(3, 4)
    other[1, 2] = np.nextafter(other[1, 2], np.float32(9))
    with pytest.raises(ValueError, match="only read as x − Wᵀ·relu"):
        to_net(dense(other))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.graph.node[1].output.__setitem__(0, "z"),  # the relu is left out of the branch
        lambda m: m.graph.node[-1].input.__setitem__(slice(None), ["g", "x"]),
        lambda m: m.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 3])),
        lambda m: setattr(m.graph.node[1], "op_type", "Tanh"),
    ],
    ids=["a value from nowhere", "the branch minus x", "a value that is also an output", "tanh"],
)
def test_what_is_not_such_a_layer_is_not_read(change):
    model = dense(weight(3, 4))
    change(model)
    with pytest.raises(ValueError):
        to_net(model)


@pytest.mark.parametrize(
    "kernel, pads, back_pads, dilations, match",
    [
        ((3, 3), [1] * 4, [1] * 4, [1, 1], None),
        ((3, 5), [1, 2, 1, 2], [1, 2, 1, 2], [1, 1], None),
        ((3, 3), [0] * 4, [2] * 4, [1, 1], "must have odd kernels and keep the size"),
        ((3, 3), [2] * 4, [0] * 4, [1, 1], "must have odd kernels and keep the size"),
        ((3, 3), [2] * 4, [2] * 4, [2, 2], "must have odd kernels and keep the size"),
    ],
)
def test_convolutions(kernel, pads, back_pads, dilations, match):
    w = weight(2, 3, *kernel)
    turned = np.ascontiguousarray(w.swapaxes(0, 1)[:, :, ::-1, ::-1])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["f"], pads=pads, dilations=dilations),
            helper.make_node("Relu", ["f"], ["h"]),
            helper.make_node("Conv", ["h", "v"], ["g"], pads=back_pads, dilations=dilations),
            helper.make_node("Sub", ["x", "g"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [value("y", TensorProto.FLOAT, ["n", 3, 6, 6])],
        [numpy_helper.from_array(a, name) for name, a in {"w": w, "v": turned, "b": weight(2)}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if match is not None:
        with pytest.raises(ValueError, match=match):
            to_net(model)
        return
    (layer,) = to_net(model)
    assert isinstance(layer, lp.PotentialConv2d) and np.array_equal(layer.weight.detach().numpy(), w)
    assert np.array_equal(layer.bias.detach().numpy(), weight(2))
