"""Batch normalisation in a sequence of layers: the same rules as in a traced net, and the same refusals."""

import copy

import pytest
import torch
from torch import nn

from linf_plugin import ParamRamp
from linf_plugin.certificates import certify_each
from linf_plugin.float32.reach import check_program, is_sequence, reach
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.operations import Affine
from linf_plugin.norms import box


def drawn(layer):
    for a in (layer.weight, layer.bias):
        if a is not None:
            nn.init.normal_(a)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.1, 2)
    return layer


NETS = {  # shape of a sample, layers
    "images": (
        (2, 4, 4),
        lambda: [nn.Conv2d(2, 3, 3), drawn(nn.BatchNorm2d(3)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)],
    ),
    "rows": ((5,), lambda: [nn.Linear(5, 6), drawn(nn.BatchNorm1d(6)), ParamRamp(6), nn.Linear(6, 3)]),
    "lines": ((3, 4), lambda: [drawn(nn.BatchNorm1d(3)), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)]),
    "without scale": (
        (5,),
        lambda: [nn.Linear(5, 6), drawn(nn.BatchNorm1d(6, affine=False)), nn.ReLU(), nn.Linear(6, 3)],
    ),
}
each_net = pytest.mark.parametrize("name", NETS)


def made(name):
    torch.manual_seed(0)
    shape, layers = NETS[name]
    return nn.Sequential(*layers()).eval(), torch.rand(20, *shape)


class Wrapped(nn.Module):
    """The same layers in a forward of its own, so that they are traced."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)


@each_net
@torch.no_grad()
def test_the_layer_and_the_operation_have_the_same_rule(name):
    """A float32 eps differs from eps by 1e-8 of itself.  A runtime may fold the operation, so its bound is larger."""
    net, x = made(name)
    assert is_sequence(net) and check_program(net, x) is None
    graph, ends = capture(Wrapped(net), x), box(x, 0.1)
    folded = any(module.fused for module in graph.parts if isinstance(module, Affine))
    ours, theirs = reach(copy.deepcopy(net).double(), *ends), reach(graph, *ends)
    for a, b in zip(ours[:2], theirs[:2]):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert (ours.error <= theirs.error * (1 + 1e-6)).all()
    assert folded or torch.allclose(ours.error, theirs.error, rtol=1e-6, atol=0)


@each_net
def test_it_is_certified_as_the_traced_net_is(name):
    net, x = made(name)
    y = net(x).argmax(1)
    found, traced = (certify_each(each, x, y, 0.03) for each in (net, Wrapped(net).eval()))
    assert {"ibp", "crown-ibp", "crown", "alpha-crown"} <= found.keys() & traced.keys()
    for method in ("ibp", "crown-ibp", "crown"):
        assert found[method].any() and (found[method] != traced[method]).sum() <= 1
    certified = torch.stack(list(found.values())).any(0)
    for _ in range(100):
        moved = (x + 0.03 * (2 * torch.rand_like(x) - 1).sign()).clamp(0, 1)
        assert (net(moved).argmax(1) == y)[certified].all()


REFUSED = {
    "without statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), TypeError, "normalises by the mean"),
    "a tiny variance": (lambda: _of_variance(0.0), TypeError, "a variance plus eps is 0"),
}


def _of_variance(value):
    layer = nn.BatchNorm1d(6, eps=0.0)
    layer.running_var.fill_(value)
    return layer


@pytest.mark.parametrize("layer, error, message", REFUSED.values(), ids=REFUSED)
def test_what_has_no_bound_is_refused(layer, error, message):
    net, x = nn.Sequential(nn.Linear(5, 6), layer(), nn.Linear(6, 3)).eval(), torch.rand(4, 5)
    with pytest.raises(error, match=message):
        certify_each(net, x, torch.zeros(4, dtype=torch.long), 0.1, methods=("ibp",))


def test_training_mode_is_refused():
    net, x = made("rows")
    with pytest.raises(ValueError, match="training mode"):
        certify_each(net.train(), x, torch.zeros(20, dtype=torch.long), 0.1)
    with pytest.raises(TypeError, match="BatchNorm1d normalises by its batch"):
        reach(net.double(), *box(x, 0.1))
