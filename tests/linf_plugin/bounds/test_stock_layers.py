"""Stock layers around ours that auto_LiRPA fails on by itself: each works, or one sentence says what to do."""

import functools

import pytest
import torch
import torch.nn.functional as F
from nets import ball, within
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS

import auto_LiRPA
from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
each_mode = pytest.mark.parametrize("mode", ["patches", "matrix"])
FEW = {"optimize_bound_args": {"iteration": 3}}
VERSION = auto_LiRPA.__version__
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


def holds(lower, upper, net, x):
    assert within(lower, upper, net, x, samples=60, rounding=ROUNDING)


def bounds_hold(net, x, method, **options):
    """By auto_LiRPA and by ours; returns both bounds of ours."""
    net = net.eval()
    bounded = BoundedModule(net, x[:1], bound_opts={**FEW, **options})
    holds(*bounded.compute_bounds(x=(ball(x),), method=method), net, x)
    found = compute_bounds(bounded, (ball(x),), method=method)
    holds(*found, net, x)
    return found


# Convolutions with groups or a dilation.

CONVS = {"groups": {"groups": 2}, "depthwise": {"groups": 4}, "dilation": {"dilation": 2}}


def convolutions(conv, as_layer, ours_first):
    kernel = nn.Conv2d(4, 4, 2, **CONVS[conv])
    weight = nn.Parameter(kernel.weight.detach().clone())

    def function(x, ours, last, *conv_layer):
        def stock(h):
            return conv_layer[0](h) if as_layer else F.conv2d(h, net.kernel, **CONVS[conv])

        h = stock(ours(x)) if ours_first else ours(torch.relu(stock(x)))
        return last(h.flatten(1))

    layers = LinfDistConv2d(4, 4, 2, padding=1), nn.LazyLinear(3), *((kernel,) if as_layer else ())
    net = Net(function, *layers)
    net.kernel = weight
    x = torch.rand(3, 4, 4, 5)
    net(x)  # the lazy layer gets its size
    return net, x


@pytest.mark.parametrize("ours_first", [True, False], ids=["distances first", "distances last"])
@pytest.mark.parametrize("as_layer", [True, False], ids=["layer", "function"])
@pytest.mark.parametrize("conv", CONVS)
@each_method
def test_convolutions_with_groups_or_a_dilation_work_by_default(conv, as_layer, ours_first, method):
    """Also where no layer says that the graph has them."""
    net, x = convolutions(conv, as_layer, ours_first)
    lower, upper = bounds_hold(net, x, method)
    matrix = BoundedModule(net.eval(), x[:1], bound_opts={**FEW, "conv_mode": "matrix"})
    for end, wanted in zip((lower, upper), compute_bounds(matrix, (ball(x),), method=method)):
        torch.testing.assert_close(end, wanted, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("as_layer", [True, False], ids=["layer", "function"])
@pytest.mark.parametrize("conv", CONVS)
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward+Backward"])
def test_in_patches_mode_they_are_refused_by_name(conv, as_layer, method):
    net, x = convolutions(conv, as_layer, True)
    bounded = BoundedModule(net.eval(), x[:1], bound_opts={"conv_mode": "patches"})
    for compute in (bounded.compute_bounds, lambda x, method: compute_bounds(bounded, x, None, method)):
        with pytest.raises(NotImplementedError, match=r"Conv \(node .*bound_opts=\{'conv_mode': 'matrix'\}"):
            compute(x=(ball(x),), method=method)


# Maximum pools.

POOLS = {
    "behind distances": lambda: (LinfDistConv2d(2, 3, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)),
    "before distances": lambda: (
        nn.Conv2d(2, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        LinfDistConv2d(3, 3, 2),
        nn.Flatten(),
        nn.Linear(3, 4),
    ),
    "first": lambda: (nn.MaxPool2d(2), nn.Flatten(), LinfDistLinear(8, 4)),
    "of windows that are not square": lambda: (
        LinfDistConv2d(2, 3, 3),
        nn.MaxPool2d((1, 3)),
        nn.Flatten(),
        nn.Linear(9, 4),
    ),
    "that leaves pixels over": lambda: (LinfDistConv2d(2, 3, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 4)),
    "before a convolution": lambda: (
        LinfDistConv2d(2, 3, 2),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(27, 4),
    ),
    "two": lambda: (
        LinfDistConv2d(2, 3, 2, padding=1),
        nn.MaxPool2d(2),
        MeanShift(3),
        nn.Conv2d(3, 3, 2, padding=1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 4),
    ),
    "stock": lambda: (nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)),
    "stock, before a convolution": lambda: (
        nn.Conv2d(2, 3, 2),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 3, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(3, 4),
    ),
}


@pytest.mark.parametrize("name", POOLS)
@each_mode
@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN", "CROWN-Optimized"])
def test_bounds_of_maximum_pools_hold(name, mode, method):
    net, x = nn.Sequential(*POOLS[name]()), torch.rand(3, 2, 5, 5)
    lower, upper = bounds_hold(net, x, method, conv_mode=mode)
    if method == "CROWN-Optimized":
        bounded = BoundedModule(net.eval(), x[:1], bound_opts={"conv_mode": mode})
        least, most = compute_bounds(bounded, (ball(x),), method="CROWN")
        assert (lower >= least - ROUNDING).all() and (upper <= most + ROUNDING).all()


@each_mode
def test_optimising_a_maximum_pool_helps(mode):
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5)).eval()
    x = torch.rand(3, 2, 6, 6)
    bounded = BoundedModule(net, x[:1], bound_opts={**WITHOUT_SHORTCUTS, "conv_mode": mode})
    widths = {}
    for method in ("CROWN", "CROWN-Optimized"):
        lower, upper = bounded.compute_bounds(x=(ball(x, 0.2),), method=method)
        holds(lower, upper, net, x)
        widths[method] = (upper - lower).detach().mean()
    assert widths["CROWN-Optimized"] < 0.99 * widths["CROWN"]


