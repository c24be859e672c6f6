"""Certificates put to Marabou: what it reads, what it answers, what counts as a contradiction."""

import importlib
import json
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from verdicts import verdict_on

import linf_plugin
from onnx_export.verifiers import marabou
from onnx_export.verifiers.marabou import contradictions, cross_check
from onnx_export.writing.plain import verifier_model
from onnx_export.writing.settings import VERIFIER_FLAVOURS

each_flavour = pytest.mark.parametrize("flavour", VERIFIER_FLAVOURS)

CONV = {"kernel_size": [2, 1], "stride": [1, 2], "padding": [1, 0], "dilation": [2, 1], "groups": 2}
READ = {  # input shape, layers: everything that Marabou's reader may take for something else
    "dist-conv": (
        (2, 3, 3),
        [
            ["mean_shift", {"num_features": 2}],
            ["dist_conv", {"in_channels": 2, "out_channels": 4} | CONV],
            ["mean_shift", {"num_features": 4}],
            ["flatten", {}],
            ["dist", {"in_features": 24, "out_features": 2}],
        ],
    ),
    "conv": (
        (2, 3, 3),
        [
            ["conv", {"in_channels": 2, "out_channels": 4} | CONV],
            ["mean_shift", {"num_features": 4}],
            ["relu", {}],
            ["flatten", {}],
            ["linear", {"in_features": 24, "out_features": 3}],
        ],
    ),
    "sorted-sums": (
        (1, 3, 1),
        [
            ["flatten", {}],
            ["sort_dist", {"in_features": 3, "out_features": 3, "rho": 0.4, "k": 3}],
            ["negate", {}],
            ["mean_shift", {"num_features": 3}],
            ["relu", {}],
            ["sort_dist", {"in_features": 3, "out_features": 2, "rho": 0.4, "k": 2}],
        ],
    ),
    "crop": (
        (1, 4, 4),
        [
            ["normalize", {"mean": [0.3], "std": 0.4}],
            ["relu", {}],
            ["negate", {}],
            ["mean_shift", {"num_features": 1}],
            ["relu", {}],
            ["crop", {"size": 2}],
            ["flatten", {}],
            ["dist", {"in_features": 4, "out_features": 2}],
        ],
    ),
}


@pytest.fixture(scope="module")
def tiny():
    """A net 4-4-3 and images that it classifies correctly, most of them."""
    torch.manual_seed(0)
    net = linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2, mean=(0.4,), std=0.5).eval()
    x = torch.rand(5, 1, 2, 2)
    y = net(x).argmax(1)
    y[1] = (y[1] + 1) % 3
    return net, x, y


@each_flavour
@pytest.mark.parametrize("name", READ)
@torch.no_grad()
def test_marabou_reads_what_the_net_computes(name, flavour, tmp_path):
    """At one point: its equations leave it no choice there."""
    shape, layers = READ[name]
    net = linf_plugin.Net({"input_shape": list(shape), "layers": layers}).eval()
    for layer in net:
        if isinstance(layer, linf_plugin.MeanShift):
            layer.running_mean.normal_()
    onnx.save(verifier_model(net, flavour), tmp_path / "net.onnx")
    library, _, _ = marabou.import_marabou()
    network, x = library.read_onnx(str(tmp_path / "net.onnx")), torch.rand(1, *shape)
    (logits,) = network.evaluate([x.numpy()], options=library.createOptions(verbosity=0), filename="")
    np.testing.assert_allclose(logits, net(x).numpy(), rtol=0, atol=1e-5)


@each_flavour
def test_certificates_are_confirmed(tiny, flavour, capfd):
    net, x, y = tiny
    results = cross_check(net, x, y, flavour, progress=False)
    assert capfd.readouterr().out == ""
    assert [r["row"] for r in results] == [0, 2, 3, 4]
    assert [r["label"] for r in results] == y[[0, 2, 3, 4]].tolist()
    radii = linf_plugin.sound_radius(net, x, y)
    for r in results:
        assert r["radius"] == radii[r["row"]] and r["inside"]["eps"] == 0.99 * r["radius"]
        assert r["inside"]["verdict"] == "unsat"
        assert r["beyond"]["verdict"] == "sat" and r["beyond"]["eps"] == 1.01 * r["exact"]["upper"]
        assert r["beyond"]["margin"] < 1e-5
        assert r["exact"]["status"] == "optimal" and r["radius"] < r["exact"]["upper"]
    assert contradictions(results) == 0
    assert json.loads(json.dumps(results)) == results


