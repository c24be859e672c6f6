"""Nets of every kind for the bound tests, and points of a ball."""

import math

import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, ParamRamp, build, set_p

from auto_LiRPA import BoundedTensor, PerturbationLpNorm

NETS = {  # name → (input shape, net)
    "mlp": ((1, 5, 5), lambda: build("linf-mlp", shape=(1, 5, 5), classes=4, width=12, depth=3, mean=(0.3,), std=0.4)),
    "head": (
        (1, 5, 5),
        lambda: build("linf-mlp-head", shape=(1, 5, 5), classes=4, width=12, depth=2, hidden=6, mean=(0.3,), std=0.4),
    ),
    "sortnet": (
        (1, 5, 5),
        lambda: build("sortnet-mlp", shape=(1, 5, 5), classes=4, width=12, depth=3, rho=0.5, k=4, mean=(0.3,), std=0.4),
    ),
    "sortnet-head": (
        (1, 5, 5),
        lambda: build(
            "sortnet-mlp", shape=(1, 5, 5), classes=4, width=12, depth=2, rho=0.3, hidden=6, mean=(0.3,), std=0.4
        ),
    ),
    "distance-conv": (
        (3, 6, 6),
        lambda: build(
            "linf-conv",
            shape=(3, 6, 6),
            classes=4,
            channels=(5, 6),
            strides=(1, 2),
            width=8,
            hidden=5,
            mean=(0.1, 0.2, 0.3),
            std=0.25,
        ),
    ),
    "crop": (
        (3, 6, 7),
        lambda: build(
            "linf-mlp-head",
            shape=(3, 6, 7),
            classes=4,
            width=12,
            depth=2,
            hidden=6,
            crop=3,
            mean=(0.1, 0.2, 0.3),
            std=0.25,
        ),
    ),
    "clip": (
        (2, 3, 3),
        lambda: build("linf-mlp", shape=(2, 3, 3), classes=4, width=12, depth=3, clip=0.3, mean=(0.1, 0.4), std=0.25),
    ),
    "conv-distance": (
        (2, 5, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            LinfDistLinear(75, 7),
            MeanShift(7),
            LinfDistLinear(7, 4),
        ),
    ),
    "conv-distance-conv": (
        (2, 5, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3),
            LinfDistConv2d(3, 4, 2, padding=1),
            MeanShift(4),
            nn.ReLU(),
            nn.Conv2d(4, 2, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(18, 4),
        ),
    ),
    "groups": (
        (4, 5, 6),
        lambda: nn.Sequential(
            LinfDistConv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
            nn.Flatten(),
            nn.Linear(36, 4),
        ),
    ),
    "ramp": (
        (1, 5, 5),
        lambda: build(
            "relu-conv", shape=(1, 5, 5), classes=4, channels=(3, 4), strides=(2, 1), width=6, activation="ramp"
        ),
    ),
    "max-min": (
        (1, 5, 5),
        lambda: build(
            "relu-conv", shape=(1, 5, 5), classes=4, channels=(4, 4), strides=(2, 1), width=6, activation="max-min"
        ),
    ),
    "relu": ((1, 5, 5), lambda: build("relu-conv", shape=(1, 5, 5), classes=4, channels=(3,), strides=(2,), width=6)),
}
each_net = pytest.mark.parametrize("name", NETS)


def make(name, p=math.inf):
    """A net with random means and tops in evaluation mode, and three inputs."""
    shape, builder = NETS[name]
    net = builder().to(torch.get_default_dtype())
    for m in net.modules():
        if isinstance(m, MeanShift):
            m.running_mean.copy_(torch.randn_like(m.running_mean))
        if isinstance(m, ParamRamp):
            nn.init.uniform_(m.top, 0.1, 0.6)
    set_p(net, p)
    return net.eval(), torch.rand(3, *shape)


def ball(x, eps=0.05):
    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1)))


def perturbed(x, eps=0.05, samples=100):
    """(samples, N, *): random points and corners of the ball within the pixel range, in turn."""
    at = torch.rand(samples, *x.shape, dtype=x.dtype)
    at[1::2] = at[1::2].round()
    low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
    return low + at * (high - low)


@torch.no_grad()
def within(lower, upper, net, x, C=None, *, eps=0.05, samples=100, rounding=1e-9):
    """Whether outputs of the net at points of the ball lie within bounds; with C, those of the specification.

    One evaluation of all points takes a hundredth of the time of one for each.
    """
    y = net(perturbed(x, eps, samples).flatten(0, 1)).unflatten(0, (samples, len(x)))
    if C is not None:
        y = (C @ y.flatten(2).unsqueeze(3)).squeeze(3)
    return y[0].shape == lower.shape and bool(((lower <= y + rounding) & (y <= upper + rounding)).all())
