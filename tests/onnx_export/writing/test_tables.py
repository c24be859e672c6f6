"""Every layer has a row in every table of ONNX: a rule, or a refusal with its reason."""

import onnxruntime
import pytest
import torch
from torch import nn

import linf_plugin
from linf_plugin.models.net import LAYERS
from linf_plugin.refusal import Refusal
from onnx_export.functions.library import attach
from onnx_export.writing.compose import graph_of
from onnx_export.writing.graph import NODES
from onnx_export.writing.interval_graph import INTERVAL_NODES
from onnx_export.writing.plain import VERIFIER_NODES, verifier_model
from onnx_export.writing.plain_distances import DISTANCE_NODES
from onnx_export.writing.record import DESCRIBED
from onnx_export.writing.settings import VERIFIER_FLAVOURS

TABLES = {
    "record.DESCRIBED": DESCRIBED,
    "graph.NODES": NODES,
    "interval_graph.INTERVAL_NODES": INTERVAL_NODES,
    "plain.VERIFIER_NODES": VERIFIER_NODES,
}
KINDS = dict.fromkeys([*LAYERS.values(), nn.Identity])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_layer_has_a_row(kind, table):
    row = TABLES[table].get(kind)
    assert row is not None, f"writing/{table} has no row for {kind.__name__}: add a rule, or a Refusal with its reason"
    assert not isinstance(row, Refusal) or len(row.reason) > 10


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_of_known_layers(table):
    assert TABLES[table].keys() <= KINDS.keys()


def test_every_flavour_for_verifiers_has_distances():
    assert tuple(DISTANCE_NODES) == VERIFIER_FLAVOURS


def test_layers_without_a_rule_are_refused_by_name(small_net, monkeypatch):
    net = small_net(width=4, depth=1)
    net.append(nn.GELU().eval())
    with pytest.raises(TypeError, match="no verifier node for GELU, only for Normalize, "):
        verifier_model(net, "maxpool")
    monkeypatch.setitem(VERIFIER_NODES, nn.GELU, Refusal("verifiers know no erf"))
    with pytest.raises(TypeError, match="no verifier node for GELU: verifiers know no erf"):
        verifier_model(net, "maxpool")


@pytest.mark.parametrize("layers", [[["flatten", {}], ["dist", {"in_features": 9, "out_features": 3}]], []], ids=len)
@pytest.mark.parametrize("flavour", ["function", *VERIFIER_FLAVOURS])
def test_layers_that_do_nothing(layers, flavour):
    """Before, after and without other layers."""
    net = linf_plugin.Net({"input_shape": [1, 3, 3] if layers else [4], "layers": layers})
    net.insert(0, nn.Identity())
    net.append(nn.Identity())
    net.eval()
    model = attach(graph_of(net, "float")) if flavour == "function" else verifier_model(net, flavour)
    x = torch.rand(1, *net.input_shape)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(logits), net(x).detach(), rtol=1e-6, atol=1e-6)
