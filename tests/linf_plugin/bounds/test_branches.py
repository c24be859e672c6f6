"""Nets whose graph is no chain: residual and dense connections, shared layers, branches and several heads."""

import functools
import math

import pytest
import torch
from nets import ball, within
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear
from linf_plugin.bounds import compute_bounds, versions

from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
FEW = {"optimize_bound_args": {"iteration": 3}}
ROUNDING = 1e-9
pytestmark = [
    pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]


@pytest.fixture(autouse=True)
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


class Net(nn.Module):
    """A function of the input and of layers."""

    def __init__(self, function, *layers):
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x):
        return self.function(x, *self.layers)


def dense(x, a, b, c):
    h = torch.cat([x, a(x)], 1)
    return c(torch.cat([h, b(h)], 1))


def deep(x, a, b, c, d):
    h = a(x)
    h = h + b(h)
    h = h + torch.relu(c(h))
    return d(h)


def after_conv(x, conv, a, b):
    h = conv(x).flatten(1)
    return b(h + a(h))


def images(x, a, b, c):
    return c(torch.relu(b(x + a(x))).flatten(1))


def dense_images(x, a, b, c):
    return c(b(torch.cat([x, a(x)], 1)).flatten(1))


def dist(*sizes, p=math.inf, **options):
    return LinfDistLinear(*sizes, p=p, **options)


def sort(*sizes):
    return SortDistLinear(*sizes, rho=0.5, k=3)


VECTOR, IMAGE, POINTS = (6,), (2, 5, 4), (3, 6)
NETS = {  # name → (shape of a sample, net)
    "residual": (VECTOR, lambda: Net(lambda x, a, b: b(x + a(x)), dist(6, 6), dist(6, 4))),
    "residual, p=2": (VECTOR, lambda: Net(lambda x, a, b: b(x + a(x)), dist(6, 6, p=2.0), dist(6, 4, p=2.0))),
    "residual, sorted": (VECTOR, lambda: Net(lambda x, a, b: b(x + a(x)), sort(6, 6), sort(6, 4))),
    "residual of a difference": (VECTOR, lambda: Net(lambda x, a, b: b(x - a(x)), dist(6, 6, bias=False), dist(6, 4))),
    "residual of a mean": (
        VECTOR,
        lambda: Net(lambda x, a, b, c: c(x + b(a(x))), dist(6, 6), MeanShift(6), nn.Linear(6, 4)),
    ),
    "residuals": (VECTOR, lambda: Net(deep, dist(6, 5), dist(5, 5), nn.Linear(5, 5), dist(5, 4))),
    "residual with relu": (VECTOR, lambda: Net(lambda x, a, b: b(torch.relu(x + a(x))), nn.Linear(6, 6), dist(6, 4))),
    "residual of stock layers": (
        VECTOR,
        lambda: Net(lambda x, a, b: b(torch.relu(x + torch.relu(a(x)))), nn.Linear(6, 6), nn.Linear(6, 4)),
    ),
    "two branches": (VECTOR, lambda: Net(lambda x, a, b, c: c(a(x) + b(x)), dist(6, 5), nn.Linear(6, 5), dist(5, 4))),
    "dense": (VECTOR, lambda: Net(dense, dist(6, 5), dist(11, 4), dist(15, 4))),
    "dense with a head": (VECTOR, lambda: Net(dense, sort(6, 5), nn.Linear(11, 4), nn.Linear(15, 4))),
    "shared": (VECTOR, lambda: Net(lambda x, a, b: b(a(a(x))), dist(6, 6), dist(6, 4))),
    "shared residual": (VECTOR, lambda: Net(lambda x, a, b: b(a(x) + a(a(x))), dist(6, 6), dist(6, 4))),
    "heads": (
        VECTOR,
        lambda: Net(
            lambda x, a, b, c: torch.cat([b(a(x)), c(a(x))], 1),
            dist(6, 5),
            nn.Linear(5, 1),
            SortDistLinear(5, 3, rho=1.0),
        ),
    ),
    "sum of heads": (
        VECTOR,
        lambda: Net(lambda x, a, b, c: b(a(x)) + c(a(x)), dist(6, 5), dist(5, 4), nn.Linear(5, 4)),
    ),
    "further dimensions": (
        POINTS,
        lambda: Net(lambda x, a, b, c: c(b(x + a(x)).flatten(1)), dist(6, 6), dist(6, 3), nn.Linear(9, 4)),
    ),
    "dense, further dimensions": (
        POINTS,
        lambda: Net(lambda x, a, b: b(torch.cat([x, a(x)], -1)).flatten(1), dist(6, 2), sort(8, 2)),
    ),
    "images": (
        IMAGE,
        lambda: Net(images, LinfDistConv2d(2, 2, 3, padding=1), LinfDistConv2d(2, 3, 2), nn.Linear(36, 4)),
    ),
    "images of stock layers": (
        IMAGE,
        lambda: Net(images, nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 3, 2), dist(36, 4)),
    ),
    "dense images": (
        IMAGE,
        lambda: Net(dense_images, LinfDistConv2d(2, 2, 3, padding=1), nn.Conv2d(4, 3, 2), nn.Linear(36, 4)),
    ),
    "vectors behind a convolution": (IMAGE, lambda: Net(after_conv, nn.Conv2d(2, 2, 2), dist(24, 24), dist(24, 4))),
    "stock vectors behind a convolution": (
        IMAGE,
        lambda: Net(after_conv, nn.Conv2d(2, 2, 2), nn.Linear(24, 24), nn.Sequential(nn.ReLU(), nn.Linear(24, 4))),
    ),
}
each_net = pytest.mark.parametrize("name", NETS)


