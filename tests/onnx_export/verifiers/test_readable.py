"""Any net as a graph of standard operators."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import linf_plugin
from onnx_export.verifiers import readable
from onnx_export.verifiers.readable import readable_model


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(x))) + x
        return self.head(nn.functional.max_pool2d(y, 2).flatten(1))


NETS = {
    "Net": lambda: linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=1, mean=(0.4,), std=0.5),
    "Sequential": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.LeakyReLU(), nn.Linear(5, 3)),
    "Module": Residual,
}


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_the_graph_computes_the_logits(name, capfd):
    net, x = NETS[name]().eval(), torch.rand(1, 1, 2, 2)
    graph = readable_model(net, x, "maxpool")
    assert {node.domain for node in graph.graph.node} == {""} and capfd.readouterr().err == ""
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    other = torch.rand(1, 1, 2, 2)
    (logits,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    np.testing.assert_allclose(logits, net(other).numpy(), atol=1e-5)


def test_what_has_no_standard_operator_is_named():
    net = nn.Sequential(nn.Flatten(), linf_plugin.LinfDistLinear(4, 3)).eval()
    with pytest.raises(TypeError, match=r"standard ONNX operators: No ONNX function found for .*linf\.dist"):
        readable_model(net, torch.rand(1, 1, 2, 2), "maxpool")


def test_a_graph_with_other_logits_is_refused(monkeypatch):
    net, x = NETS["Net"]().eval(), torch.rand(1, 1, 2, 2)
    other = linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=1, mean=(0.1,), std=0.5).eval()
    graph = readable.verifier_model(other, "maxpool")
    monkeypatch.setattr(readable, "verifier_model", lambda *_: graph)
    with pytest.raises(ValueError, match="other logits than the net"):
        readable_model(net, x, "maxpool")
