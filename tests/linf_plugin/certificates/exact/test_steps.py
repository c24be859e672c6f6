"""Steps: their intervals and their rational values are those of the net, at all magnitudes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, Negate, Normalize
from linf_plugin.certificates.exact.steps import evaluate, interval, outward, steps_of
from linf_plugin.layers.shifts import CenterCrop

NETS = {  # (input shape, layers)
    "distances": (
        (2, 1, 2),
        lambda: [
            Normalize((0.2, 0.5), 0.3),
            LinfDistConv2d(2, 4, (1, 2), padding=(0, 1), groups=2),
            MeanShift(4),
            nn.Flatten(),
            LinfDistLinear(12, 3),
            Negate(),
        ],
    ),
    "linear": ((3,), lambda: [nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 2)]),
    "convolutions": (
        (2, 5, 4),
        lambda: [
            CenterCrop(3),
            nn.Conv2d(2, 4, (2, 1), stride=(1, 2), padding=(1, 0), groups=2),
            nn.ReLU(),
            nn.Conv2d(4, 3, 2, dilation=(2, 1), bias=False),
            nn.Flatten(),
            nn.Linear(6, 3),
        ],
    ),
    "both": ((3,), lambda: [LinfDistLinear(3, 5), nn.Linear(5, 4), nn.ReLU(), LinfDistLinear(4, 3)]),
}


@pytest.mark.parametrize("radius", [0.01, 0.2])
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_steps_say_what_the_net_says(name, radius):
    """At a point of a box: the rational logits are the net's, and intervals hold them, exactly."""
    shape, layers = NETS[name]
    net = nn.Sequential(*layers()).double().eval()
    steps = steps_of(net, shape)
    for _ in range(3):
        centre = torch.rand(shape, dtype=torch.float64)
        point = centre + radius * (2 * torch.rand(shape, dtype=torch.float64) - 1)
        exact = evaluate(steps, point.flatten().numpy())
        assert [float(z) for z in exact] == pytest.approx(net(point[None])[0].tolist(), abs=1e-12)

        box = (centre.flatten() - radius).numpy(), (centre.flatten() + radius).numpy()
        low, high = interval(steps, *box)
        assert all(Fraction(a) <= z <= Fraction(b) for a, z, b in zip(low.tolist(), exact, high.tolist()))
        for label in range(len(exact)):
            low, high = steps[-1].differences(label, *interval(steps[:-1], *box))
            differences = [z - exact[label] for z in exact]
            assert all(Fraction(a) <= z <= Fraction(b) for a, z, b in zip(low.tolist(), differences, high.tolist()))


def test_intervals_are_wide_enough_for_their_rounding():
    """1 + 2^-60 − 1: the exact sum is not 0, which float64 gets."""
    low, high = outward(np.array(0.0), np.array(0.0), np.array(2.0))
    assert low < -(2.0**-60) and high > 2.0**-60
    low, high = outward(np.array(0.0), np.array(0.0), np.array(0.0))
    assert low < -5e-324 and high > 5e-324  # what underflow takes
    with np.errstate(invalid="ignore"):
        assert np.isnan(outward(np.array(math.inf), np.array(math.inf), np.array(math.inf))).any()


def test_rational_values_are_exact():
    net = nn.Sequential(nn.Linear(1, 2)).eval()
    net[0].weight.data[:], net[0].bias.data[:] = torch.tensor([[3.0], [1.0]]), torch.tensor([2.0**-70, -0.75])
    assert evaluate(steps_of(net, (1,)), np.array([0.1])) == [
        3 * Fraction(0.1) + Fraction(1, 2**70),
        Fraction(0.1) - Fraction(3, 4),
    ]


def test_a_normalisation_is_not_rounded():
    """(x − mean)·scale: mean·scale is no float64."""
    layer = Normalize((0.3,), 0.7)
    layer.scale = 1 / 0.7
    net = nn.Sequential(layer, nn.Flatten()).eval()
    mean, scale = Fraction(layer.mean.item()), Fraction(layer.scale)
    assert Fraction(float(mean * scale)) != mean * scale
    assert evaluate(steps_of(net, (1, 1, 2)), np.array([0.1, 0.9])) == [
        (Fraction(0.1) - mean) * scale,
        (Fraction(0.9) - mean) * scale,
    ]
