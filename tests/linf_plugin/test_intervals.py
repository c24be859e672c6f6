"""Intervals hold what the layers give, and no rule changes the ends that it is given."""

import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates import certify_each, sound_radius
from linf_plugin.certificates.lipschitz import sound_margin
from linf_plugin.float32.allowance import noise
from linf_plugin.float32.rules import ROUNDING, Reach
from linf_plugin.intervals import INTERVALS, interval
from linf_plugin.layers.facts import FACTS
from linf_plugin.layers.shifts import CenterCrop
from linf_plugin.norms import Ball
from linf_plugin.refusal import Refusal


def normalisation(layer):
    """Batch normalisation with scales of both signs."""
    torch.manual_seed(1)
    for a in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(a)
    layer.running_var.uniform_(0.1, 2)
    return layer


LAYERS = [  # layers, and the shape of a sample
    (lp.Normalize([0.1, 0.2], 0.5), (2, 3, 3)),
    (CenterCrop(2), (2, 4, 3)),
    (nn.Flatten(), (2, 2, 2)),
    (nn.Identity(), (3,)),
    (lp.LinfDistLinear(4, 3, p=2.5), (4,)),
    (lp.LinfDistLinear(4, 3), (2, 4)),
    (lp.LinfDistConv2d(2, 4, 2, padding=1, groups=2), (2, 3, 3)),
    (lp.SortDistLinear(5, 3, rho=0.4, k=3), (2, 5)),
    (lp.SortDistLinear(5, 3, rho=1.0), (5,)),
    (lp.MeanShift(3), (3, 2, 2)),
    (lp.Negate(), (3,)),
    (nn.Linear(4, 3), (2, 4)),
    (nn.Conv2d(2, 4, 2, padding=1, stride=2, groups=2), (2, 5, 5)),
    (nn.ReLU(), (4,)),
    (nn.ReLU(inplace=True), (4,)),
    (nn.Tanh(), (4,)),
    (normalisation(nn.BatchNorm1d(4)), (4,)),
    (nn.BatchNorm1d(3, affine=False), (3, 2)),
    (normalisation(nn.BatchNorm2d(3)), (3, 2, 2)),
    (lp.ParamRamp(4, 0.4), (4,)),
    (lp.ParamRamp(2, 0.4), (2, 2, 3)),
    (lp.MaxMin(), (6,)),
    (lp.MaxMin(), (4, 2, 3)),
    (lp.PotentialLinear(4, 3), (2, 4)),
    (lp.PotentialConv2d(2, 4, (3, 1)), (2, 4, 3)),
]
each_layer = pytest.mark.parametrize("layer, shape", LAYERS, ids=lambda a: str(a).partition("(")[0] or str(a))


def test_every_layer_type_has_a_case():
    refused = {kind for kind, row in INTERVALS.items() if isinstance(row, Refusal)}
    missing = {kind.__name__ for kind in FACTS.keys() - refused - {type(layer) for layer, _ in LAYERS}}
    assert not missing, f"{missing}: add a case to LAYERS in this file"


def ends(shape):
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    radius = torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    return centre - radius, centre + radius


@torch.no_grad()
@each_layer
def test_ends_hold_the_values_between(layer, shape):
    layer, (lower, upper) = layer.double().eval(), ends(shape)
    low, high = interval(layer, (lower, upper))
    for _ in range(300):
        part = torch.rand(lower.shape, dtype=torch.float64)
        part = torch.where(torch.rand(part.shape) < 0.5, part.round(), part)
        y = layer(lower + part * (upper - lower))
        assert y.shape == low.shape == high.shape
        assert (low - 1e-12 <= y).all() and (y <= high + 1e-12).all()


@torch.no_grad()
@each_layer
def test_no_rule_changes_the_ends_that_it_is_given(layer, shape):
    """A layer may work in place; the ends of its input are still needed, by the caller and for the noise."""
    layer, (lower, upper) = layer.double().eval(), ends(shape)
    given, error = [lower.clone(), upper.clone()], torch.full_like(lower, 1e-3)
    interval(layer, (lower, upper))
    ROUNDING[type(layer)](layer, Reach(lower, upper, error))
    noise(layer, lower, upper)
    assert torch.equal(lower, given[0]) and torch.equal(upper, given[1]) and (error == 1e-3).all()
    assert INTERVALS.keys() == ROUNDING.keys() == FACTS.keys()


@torch.no_grad()
@pytest.mark.parametrize("first", (True, False), ids=("first", "second"))
def test_a_relu_in_place_is_certified_as_any_other(first):
    """With inputs below 0, which such a layer would take from the ball."""
    torch.manual_seed(0)
    plain = nn.Sequential(*([] if first else [nn.Linear(4, 4)]), nn.ReLU(), nn.Linear(4, 3)).eval()
    inplace = nn.Sequential(*(nn.ReLU(inplace=True) if type(m) is nn.ReLU else m for m in plain)).eval()
    x = 2 * torch.rand(60, 4) - 1
    y, kept = plain(x).argmax(1), x.clone()
    for sound in (True, False):
        found = [certify_each(net, x.clone(), y, 0.15, sound=sound, low=-1.0, high=1.0) for net in (plain, inplace)]
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
        assert 0 < found[0]["ibp"].sum() < len(x)
    assert torch.equal(sound_radius(plain, x), sound_radius(inplace, x.clone())) and torch.equal(x, kept)
    ball = Ball(0.1, math.inf, -1.0, 1.0)
    margins = [sound_margin(net.double(), x.clone(), y, ball) for net in (plain, inplace)]
    assert torch.equal(*margins)