def test_a_wrong_radius_is_contradicted(tiny):
    """Twice what is exact."""
    net, x, y = tiny
    exact = [r["exact"]["upper"] for r in cross_check(net, x, y, count=2, progress=False)]
    radii = torch.tensor([exact[0], 1.0, exact[1], 0.0, 0.0]) * 2
    results = cross_check(net, x, y, radii=radii, progress=False)
    assert [r["inside"]["verdict"] for r in results] == ["sat", "sat"]
    assert contradictions(results) == 2


def test_a_wrong_exact_radius_is_contradicted(tiny, monkeypatch):
    """Half of it."""
    net, x, y = tiny
    bounds = importlib.import_module("linf_plugin.certificates.exact.radius")
    real = bounds.exact_radius

    def half(*args, **kwargs):
        found = real(*args, **kwargs)
        return bounds.ExactRadius(found.lower / 2, found.upper / 2, found.status, found.adversarial)

    monkeypatch.setattr(bounds, "exact_radius", half)
    results = cross_check(net, x, y, count=1, progress=False)
    assert results[0]["inside"]["verdict"] == "unsat" and results[0]["beyond"]["verdict"] == "unsat"
    assert contradictions(results) == 1


def test_a_net_that_takes_too_much_memory_is_refused(tiny):
    net, x, y = tiny
    with pytest.raises(ValueError, match=r"cannot read this net with 0.0\d+ GiB.*small nets, of about 64-16-10"):
        cross_check(net, x, y, memory=60 * 2**20, progress=False)


@pytest.mark.parametrize("reason, verdict", [("time", "timeout"), ("memory", "memory"), ("crash", "error")])
def test_a_question_whose_process_was_ended_decides_nothing(tiny, reason, verdict, monkeypatch):
    net, x, y = tiny
    ask = marabou.Child.ask

    def ended(self, question, seconds):
        if "label" in question:
            assert 7 < seconds < 20  # the limit, and what Marabou needs to read the net
            raise marabou.Ended(reason)
        return ask(self, question, seconds)

    monkeypatch.setattr(marabou.Child, "ask", ended)
    (result,) = cross_check(net, x, y, count=1, time_limit=7, progress=False)
    assert result["inside"]["verdict"] == verdict and contradictions([result]) == 0


def test_nets_without_an_exact_radius(small_net):
    """A tanh; and nothing beyond is asked."""
    net = small_net("linf-mlp-head", shape=(1, 2, 1), width=2, depth=1, hidden=2, classes=2)
    x = torch.rand(1, 1, 2, 1)
    (result,) = cross_check(net, x, net(x).argmax(1), progress=False)
    assert result["exact"] is None and result["beyond"] is None
    assert result["inside"]["verdict"] == "unsat"


def test_no_input_in_range_changes_the_class():
    net = linf_plugin.build("relu-mlp", shape=(1, 1, 1), classes=2, width=1, depth=1).eval()
    with torch.no_grad():
        net[-1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[-1].bias.copy_(torch.tensor([3.0, 0.0]))
    (result,) = cross_check(net, torch.full((1, 1, 1, 1), 0.5), torch.tensor([0]), progress=False)
    assert result["exact"] is None and result["beyond"] is None and result["inside"]["verdict"] == "unsat"


def test_nothing_to_check(tiny):
    net, x, y = tiny
    assert cross_check(net, x[:0], y[:0], progress=False) == []
    assert cross_check(net, x[1:2], y[1:2], progress=False) == []


def test_refused(tiny):
    net, x, y = tiny
    for time_limit in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="time_limit must be positive and finite"):
            cross_check(net, x, y, time_limit=time_limit)
    with pytest.raises(ValueError, match=r"radii must have shape \(5,\), got \(4,\)"):
        cross_check(net, x, y, radii=torch.ones(4))
    with pytest.raises(ValueError, match="flavour must be one of"):
        cross_check(net, x, y, "gemm")
    with pytest.raises(TypeError, match="Net"):
        cross_check(nn.Sequential(*net), x, y)


def test_without_marabou(tiny, without_marabou):
    with pytest.raises(ImportError, match=r"pip install 'linf-plugin\[marabou\]'"):
        cross_check(*tiny)


@pytest.mark.parametrize(
    "result, wrong",
    [
        (verdict_on(), 0),
        (verdict_on(beyond=None), 0),
        (verdict_on("timeout", "timeout"), 0),
        (verdict_on("unknown", "error"), 0),
        (verdict_on("sat", margin=-0.1), 1),
        (verdict_on("sat", margin=1e-7), 1),
        (verdict_on("sat", margin=0.00999), 0),
        (verdict_on(beyond="unsat"), 1),
        (verdict_on("timeout", "unsat"), 1),
        (verdict_on("sat", "unsat", margin=0.0), 1),
    ],
)
def test_contradictions(result, wrong):
    """A point that is of another class by Marabou's tolerance alone, and keeps what was promised, is none."""
    assert contradictions([result]) == wrong
