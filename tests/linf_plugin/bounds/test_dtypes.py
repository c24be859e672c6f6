"""Bounds are computed in the dtype of the inputs, whatever the default dtype is."""

import pytest
import torch
from nets import ball, within
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.bounds.dtypes import default_dtype
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS

from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
FEW = {"optimize_bound_args": {"iteration": 3}, **WITHOUT_SHORTCUTS}  # one of the nets is not ours
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-9}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning"),
    pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]

NETS = {  # name → (shape of a sample, layers)
    "distances": ((6,), lambda: (LinfDistLinear(6, 5), MeanShift(5), LinfDistLinear(5, 4))),
    "p=2": ((6,), lambda: (LinfDistLinear(6, 5, p=2.0), LinfDistLinear(5, 4, p=2.0))),
    "sorted": ((6,), lambda: (SortDistLinear(6, 5, rho=0.5, k=3), nn.Linear(5, 4))),
    "tanh": ((6,), lambda: (LinfDistLinear(6, 5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 4))),
    "images": (
        (2, 5, 5),
        lambda: (LinfDistConv2d(2, 3, 2), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)),
    ),
    "pool": ((2, 5, 5), lambda: (LinfDistConv2d(2, 3, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4))),
    "further dimensions": (
        (2, 6),
        lambda: (LinfDistLinear(6, 5), nn.Linear(5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)),
    ),
    "stock": ((6,), lambda: (nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 5), nn.Sigmoid(), nn.Linear(5, 4))),
}
each_net = pytest.mark.parametrize("name", NETS)


def make(name, dtype=torch.float64):
    shape, layers = NETS[name]
    return nn.Sequential(*layers()).to(dtype).eval(), torch.rand(3, *shape, dtype=dtype)


def holds(lower, upper, net, x):
    assert within(lower, upper, net, x, samples=40, rounding=ROUNDING[x.dtype])


@each_net
@each_method
def test_a_float64_net_has_the_same_bounds_whatever_the_default_is(name, method):
    net, x = make(name)
    C = torch.randn(3, 2, 4, dtype=torch.float64)
    with versions.float64_by_default():
        wanted = [compute_bounds(BoundedModule(net, x[:1], bound_opts=FEW), (ball(x),), c, method) for c in (None, C)]
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    for c, theirs in zip((None, C), wanted):
        found = compute_bounds(bounded, (ball(x),), c, method)
        for ours in (found, bounded.compute_bounds(x=(ball(x),), C=c, method=method)):
            assert ours[0].dtype == ours[1].dtype == torch.float64
            if c is None:
                holds(*ours, net, x)
        for end, other in zip(found, theirs):
            torch.testing.assert_close(end, other, rtol=0, atol=1e-12)
    assert torch.get_default_dtype() == torch.float32
    assert bounded(x).dtype == torch.float64


@each_net
@each_method
def test_a_float32_net_is_bounded_while_float64_is_the_default(name, method):
    net, x = make(name, torch.float32)
    with versions.float64_by_default():
        bounded = BoundedModule(net, x[:1], bound_opts=FEW)
        for lower, upper in (
            compute_bounds(bounded, (ball(x),), None, method),
            bounded.compute_bounds(x=(ball(x),), method=method),
        ):
            assert lower.dtype == upper.dtype == torch.float32
            holds(lower, upper, net, x)
        assert torch.get_default_dtype() == torch.float64


@each_method
def test_hidden_nodes_and_remembered_inputs_of_a_float64_net(method):
    net, x = make("images")
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    hidden = next(node.name for node in bounded._modules.values() if type(node).__name__ == "BoundConv")
    holds(*compute_bounds(bounded, (ball(x),), None, method, final_node_name=hidden), net[:2], x)
    if method != "CROWN-Optimized":  # auto_LiRPA wants the inputs again for it
        bounded.compute_bounds(x=(ball(x),), method=method)
        holds(*bounded.compute_bounds(method=method), net, x)


def test_bounds_of_a_float64_net_can_be_trained():
    net, x = make("tanh")
    lower, _ = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method="CROWN", bound_upper=False)
    lower.sum().backward()
    assert all(a.grad.dtype == torch.float64 and a.grad.isfinite().all() for a in net.parameters())


def test_the_default_comes_back_after_an_error():
    net, x = make("distances")
    bounded = BoundedModule(net, x[:1])
    with pytest.raises(ValueError, match="method must be one of"):
        bounded.compute_bounds(x=(ball(x),), method="nonsense")
    with pytest.raises(RuntimeError):
        bounded.compute_bounds(x=(ball(x),), C=torch.ones(9, 9, 9), method="CROWN")
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("dtype", [None, torch.int64, torch.complex64, torch.float32])
def test_what_cannot_be_the_default_changes_nothing(dtype):
    with default_dtype(dtype):
        assert torch.get_default_dtype() == torch.float32


def test_the_weights_of_a_pool_are_those_of_its_dtype():
    """In float32 they would add up to 1 only to 1e-7."""
    net, x = make("pool")
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    bounded.compute_bounds(x=(ball(x),), method="CROWN-Optimized", bound_upper=False)
    pool = next(node for node in bounded._modules.values() if type(node).__name__ == "BoundMaxPool")
    assert pool.alpha and all(a.dtype == torch.float64 and a.shape[2] == 3 for a in pool.alpha.values())