def make(name):
    shape, builder = NETS[name]
    net = builder().to(torch.get_default_dtype()).eval()
    for m in net.modules():
        if isinstance(m, MeanShift):
            m.running_mean.copy_(torch.randn_like(m.running_mean))
    return net, torch.rand(3, *shape)


def holds(lower, upper, net, x, C=None):
    assert within(lower, upper, net, x, C, samples=60, rounding=ROUNDING)


@functools.cache
def traced(name):
    """A net, its inputs and its graph, for tests that need no fresh one."""
    torch.manual_seed(0)
    net, x = make(name)
    return net, x, BoundedModule(net, x[:1], bound_opts=FEW)


@each_net
@each_method
def test_bounds_hold(name, method):
    net, x = make(name)
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    alone = bounded.compute_bounds(x=(ball(x),), method=method)
    least, most = bounded.compute_bounds(x=(ball(x),), method="IBP")
    lower, upper = compute_bounds(bounded, (ball(x),), method=method)
    holds(*alone, net, x)
    holds(lower, upper, net, x)
    assert (lower >= least).all() and (upper <= most).all()


@each_net
@each_method
def test_a_specification_bounds_differences(name, method):
    net, x, bounded = traced(name)
    C = torch.randn(3, 2, net(x).shape[1])
    lower, upper = compute_bounds(bounded, (ball(x),), C, method)
    assert lower.shape == upper.shape == (3, 2)
    holds(lower, upper, net, x, C)


@each_net
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "Forward+Backward"])
def test_both_forms_of_coefficients_give_the_same_bounds(name, method):
    net, x = make(name)
    bounds = [
        BoundedModule(net, x[:1], bound_opts={"conv_mode": mode}).compute_bounds(x=(ball(x),), method=method)
        for mode in ("patches", "matrix")
    ]
    for ours, theirs in zip(*bounds):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)


@each_net
@pytest.mark.parametrize("method", ["IBP", "CROWN", "Forward"])
def test_a_ball_of_radius_zero_gives_the_output(name, method):
    net, x, bounded = traced(name)
    for end in compute_bounds(bounded, (ball(x, 0.0),), method=method):
        torch.testing.assert_close(end, net(x), rtol=0, atol=ROUNDING)


@each_method
def test_linear_bounds_see_that_branches_depend_on_each_other(method):
    """a(x) − a(x) is 0.  Intervals take the two for independent."""
    net = nn.Sequential(Net(lambda x, a: a(x) - a(x), nn.Linear(6, 4)), LinfDistLinear(4, 3, bias=False)).eval()
    x = torch.rand(3, 6)
    lower, upper = BoundedModule(net, x[:1], bound_opts=FEW).compute_bounds(x=(ball(x),), method=method)
    holds(lower, upper, net, x)
    width = (upper - lower).max()
    assert method == "CROWN-IBP" or (width > 0.1 if method == "IBP" else width < ROUNDING)


@each_method
def test_a_head_is_bounded_as_the_net_without_the_others(method):
    net, x = make("heads")
    whole = BoundedModule(net, x[:1], bound_opts=FEW)
    a, b, c = net.layers
    concatenation = whole[whole.final_name]
    for head, node in zip((b, c), concatenation.inputs, strict=True):
        one = nn.Sequential(a, head).eval()
        theirs = compute_bounds(BoundedModule(one, x[:1], bound_opts=FEW), (ball(x),), method=method)
        ours = compute_bounds(whole, (ball(x),), method=method, final_node_name=node.name)
        for end, wanted in zip(ours, theirs):
            torch.testing.assert_close(end, wanted, rtol=0, atol=ROUNDING)


def test_several_outputs_are_refused_by_name():
    net = Net(lambda x, a, b, c: (b(a(x)), c(a(x))), dist(6, 5), dist(5, 4), nn.Linear(5, 4)).eval()
    with pytest.raises(TypeError, match="model must return one tensor, got tuple: .*torch.cat"):
        BoundedModule(net, torch.rand(1, 6))


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "CROWN-Optimized"])
def test_a_net_of_branches_can_be_trained_on_its_bounds(method):
    net, x = make("residuals")
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    if method == "CROWN-Optimized":  # its own bounds have no gradient; those of CROWN with its α have one
        bounded.compute_bounds(x=(ball(x),), method=method, bound_upper=False)
        lower, _ = bounded.compute_bounds(x=(ball(x),), method="CROWN", bound_upper=False, reuse_alpha=True)
    else:
        lower, _ = bounded.compute_bounds(x=(ball(x),), method=method, bound_upper=False)
    lower.sum().backward()
    assert all(a.grad is not None and a.grad.isfinite().all() for a in net.parameters())
    assert all(layer.weight.grad.abs().sum() > 0 for layer in net.layers)
