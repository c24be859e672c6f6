"""Bounds of hidden nodes: they are those of the net that is cut there, by every method and for every specification."""

import functools
import math

import pytest
import torch
from nets import ball, within
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear
from linf_plugin.bounds import compute_bounds, versions
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS

from auto_LiRPA import BoundedModule

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
OPTIONS = {"optimize_bound_args": {"iteration": 3}, **WITHOUT_SHORTCUTS}
ROUNDING = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning")

NETS = {  # name → (shape of a sample, layers)
    "vectors": ((6,), (LinfDistLinear(6, 5), MeanShift(5), LinfDistLinear(5, 5), nn.Tanh(), nn.Linear(5, 4))),
    "images": ((2, 5, 4), (LinfDistConv2d(2, 3, 2), nn.Conv2d(3, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 4))),
    "images of distances": (
        (2, 4, 5),
        (nn.Conv2d(2, 3, 2), nn.ReLU(), LinfDistConv2d(3, 2, 2), nn.Flatten(), LinfDistLinear(12, 4)),
    ),
    "further dimensions": (
        (2, 6),
        (
            LinfDistLinear(6, 5),
            nn.Linear(5, 5),
            nn.ReLU(),
            SortDistLinear(5, 4, rho=0.5, k=3),
            nn.Flatten(),
            nn.Linear(8, 3),
        ),
    ),
}


@pytest.fixture(autouse=True)
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


def bounded_module(net, x):
    return BoundedModule(net, x[:1], bound_opts=OPTIONS)


def holds(lower, upper, net, x, C=None):
    assert within(lower, upper, net, x, C, samples=40, rounding=ROUNDING)


def places(name):
    """Returns a net, three inputs, and how many layers come before each place in it."""
    shape, layers = NETS[name]
    net = nn.Sequential(*layers).to(torch.get_default_dtype()).eval()
    return net, torch.rand(3, *shape), range(1, len(layers))


@functools.cache
def traced(name):
    """Three inputs, the graph of the whole net, and for each place the part before it, its graph and its node there."""
    torch.manual_seed(0)
    net, x, layers = places(name)
    whole = bounded_module(net, x)
    operations = [node.name for node in whole._modules.values() if node.inputs]
    found = []
    for i in layers:
        part = net[:i].eval()
        cut = bounded_module(part, x)
        found.append((part, cut, operations[sum(1 for node in cut._modules.values() if node.inputs) - 1]))
    return x, whole, found


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("by_itself", [True, False], ids=["auto_LiRPA", "ours"])
@each_method
def test_bounds_of_a_hidden_node_are_those_of_the_net_cut_there(name, by_itself, method):
    x, whole, found = traced(name)

    def bounds(bounded, C=None, **options):
        if by_itself:
            return bounded.compute_bounds(x=(ball(x),), C=C, method=method, **options)
        return compute_bounds(bounded, (ball(x),), C, method, **options)

    for i, (part, cut, here) in enumerate(found):
        y = part(x)
        lower, upper = bounds(whole, final_node_name=here)
        assert lower.shape == upper.shape == y.shape
        holds(lower, upper, part, x)
        for ours, theirs in zip((lower, upper), bounds(cut)):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
        rows = y[0].numel() if i % 2 else 2  # at every second place as many as the node has numbers
        C = torch.randn(3, rows, y[0].numel())
        lower, upper = bounds(whole, C, final_node_name=here)
        assert by_itself or lower.shape == upper.shape == (3, rows)
        lower, upper = lower.reshape(3, rows), upper.reshape(3, rows)
        holds(lower, upper, part, x, C)
        for ours, theirs in zip((lower, upper), bounds(cut, C)):
            torch.testing.assert_close(ours, theirs.reshape(3, rows), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("method", ["CROWN", "CROWN-Optimized"])
def test_output_only_and_one_side_alone_work_for_hidden_nodes(name, method):
    net, x, _ = places(name)
    bounded = bounded_module(net, x)
    bounded.compute_bounds(x=(ball(x),), method="IBP")  # it finds out which nodes are perturbed
    for node in [node for node in bounded._modules.values() if node.inputs and node.perturbed]:
        both = compute_bounds(bounded, (ball(x),), None, method, output_only=True, final_node_name=node.name)
        least, most = compute_bounds(bounded, (ball(x),), None, "IBP", final_node_name=node.name)
        assert both[0].shape == least.shape == (3, *node.output_shape[1:])
        assert (both[0] >= least).all() and (both[1] <= most).all()
        lower, nothing = compute_bounds(bounded, (ball(x),), None, method, bound_upper=False, final_node_name=node.name)
        assert nothing is None and lower.shape == least.shape


@each_method
def test_bounds_of_an_input_are_its_box_and_of_a_weight_its_value(method):
    net, x, _ = places("vectors")
    bounded, box = bounded_module(net, x), ball(x)
    names = {type(node).__name__: node.name for node in bounded._modules.values() if not node.inputs}
    lower, upper = compute_bounds(bounded, (box,), None, method, final_node_name=names["BoundInput"])
    assert torch.equal(lower, box.ptb.x_L) and torch.equal(upper, box.ptb.x_U)
    weight = bounded[names["BoundParams"]].param
    lower, upper = compute_bounds(bounded, (box,), None, method, final_node_name=names["BoundParams"])
    assert torch.equal(lower, weight) and torch.equal(upper, weight)


def test_a_specification_has_as_many_outputs_as_the_node_has_numbers():
    net, x, _ = places("images")
    bounded = bounded_module(net, x)
    node = next(node for node in bounded._modules.values() if type(node).__name__ == "BoundLinfDistConv2d")
    outputs = math.prod(node.output_shape[1:])
    with pytest.raises(ValueError, match=f"C must have {outputs} outputs"):
        compute_bounds(bounded, (ball(x),), torch.ones(3, 2, outputs - 1), "CROWN", final_node_name=node.name)
