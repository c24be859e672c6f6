"""A graph as α,β-CROWN needs it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import linf_plugin
from linf_plugin.bounds import refused
from onnx_export.verifiers.abcrown_graph import FAULTS, abcrown_graph
from onnx_export.verifiers.readable import readable_model


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def images(*layers: nn.Module, values: int) -> nn.Module:
    """Returns a net for images (1, 4, 6): the layers, and a linear one for what they make of an image."""
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(values, 3)).eval()


X = torch.rand(1, 1, 4, 6, generator=torch.Generator().manual_seed(0))
NETS = {
    "a Net": lambda: linf_plugin.build("linf-mlp", shape=(1, 4, 6), classes=3, width=4, depth=2).eval(),
    "flatten": lambda: images(nn.Linear(6, 2), nn.ReLU(), values=8),
    "max pool": lambda: images(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), values=4),
    "average pool": lambda: images(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), values=12),
    "mean": lambda: images(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), values=2),
    "shapes": lambda: images(nn.Flatten(), nn.Unflatten(1, (6, 4)), nn.Linear(4, 2), nn.ReLU(), values=12),
    "square": lambda: images(Lambda(lambda x: x**2), values=24),
    "leaky": lambda: images(nn.LeakyReLU(0.5), values=24),
    "padded": lambda: images(nn.ConstantPad2d(1, 0.0), values=48),
}
REFUSED = {  # name → (net, operator, where)
    "leaky": (lambda: images(nn.LeakyReLU(2.0), values=24), "LeakyRelu", "its slope is above 1"),
    "dilations": (lambda: images(nn.Conv2d(1, 1, 2, dilation=(1, 2)), values=12), "Conv", "its two dilations differ"),
    "max pool": (lambda: images(nn.MaxPool2d(2, padding=1), values=12), "MaxPool", "windows are padded"),
    "average pool": (lambda: images(nn.AvgPool2d((3, 4)), values=1), "AveragePool", "no multiple of the windows"),
    "power": (lambda: images(Lambda(lambda x: x**4), values=24), "Pow", "even and above 2"),
    "softmax": (lambda: images(nn.Softmax(-1), values=24), "Softmax", "always"),
    "log": (lambda: images(Lambda(lambda x: torch.log(x + 1)), values=24), "Log", "always"),
    "pad": (lambda: images(nn.ConstantPad2d(1, 0.5), values=48), "Pad", "another number than 0"),
    "tile": (lambda: images(Lambda(lambda x: x.repeat(1, 1, 1, 2)), values=48), "Tile", "always"),
    "gather": (
        lambda: images(Lambda(lambda x: x.gather(3, torch.zeros(1, 1, 4, 6, dtype=torch.int64))), values=24),
        "GatherElements",
        "always",
    ),
    "cast": (lambda: images(Lambda(lambda x: x.double().float()), values=24), "Cast", "always"),
}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_several_samples_at_a_time(name):
    net = NETS[name]()
    given = readable_model(net, X, "relu")
    before = given.SerializeToString()
    graph = abcrown_graph(given, net, X)
    assert given.SerializeToString() == before
    onnx.checker.check_model(graph)
    (value,) = graph.graph.input
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [1, 1, 4, 6]  # its loader asks for one sample
    constants = {a.name for a in graph.graph.initializer}
    assert constants == constants & {name for node in graph.graph.node for name in node.input}
    for node in graph.graph.node:
        assert not {a.name for a in node.attribute} & {"storage_order", "noop_with_empty_axes"}
        assert not node.op_type.startswith("Reduce") or len(node.input) == 1
    batch = torch.rand(3, 1, 4, 6)
    del graph.graph.value_info[:]
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
    np.testing.assert_allclose(logits, net(batch).numpy(), atol=1e-5)


@pytest.mark.parametrize("function", [lambda x: x - x.mean(0), lambda x: x.reshape(4, 6).sum(0)[None]])
def test_a_net_that_mixes_samples_is_refused(function):
    net = nn.Sequential(Lambda(function), nn.Flatten(), nn.LazyLinear(3)).eval()
    net(X)
    with pytest.raises(ValueError, match="does not compute the logits of several samples at a time"):
        abcrown_graph(readable_model(net, X, "relu"), net, X)


@pytest.mark.parametrize("name", REFUSED)
def test_operators_with_wrong_bounds_are_refused(name):
    build, operator, where = REFUSED[name]
    net = build()
    graph = readable_model(net, X, "relu")
    assert operator in {node.op_type for node in graph.graph.node}
    with pytest.raises(ValueError, match=f"α,β-CROWN bounds {operator} wrongly .*{where}"):
        abcrown_graph(graph, net, X)


def test_the_table_has_what_is_wrong_in_its_version():
    found = {
        row.operator.removeprefix("Bound")
        for row in refused.TABLE
        if "0.7.1" in row.versions
        and set(row.passes) - {refused.FORWARD}
        and not row.where.startswith("in patches mode")
    }
    no_operators_of_onnx = {"ATenHeaviside", "Linear"}  # the loader scales the weights of a Gemm
    corrected_here = {"Pad", "Softmax", "Log"}  # by linf_plugin.bounds.mended
    assert set(FAULTS) == found - no_operators_of_onnx | corrected_here
    assert set(FAULTS) == {operator for _, operator, _ in REFUSED.values()}
