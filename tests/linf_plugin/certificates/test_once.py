"""The Lipschitz bound of a layer is computed once for each request, and never kept for other weights."""

import dataclasses

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates import certify, certify_curve, certify_each, margin_bound
from linf_plugin.certificates.problem import Problem
from linf_plugin.layers.facts import FACTS
from linf_plugin.norms import Ball


def net_of():
    torch.manual_seed(0)
    net = lp.build("sll-conv", shape=(1, 6, 6), classes=4, convs=1, dense=1, width=3, inner=3, hidden=8, pool=2)
    return lp.materialise(net.eval())


@pytest.fixture
def counted(monkeypatch):
    """Layer → how often its bound was computed."""
    calls = {}
    for kind, facts in FACTS.items():

        def rule(layer, norm, real=facts.lipschitz):
            key = type(layer).__name__, norm, *getattr(layer, "weight", torch.zeros(0)).shape
            calls[key] = calls.get(key, 0) + 1
            return real(layer, norm)

        monkeypatch.setitem(FACTS, kind, dataclasses.replace(facts, lipschitz=rule))
    return calls


REQUESTS = {
    "certify": lambda net, x, y: certify(net, x, y, 0.1, norm=2),
    "certify, by name": lambda net, x, y: certify(net, x, y, 0.1, ["lipschitz-l2"], norm=2),
    "certify_each": lambda net, x, y: certify_each(net, x, y, 0.1, norm=2),
    "certify_curve": lambda net, x, y: certify_curve(net, x, y, [0.05, 0.1, 0.2], norm=2, batch_size=2),
    "margin_bound": lambda net, x, y: margin_bound(net, x, y, 0.1, "lipschitz-l2", batch_size=2),
    "sound_radius": lambda net, x, y: lp.sound_radius(net, x, y, norm=2, batch_size=2),
    "without rounding": lambda net, x, y: certify(net, x, y, 0.1, norm=2, sound=False),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_each_bound_is_computed_once(request_, counted):
    net, x = net_of(), torch.rand(5, 1, 6, 6)
    request_(net, x, net(x).argmax(1))
    weights = [tuple(layer.weight.shape) for layer in net if hasattr(layer, "weight")]
    linear = {key: count for key, count in counted.items() if key[2:] in weights}
    assert len(linear) == len(weights) == 5 and set(linear.values()) == {1}, counted


def test_in_linf_too(counted):
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.rand(5, 1, 6, 6)
    certify(net, x, net(x).argmax(1), 0.1, ["lipschitz", "ibp"])
    assert [count for (kind, *_), count in counted.items() if kind == "Linear"] == [1, 1]


def test_a_bound_that_is_not_known_is_not_tried_twice(counted):
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), lp.LinfDistLinear(8, 4)).eval()
    x = torch.rand(2, 1, 6, 6)
    with pytest.raises(ValueError, match="no certificate for ℓ2 balls can bound this net"):
        certify(net, x, net(x).argmax(1), 0.1, norm=2)
    assert counted["Linear", 2.0, 8, 36] == 1


def test_other_samples_share_the_bounds_of_a_net_until_a_weight_changes(counted):
    net, x = net_of(), torch.rand(5, 1, 6, 6)
    y = net(x).argmax(1)
    first = Problem(net, x[:1], y[:1], Ball(0.0, 2, 0.0, 1.0), True)
    curves = [certify_curve(net, x[i : i + 2], y[i : i + 2], [0.1], norm=2, before=first) for i in (0, 2, 4)]
    assert set(counted.values()) <= {1, 2} and counted["Linear", 2.0, *net[-1].weight.shape] == 1
    alone = certify_curve(net, x, y, [0.1], norm=2)
    assert torch.equal(torch.cat([curve.radius["lipschitz-l2"] for curve in curves]), alone.radius["lipschitz-l2"])
    with torch.no_grad():
        net[-1].weight *= 100
        net[-1].bias *= 100
    y = net(x).argmax(1)
    after = certify_curve(net, x, y, [0.1], norm=2, before=first).radius["lipschitz-l2"]
    assert torch.equal(after, certify_curve(net, x, y, [0.1], norm=2).radius["lipschitz-l2"])
    assert counted["Linear", 2.0, *net[-1].weight.shape] == 4
    net[-1].weight.data[0, 0] = torch.nextafter(net[-1].weight.data[0, 0], torch.tensor(9.0))  # without a trace
    certify_curve(net, x, y, [0.1], norm=2, before=first)
    assert counted["Linear", 2.0, *net[-1].weight.shape] == 5


def test_nets_without_rules_share_nothing():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.constant = nn.Linear(36, 4), 1.0

        def forward(self, x):
            return self.layer(x.flatten(1))

        def lipschitz_in(self, norm):
            return self.constant

    net, x = Own().eval(), torch.rand(2, 1, 6, 6)
    y = net(x).argmax(1)
    first = Problem(net, x, y, Ball(0.0, 2, 0.0, 1.0), False)
    one = certify_curve(net, x, y, [0.1], norm=2, sound=False, before=first).radius["lipschitz-l2"]
    net.constant = 2.0  # no weight, and nothing that is printed
    two = certify_curve(net, x, y, [0.1], norm=2, sound=False, before=first).radius["lipschitz-l2"]
    assert (one > 0).any() and torch.allclose(two, one / 2)