# Dropout.

DROPOUTS = {
    "first": lambda: (nn.Dropout(0.5), LinfDistLinear(6, 5), nn.Linear(5, 4)),
    "middle": lambda: (LinfDistLinear(6, 5), nn.Dropout(0.5), LinfDistLinear(5, 4)),
    "stock": lambda: (nn.Linear(6, 5), nn.Dropout(0.5), nn.ReLU(), nn.AlphaDropout(0.5), nn.Linear(5, 4)),
    "of channels": lambda: (nn.Dropout2d(0.5), nn.Flatten(), LinfDistLinear(6, 4)),
}


@pytest.mark.parametrize("name", DROPOUTS)
@each_method
def test_dropout_in_evaluation_mode_does_nothing(name, method):
    net, x = nn.Sequential(*DROPOUTS[name]()).eval(), torch.rand(3, 2, 3, 1)
    x = x if name == "of channels" else x.flatten(1)
    bare = nn.Sequential(*(layer for layer in net if "Dropout" not in type(layer).__name__)).eval()
    options = dict(WITHOUT_SHORTCUTS)
    for ours, theirs in zip(bounds_hold(net, x, method, **options), bounds_hold(bare, x, method, **options)):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    assert not any(m.training for m in net.modules())


@pytest.mark.parametrize("method", ["CROWN-IBP", "CROWN"])
def test_dropout_beside_a_batch_norm(method):
    layers = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), LinfDistLinear(5, 4)
    bounds_hold(nn.Sequential(*layers), torch.rand(3, 6), method)


def test_dropout_in_training_mode_is_refused_by_name():
    stock, x = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 4)).float(), torch.rand(3, 6).float()
    bounded = BoundedModule(stock.train(), x[:1])
    with pytest.raises(NotImplementedError, match=r"Dropout \(node .* draws random numbers: call eval\(\) on the net"):
        compute_bounds(bounded, (ball(x),), method="CROWN")
    with pytest.raises(ValueError, match="model is in training mode"):
        BoundedModule(nn.Sequential(nn.Dropout(0.5), LinfDistLinear(6, 4)).float().train(), x[:1])


# Changes of shape.

VIEWS = {
    "view": lambda x, a, b: b(a(x).view(x.size(0), -1)),
    "reshape": lambda x, a, b: b(a(x).reshape(x.shape[0], -1)),
    "view of sizes": lambda x, a, b: b(a(x).view(x.size(0), 3, 16).flatten(1)),
    "view of −1": lambda x, a, b: b(a(x).view(-1, 48)),
    "view first": lambda x, a, b: b(a(x.view(x.size(0), 2, 5, 5)).flatten(1)),
    "flatten": lambda x, a, b: b(torch.flatten(a(x), start_dim=1)),
}


