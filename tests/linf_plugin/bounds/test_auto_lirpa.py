"""Inside auto_LiRPA: intervals are the rules', weights are shared, and nothing else is touched."""

import math
import subprocess
import sys

import pytest
import torch
from nets import ball, make
from torch import nn

from linf_plugin import SortDistLinear
from linf_plugin.bounds import versions
from linf_plugin.kernels import reference
from linf_plugin.layers.lipschitz import lipschitz_bound

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm


@pytest.fixture
def float64():
    """Rounding then is far below what the tests look for."""
    with versions.float64_by_default():
        yield


@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP", "CROWN"])
@pytest.mark.parametrize("function", (nn.Tanh, nn.Sigmoid))
def test_bounds_of_saturated_neurons_hold(function, method, float64):
    """Inputs from beyond ±500, where auto_LiRPA 0.3 clips them."""
    ends = torch.tensor([[-2000.0, 3], [-3, 2000], [-2000, -600], [600, 2000], [-1000, 4000], [-10, 10]])
    net = nn.Sequential(nn.Linear(1, 6), function()).eval()
    with torch.no_grad():
        net[0].weight[:, 0], net[0].bias[:] = ends.diff(dim=1)[:, 0] / 2, ends.mean(1)
    weights = torch.eye(6).repeat(1, 2, 1)
    weights[:, 6:, :] -= 0.5  # a sum over all of them
    lower, upper = BoundedModule(net, torch.zeros(1, 1)).compute_bounds(
        x=(BoundedTensor(torch.zeros(1, 1), PerturbationLpNorm(norm=math.inf, eps=1.0)),), C=weights, method=method
    )
    with torch.no_grad():
        y = net(torch.linspace(-1, 1, 4001).unsqueeze(1)) @ weights[0].t()
    assert (lower <= y + 1e-9).all() and (y <= upper + 1e-9).all()


@pytest.mark.parametrize("name", ("mlp", "sortnet"))
def test_interval_bounds_of_a_distance_net_are_within_the_lipschitz_bound(name, float64):
    net, x = make(name)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method="IBP")
    y, reach = net(x), lipschitz_bound(net, math.inf) * 0.05
    assert (lower >= y - reach - 1e-9).all() and (upper <= y + reach + 1e-9).all()


@pytest.mark.parametrize("p", [8.0, math.inf], ids=lambda p: f"p={p:g}")
def test_intervals_of_sorted_sums_are_their_rule_whatever_p_is(p, float64):
    net = nn.Sequential(SortDistLinear(6, 4, p=p, rho=0.4, k=3)).double().eval()
    x = torch.rand(3, 6)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method="IBP")
    ends = (x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)
    for ours, theirs in zip((lower, upper), reference.box_sorted_dist(*ends, net[0].weight, 0.4, 3)):
        assert torch.equal(ours, theirs + net[0].bias)


def test_an_optimiser_over_the_bounded_module_moves_the_net():
    net, x = make("mlp")
    bounded = BoundedModule(net, x[:1])
    before = net(x)
    optimizer = torch.optim.SGD(bounded.parameters(), lr=0.1)
    _, upper = bounded.compute_bounds(x=(ball(x),), method="IBP")
    upper.sum().backward()
    optimizer.step()
    assert not torch.equal(net(x), before)
    assert torch.equal(bounded(x), net(x))


def run(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs)


def test_importing_leaves_everything_else_alone():
    done = run(
        """
import sys, warnings
import torch, torch.onnx.symbolic_helper, numpy
import sympy  # torch imports it when it needs it, and it adds a warning filter
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS
opset, filters = GLOBALS.export_onnx_opset_version, list(warnings.filters)
names = set(dir(torch.onnx.symbolic_helper)), set(dir(torch._C.Node)), set(dir(numpy.lib))
import linf_plugin.bounds
from linf_plugin import build
from auto_LiRPA import BoundedModule
net = build("linf-mlp", shape=(1, 2, 2), classes=2, width=3, depth=2).eval()
BoundedModule(net, torch.zeros(1, 1, 2, 2))
assert GLOBALS.export_onnx_opset_version == opset
assert warnings.filters == filters
assert "numpy.lib.arraysetops" not in sys.modules
now = set(dir(torch.onnx.symbolic_helper)), set(dir(torch._C.Node)), set(dir(numpy.lib))
assert now == names
assert torch.get_default_dtype() == torch.float32
print("done")
"""
    )
    assert done.returncode == 0 and done.stdout == "done\n", done.stderr
    assert done.stderr == ""


def test_without_auto_lirpa_one_message_says_how_to_install_it():
    done = run(
        """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "auto_LiRPA" else find(name, *rest)
import linf_plugin
try:
    import linf_plugin.bounds
except ImportError as error:
    print(error)
"""
    )
    assert done.returncode == 0, done.stderr
    assert "pip install --no-deps auto-LiRPA==0.3" in done.stdout
