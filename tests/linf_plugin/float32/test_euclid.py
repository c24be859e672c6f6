"""Bounds of rounding in ℓ2: above what float32 does, and smaller by the norm of absolute weights than by rows alone."""

import copy
import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.float32.euclid import RULES_IN_L2, error_in_l2, l2_bounds
from linf_plugin.layers.absolute import absolute_norm

NETS = {
    "sll-mlp": dict(name="sll-mlp", depth=3, hidden=24),
    "cpl-mlp": dict(name="cpl-mlp", depth=3, hidden=24),
    "aol-mlp": dict(name="aol-mlp", depth=3, width=24),
    "sll-conv": dict(name="sll-conv", convs=3, dense=1, width=6, inner=6, hidden=24),
    "aol-conv": dict(name="aol-conv", channels=(4, 6), strides=(1, 2), width=12),
    "relu-conv": dict(name="relu-conv", channels=(4, 6), strides=(1, 2), width=12, mean=(0.4,), std=0.5),
}
each_net = pytest.mark.parametrize("name", NETS)


@pytest.fixture
def net(name):
    torch.manual_seed(0)
    net = lp.build(**NETS[name], shape=(1, 12, 12), classes=5).eval()
    with torch.no_grad():
        for a in net.parameters():
            a.add_(0.05 * torch.randn_like(a))
    return lp.materialise(net)


def in_balls(x: torch.Tensor, radius: float, count: int) -> torch.Tensor:
    """(count, N, *) float32 points on spheres; half of them move pixels that are next to each other together."""
    step = torch.randn(count, *x.shape)
    step[::2] = step[::2].abs()
    return x + radius * (1 - 1e-6) * step / step.flatten(2).norm(dim=2)[..., None, None, None]


@torch.no_grad()
@each_net
@pytest.mark.parametrize("radius", [0.0, 0.1, 1.5, 40.0])
def test_rounding_stays_below_the_bound(net, radius):
    exact, x = copy.deepcopy(net).double(), torch.rand(6, 1, 12, 12)
    error = error_in_l2(exact, l2_bounds(exact), x.double(), torch.full((6,), radius))
    worst = max((net(at).double() - exact(at.double())).norm(dim=1).div(error).max() for at in in_balls(x, radius, 40))
    assert 1e-4 < worst <= 1


@torch.no_grad()
@pytest.mark.parametrize("layer", [nn.Linear(144, 60), nn.Conv2d(1, 5, 3, padding=1), lp.PotentialLinear(144, 60)])
def test_one_layer_rounds_less_than_its_rule_says(layer):
    """Each rule by itself, at points that are not reached through other layers: float32 numbers in a ball."""
    layer = layer.eval()
    for a in layer.parameters():
        a.copy_(a.abs() + 0.01)  # sums of numbers of one sign round most
    x = torch.rand(4, *((144,) if layer.weight.dim() == 2 else (1, 12, 12)))
    exact = copy.deepcopy(layer).double()
    (known,) = l2_bounds(exact)
    for radius in (0.1, 10.0):
        found = RULES_IN_L2[type(layer)](exact, known, x.double(), torch.full((4,), radius, dtype=torch.float64))
        step = torch.rand(100, *x.shape)
        points = x + radius * (1 - 1e-6) * step / step.flatten(2).norm(dim=2).view(100, 4, *[1] * (x.dim() - 1))
        worst = max((layer(at).double() - exact(at.double())).flatten(1).norm(dim=1).div(found).max() for at in points)
        assert 1e-3 < worst <= 1


@torch.no_grad()
@each_net
def test_the_norm_of_absolute_weights_makes_the_bound_smaller_and_never_larger(net, name):
    exact, x = copy.deepcopy(net).double(), torch.rand(6, 1, 12, 12, dtype=torch.float64)
    known = l2_bounds(exact)
    rows_only = [one._replace(absolute=math.inf) for one in known]
    share = {"sll-conv": 0.6, "aol-conv": 0.75, "relu-conv": 0.75}.get(name, 0.97)
    for radius, most in ((0.0, 1.0), (0.2, 1.0), (2.0, share)):
        radii = torch.full((6,), radius, dtype=torch.float64)
        ours, theirs = error_in_l2(exact, known, x, radii), error_in_l2(exact, rows_only, x, radii)
        assert (ours <= theirs).all() and (ours < most * theirs * (1 + 1e-9)).all()


def test_each_layer_knows_its_norm():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.ReLU(), lp.PotentialLinear(6, 4)).eval()
    flatten, linear, relu, potential = l2_bounds(net)
    assert flatten == relu == (1.0, math.inf)
    assert linear == (lp.lipschitz_bound(net[1], 2), absolute_norm(net[1]))
    assert potential == (lp.lipschitz_bound(net[3], 2), absolute_norm(net[3].branch()[0]))
    assert l2_bounds(nn.Sequential(nn.Softmax(1))) is None
    with pytest.raises(TypeError, match="no ℓ2 Lipschitz bound is known for LinfDistLinear"):
        l2_bounds(nn.Sequential(nn.Linear(3, 3), lp.LinfDistLinear(3, 3)))
