"""Lines that bound the rounding of a whole net in ℓ2: against float32 itself, against the bound of one ball."""

import copy
import math

import pytest
import torch

import linf_plugin as lp
from linf_plugin.float32.euclid import error_in_l2, l2_bounds
from onnx_export.writing.rounding_l2 import error_line

NETS = {
    "sll-mlp": ("sll-mlp", {"depth": 3, "hidden": 12}),
    "cpl-mlp": ("cpl-mlp", {"depth": 3, "hidden": 12}),
    "aol-mlp": ("aol-mlp", {"depth": 3, "width": 12}),
    "sll-conv": ("sll-conv", {"convs": 2, "dense": 1, "width": 6, "inner": 4, "hidden": 12}),
    "aol-conv": ("aol-conv", {"channels": (4, 6), "strides": (1, 2), "width": 12}),
    "relu-conv": ("relu-conv", {"channels": (4, 6), "strides": (1, 2), "width": 12}),
}
each_net = pytest.mark.parametrize("name", NETS)


@pytest.fixture
def net(name, small_net):
    architecture, arguments = NETS[name]
    net = small_net(architecture, **arguments)
    with torch.no_grad():
        for a in net.parameters():
            a.add_(0.1 * torch.randn_like(a))
    return lp.materialise(net)


def line_of(net, centre: float, most: float):
    exact = copy.deepcopy(net).double()
    at = torch.full((1, *net.input_shape), centre, dtype=torch.float64)
    known = l2_bounds(exact)
    return exact, known, error_line(exact, [one.bound for one in known], at, most)


@torch.no_grad()
@each_net
def test_rounding_stays_below_the_line(net):
    """Float32 logits against float64 ones, near the centre, in the cube of images, and far outside of it."""
    exact, _, line = line_of(net, 0.3, 40.0)
    x = torch.cat([0.3 + 1e-3 * torch.randn(50, 1, 8, 8), torch.rand(200, 1, 8, 8), 4 * torch.rand(50, 1, 8, 8) - 2])
    distance = (x.double() - 0.3).flatten(1).norm(dim=1)
    assert distance.max() < 40
    error = (net(x).double() - exact(x.double())).norm(dim=1)
    assert (error <= line.fixed + line.slope * distance).all() and error.max() > 0


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(NETS.keys() - {"relu-conv"}))  # its values shrink much, which the line ignores
def test_the_line_is_near_the_bound_of_one_ball(net):
    """Both count the same roundings.  That bound knows the sizes of the values at the centre of its ball."""
    exact, bounds, line = line_of(net, 0.3, 16.0)
    x = torch.rand(50, 1, 8, 8, dtype=torch.float64)
    ours = line.fixed + line.slope * (x - 0.3).flatten(1).norm(dim=1)
    theirs = error_in_l2(exact, bounds, x, torch.full((50,), 0.01))
    assert (ours > theirs / 3).all() and (ours < 8 * theirs).all()


@torch.no_grad()
def test_the_line_counts_each_rounding():
    """Of one product and one sum it is at most a few times as large as the worst rounding that is seen."""
    net = lp.Net({"input_shape": [1], "layers": [["linear", {"in_features": 1, "out_features": 2}]]}).eval()
    net[0].weight.copy_(torch.tensor([[0.7], [-1.3]]))
    net[0].bias.copy_(torch.tensor([0.9, 0.2]))
    exact, _, line = line_of(net, 0.0, 1.0)
    x = torch.rand(20000, 1) * 2 - 1
    ratio = (net(x).double() - exact(x.double())).norm(dim=1) / (line.fixed + line.slope * x.double().abs()[:, 0])
    assert 0.2 < ratio.max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["sll-mlp", "sll-conv", "aol-mlp"])
@pytest.mark.parametrize("value", [1e30, 3e38])
def test_what_may_overflow_has_no_line(net, value):
    last = [layer for layer in net if hasattr(layer, "weight")][-2]
    last.weight.fill_(value)
    _, _, line = line_of(net, 0.3, 16.0)
    assert line.fixed == line.slope == math.inf or value == 1e30
    net[-1].weight.fill_(value)
    assert line_of(net, 0.3, 16.0)[2] == (math.inf, math.inf)


@torch.no_grad()
def test_zeros_lose_only_what_is_flushed(small_net):
    net = lp.materialise(small_net("sll-mlp", depth=3, hidden=4, mean=(0.0,)))
    for a in net.parameters():
        a.zero_()
    _, _, line = line_of(net, 0.0, 16.0)
    assert 0 < line.fixed < 1e-30 and line.slope == 0