@functools.cache
def viewed(view, kind, traced):
    """A net, three inputs, and its graph, traced with so many samples."""
    a = LinfDistConv2d(2, 3, 2) if kind == "ours" else nn.Conv2d(2, 3, 2)
    net, x = Net(VIEWS[view], a, nn.Linear(48, 4)).eval(), torch.rand(3, 2, 5, 5)
    return net, x, BoundedModule(net, x[:traced], bound_opts=FEW)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["ours", "stock"])
@pytest.mark.parametrize("traced", [1, 2, 3])
@each_method
def test_views_that_name_the_number_of_samples(view, kind, traced, method):
    """The number that the trace has seen is another one."""
    net, x, bounded = viewed(view, kind, traced)
    holds(*compute_bounds(bounded, (ball(x),), method=method), net, x)
    holds(*bounded.compute_bounds(x=(ball(x[:2]),), method=method), net, x[:2])


class WithConstants(nn.Module):
    """It adds as many rows of zeros as there are samples."""

    def __init__(self):
        super().__init__()
        self.last = LinfDistLinear(8, 4)

    def forward(self, x):
        return self.last(torch.cat([x, torch.zeros(x.size(0), 2)], 1))


@each_method
def test_a_number_of_samples_that_is_a_constant_is_refused_by_name(method):
    net, x = WithConstants().eval(), torch.rand(3, 6)
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    if VERSION != "0.3":  # it keeps the number as a variable
        holds(*compute_bounds(bounded, (ball(x),), method=method), net, x)
        return
    message = r"x\[0\] must have 1 samples, got 3: .* make the BoundedModule with as many samples as you bound"
    with pytest.raises(ValueError, match=message):
        compute_bounds(bounded, (ball(x),), method=method)
    if method in ("CROWN", "CROWN-Optimized"):  # without intervals they read no values
        holds(*bounded.compute_bounds(x=(ball(x),), method=method), net, x)
    elif "IBP" in method:
        with pytest.raises(ValueError, match=message):
            bounded.compute_bounds(x=(ball(x),), method=method)
    holds(*compute_bounds(BoundedModule(net, x, bound_opts=FEW), (ball(x),), method=method), net, x)


# Jacobians.


@pytest.mark.parametrize("name", ["distance", "mean"])
def test_jacobians_are_refused_by_name(name):
    layer = LinfDistLinear(6, 6, bias=False) if name == "distance" else MeanShift(6)
    net, message = (
        nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 3)),
        "has no bounds of Jacobians: .*lipschitz_bound",
    )
    bounded = BoundedModule(net.eval(), torch.rand(1, 6))
    for node in bounded._modules.values():
        if type(node).__name__ in ("BoundLinfDist", "BoundShift"):
            with pytest.raises(NotImplementedError, match=message):
                node.build_gradient_node(torch.ones(1, 6))
    if VERSION == "0.3":  # it has no Jacobians
        return
    from auto_LiRPA.jacobian import JacobianOP

    whole = Net(lambda x, net: JacobianOP.apply(net(x), x), net).eval()
    with pytest.raises(NotImplementedError, match=message):
        BoundedModule(whole, torch.rand(1, 6).requires_grad_())


# α-CROWN of stock nets.


def test_shortcuts_that_fail_are_named(monkeypatch):
    net, x = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval(), torch.rand(3, 6)
    with_shortcuts = dict.fromkeys(WITHOUT_SHORTCUTS, True)
    bounded, unchanged = BoundedModule(net, x[:1], bound_opts=with_shortcuts), BoundedModule(net, x[:1])

    def fail(self, *args, method=None, **options):
        if method == "CROWN-Optimized":
            raise AssertionError
        return compute(self, *args, method=method, **options)

    compute = BoundedModule.compute_bounds
    monkeypatch.setattr(BoundedModule, "compute_bounds", fail)
    with pytest.raises(RuntimeError, match="sparse_intermediate_bounds"):
        compute_bounds(bounded, (ball(x),), method="CROWN-Optimized")
    with pytest.raises(AssertionError):
        compute_bounds(unchanged, (ball(x),), method="CROWN-Optimized")
    assert compute_bounds(bounded, (ball(x),), method="CROWN")[0].isfinite().all()
