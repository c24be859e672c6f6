"""Surrogates are copies whose gradients tell more; each applies where it changes something."""

import math

import pytest
import torch
from torch import nn

from comparisons.attacks.attacked import attack_all
from comparisons.attacks.surrogates import LEAK, LEAKY, SURROGATES, LeakyClip
from linf_plugin import build
from linf_plugin.layers.activations import ParamRamp
from linf_plugin.layers.base import distance_layers
from linf_plugin.models.net import Net
from linf_plugin.models.parts import append, start

TABLES = [{"name": "pgd", "steps": 10, "restarts": 1}]


def test_a_leaky_clip_has_exact_values_and_a_gradient_everywhere():
    x = torch.tensor([-1.0, 0.0, 0.5, 2.0, 3.0], requires_grad=True)
    y = LeakyClip(0.0, 2.0)(x)
    y.sum().backward()
    assert torch.equal(y, x.clamp(0, 2)) and x.grad.tolist() == pytest.approx([LEAK, LEAK, 1, LEAK, LEAK])


def test_a_clip_takes_an_end_for_each_neuron():
    x = torch.full((2, 3), 5.0, dtype=torch.float64)
    assert LeakyClip(high=torch.tensor([1.0, 2.0, 7.0]))(x).tolist() == [[1, 2, 5]] * 2


def test_a_clip_takes_an_end_for_each_channel():
    x, ramp = torch.randn(2, 3, 4, 4), ParamRamp(3, top=0.5)
    with torch.no_grad():
        ramp.top.copy_(torch.tensor([0.1, 0.5, 1.0]))
    assert torch.equal(LEAKY[ParamRamp](ramp)(x), ramp.eval()(x))


LAYERS = {
    "relu": (nn.ReLU(), ["leaky"]),
    "relu in place": (nn.ReLU(inplace=True), ["leaky"]),
    "relu6": (nn.ReLU6(), ["leaky"]),
    "hardtanh": (nn.Hardtanh(-0.5, 0.25), ["leaky"]),
    "ramp": (ParamRamp(4, top=0.5), ["leaky"]),
    "tanh": (nn.Tanh(), []),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_surrogate_applies_where_it_changes_something(name):
    layer, applying = LAYERS[name]
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(layer)).eval()
    assert [key for key, surrogate in SURROGATES.items() if surrogate.applies(net)] == applying
    x = torch.randn(50, 4)
    for key in applying:
        climbed = SURROGATES[key].of(net)
        assert torch.equal(climbed(x.clone()), net(x.clone()))
        assert net[1][0] is layer and isinstance(climbed[1][0], LeakyClip)
        assert not any(p.requires_grad for p in climbed.parameters()) and net[0].weight.requires_grad


def test_a_layer_that_stands_twice_is_replaced_twice():
    relu = nn.ReLU()
    climbed = SURROGATES["leaky"].of(nn.Sequential(relu, nn.Linear(2, 2), relu))
    assert isinstance(climbed[0], LeakyClip) and isinstance(climbed[2], LeakyClip)
    assert isinstance(SURROGATES["leaky"].of(relu), LeakyClip)


class Ramp(nn.Module):
    """min(max(x, 0), r), with an r for each neuron."""

    def __init__(self):
        super().__init__()
        self.r = nn.Parameter(torch.tensor([0.5, 1.0, 2.0]))

    def forward(self, x):
        return torch.minimum(x.relu(), self.r)


def test_another_layer_leaks_by_a_row(monkeypatch):
    net, x = nn.Sequential(Ramp(), nn.Linear(3, 2)).eval(), 3 * torch.rand(20, 3)
    assert not SURROGATES["leaky"].applies(net)
    monkeypatch.setitem(LEAKY, Ramp, lambda layer: LeakyClip(high=layer.r))
    climbed = SURROGATES["leaky"].of(net)
    assert SURROGATES["leaky"].applies(net) and torch.equal(climbed(x), net(x))
    found = attack_all(net, x.clamp(0, 1), net(x.clamp(0, 1)).argmax(1), 0.3, TABLES, seed=0)
    assert found.names == ("pgd", "pgd along leaky") and net[0].r.requires_grad


def test_distance_nets_get_a_finite_exponent():
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2).eval()
    assert [key for key, surrogate in SURROGATES.items() if surrogate.applies(net)] == ["p16", "p64"]
    climbed = SURROGATES["p16"].of(net)
    assert {layer.p for layer in distance_layers(climbed)} == {16.0}
    assert {layer.p for layer in distance_layers(net)} == {math.inf}
    distance_layers(climbed)[0].p = 2.0
    assert not SURROGATES["p16"].applies(climbed)
    assert [layer.p for layer in distance_layers(SURROGATES["p16"].of(climbed))] == [2.0, 16.0]


def test_clipped_pixels_are_leaked():
    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2, clip=0.4).eval()
    assert [key for key, surrogate in SURROGATES.items() if surrogate.applies(net)] == list(SURROGATES)
    x = torch.full((1, 1, 4, 4), 0.1, requires_grad=True)
    assert torch.autograd.grad(net(x)[0, 0], x)[0].abs().sum() == 0
    assert torch.autograd.grad(SURROGATES["p16"].of(net)(x)[0, 0], x)[0].abs().sum() > 0


def clipped() -> Net:
    """A net of four clipped pixels c, by distances from black and from white: class 1 if max c + min c > 1/2."""
    spec = start((1, 2, 2), [0.0], 1.0, clip=0.4)
    append(spec, "flatten")
    append(spec, "dist", in_features=4, out_features=2)
    append(spec, "negate")
    net = Net(spec).eval()
    with torch.no_grad():
        net[-2].weight.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 4))  # black, white
        net[-2].bias.copy_(torch.tensor([0.5, 0.0]))
    return net


def test_a_net_with_clipped_pixels_is_broken_only_thanks_to_a_surrogate():
    net = clipped()
    x, labels = torch.full((6, 1, 2, 2), 0.1), torch.zeros(6, dtype=torch.long)
    assert net(x).argmax(1).tolist() == labels.tolist()
    found = attack_all(net, x, labels, 0.4, TABLES, seed=0)
    assert found.survives.tolist() == [False] * 6
    names = {found.names[i] for i in found.by.tolist()}
    assert names and names <= {f"pgd along {name}" for name in SURROGATES}
    assert net(found.points).argmax(1).tolist() == [1] * 6
