"""Bounds of ParamRamp and MaxMin by auto_LiRPA, in evaluation and in training mode, and what happens as they change."""

import copy
import math

import pytest
import torch
from nets import ball, within
from torch import nn

from linf_plugin import MaxMin, ParamRamp
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.bounds.pairs import pair_blocks
from linf_plugin.intervals import interval

from auto_LiRPA import BoundedModule

ROUNDING = 1e-9
METHODS = ("IBP", "CROWN-IBP", "CROWN")
OPTIONS = {"patches": {"conv_mode": "patches"}, "matrix": {"conv_mode": "matrix"}}


@pytest.fixture(autouse=True)
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


def made(activation, leak=None):
    """A net of images and rows; in training mode, if it gets a leak."""
    torch.manual_seed(0)

    def act(channels):
        return ParamRamp(channels) if activation == "ramp" else MaxMin()

    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), act(4), nn.Conv2d(4, 4, 3), act(4), nn.Flatten(), nn.Linear(24, 6), act(6),
        nn.Linear(6, 3),
    )  # fmt: skip
    for m in net.modules():
        if isinstance(m, ParamRamp):
            nn.init.uniform_(m.top, 0.1, 0.7)
            m.leak.fill_(leak or 0)
    return net.train(leak is not None), torch.rand(3, 2, 4, 5)


CASES = {
    "ramp": ("ramp", None),
    "max-min": ("max-min", None),
    "max-min in training": ("max-min", 0.0),
    **{f"ramp with leak {leak}": ("ramp", leak) for leak in (0.0, 0.01, 0.5, 1.0)},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("method", METHODS)
def test_bounds_hold(method, case, options):
    net, x = made(*case)
    bounded = BoundedModule(net, x, bound_opts=options)
    for lower, upper in (
        bounded.compute_bounds(x=(ball(x),), method=method),
        compute_bounds(bounded, (ball(x),), method=method),
    ):
        assert within(lower, upper, net, x, rounding=ROUNDING)
    assert (upper - lower).mean() < 3


def by_hand(layer, ends):
    """The ends of a layer of these nets, in the mode in which it is."""
    if not (isinstance(layer, ParamRamp) and layer.training):
        return interval(layer, ends)
    return layer(ends[0]), layer(ends[1])  # it rises, with its leaks too


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_intervals_and_their_gradients_are_those_by_hand(case):
    net, x = made(*case)
    low, high = ((x + side * 0.05).clamp(0, 1) for side in (-1, 1))
    found = BoundedModule(net, x).compute_bounds(x=(ball(x),), method="IBP")
    ends = low, high
    for layer in net:
        ends = by_hand(layer, ends)
    weights = torch.randn(2, *ends[0].shape)
    gradients = []
    for pair in (found, ends):
        loss = sum((end * w).sum() for end, w in zip(pair, weights))
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    for a, b in ((found, ends), gradients):
        for left, right in zip(a, b, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("part", ("leak", "top"))
def test_a_change_in_place_is_seen(part):
    """The graph shares the tops, so it follows them.  It holds the leak as a number, so it refuses."""
    net, x = made("ramp", 0.1)
    bounded = BoundedModule(net, x)
    before, _ = bounded.compute_bounds(x=(ball(x),), method="IBP")
    with torch.no_grad():
        getattr(net[1], part).mul_(0.5)
    if part == "leak":
        with pytest.raises(RuntimeError, match="the leak of layer '1' has changed since this BoundedModule was made"):
            bounded.compute_bounds(x=(ball(x),), method="IBP")
    else:
        after, _ = bounded.compute_bounds(x=(ball(x),), method="IBP")
        again, _ = BoundedModule(net, x).compute_bounds(x=(ball(x),), method="IBP")
        assert torch.equal(after, again) and not torch.equal(after, before)


def test_a_ramp_in_another_mode_is_seen():
    net, x = made("ramp")
    bounded = BoundedModule(net, x)
    net[1].train()
    with pytest.raises(RuntimeError, match="layer '1' is in training mode, but"):
        bounded.compute_bounds(x=(ball(x),), method="IBP")


@pytest.mark.parametrize("leak", (-0.1, 1.5, math.nan))
def test_a_leak_out_of_range_is_refused(leak):
    net, x = made("ramp", leak)
    with pytest.raises(ValueError, match="leak must lie in"):
        BoundedModule(net, x)


@pytest.mark.parametrize("many", (False, True), ids=("default", "candidates"))
@pytest.mark.parametrize("shape", [(4,), (2, 3), (6, 2, 2)], ids=str)
def test_lines_of_pairs_hold(shape, many):
    centre = torch.randn(5, *shape)
    width = torch.rand(5, *shape) * (torch.rand(5, *shape) < 0.8)
    low, high = centre - width, centre + width
    lines, layer = list(pair_blocks(low, high).walk(many)), MaxMin()
    neurons = torch.cat([block.neurons for block in lines])
    assert sorted(neurons.tolist()) == list(range(math.prod(shape)))
    for i in range(200):
        at = torch.rand_like(low)
        x = low + (at.round() if i % 2 else at) * (high - low)
        y, flat = layer(x).flatten(1), x.flatten(1)
        for neurons, below, above in lines:
            for side, sign in ((below, 1), (above, -1)):
                numbers = flat.gather(1, side.index.flatten(1)).view(side.index.shape).unsqueeze(2)
                value = (side.slopes * numbers).sum(3) + side.consts
                assert (sign * (y[:, neurons].unsqueeze(2) - value) >= -ROUNDING).all()


@torch.no_grad()
def test_the_modes_of_a_ramp_agree_without_a_leak():
    layer, x = ParamRamp(3), 3 * torch.randn(50, 3, 2)
    layer.top.copy_(torch.tensor([0.5, 1.0, -0.2]))
    twin = copy.deepcopy(layer).eval()
    torch.testing.assert_close(layer.train()(x), twin(x), rtol=0, atol=1e-12)
    layer.leak.fill_(0.1)
    assert not torch.equal(layer(x), twin(x)) and torch.equal(layer.eval()(x), twin(x))
    assert "leak" not in layer.state_dict()
