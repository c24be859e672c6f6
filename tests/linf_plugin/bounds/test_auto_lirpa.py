"""Inside auto_LiRPA: bounds hold, changes are noticed, and nothing else is touched."""

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import (
    LinfDistConv2d,
    LinfDistLinear,
    MeanShift,
    SortDistLinear,
    build,
    compat,
    reestimate_means,
    set_p,
)
from linf_plugin.kernels import reference

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # isort: skip

METHODS = ("IBP", "CROWN-IBP", "CROWN")
NETS = {  # name → (input shape, net)
    "mlp": ((1, 5, 5), lambda: build("linf-mlp", shape=(1, 5, 5), classes=4, width=12, depth=3, mean=(0.3,), std=0.4)),
    "head": (
        (1, 5, 5),
        lambda: build("linf-mlp-head", shape=(1, 5, 5), classes=4, width=12, depth=2, hidden=6, mean=(0.3,), std=0.4),
    ),
    "sortnet": (
        (1, 5, 5),
        lambda: build(
            "sortnet-mlp", shape=(1, 5, 5), classes=4, width=12, depth=3, rho=0.5, k=4, mean=(0.3,), std=0.4
        ),
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
            "linf-conv", shape=(3, 6, 6), classes=4, channels=(5, 6), strides=(1, 2), width=8, hidden=5,
            mean=(0.1, 0.2, 0.3), std=0.25,
        ),
    ),
    "conv-distance": (
        (2, 5, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), LinfDistLinear(75, 7), MeanShift(7),
            LinfDistLinear(7, 4),
        ),
    ),
    "conv-distance-conv": (
        (2, 5, 5),
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), LinfDistConv2d(3, 4, 2, padding=1), MeanShift(4), nn.ReLU(), nn.Conv2d(4, 2, 2),
            nn.ReLU(), nn.Flatten(), nn.Linear(18, 4),
        ),
    ),
    "groups": (
        (4, 5, 6),
        lambda: nn.Sequential(
            LinfDistConv2d(4, 6, (2, 3), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2), nn.Flatten(),
            nn.Linear(36, 4),
        ),
    ),
    "relu": ((1, 5, 5), lambda: build("relu-conv", shape=(1, 5, 5), classes=4, channels=(3,), strides=(2,), width=6)),
}
each_net = pytest.mark.parametrize("name", NETS)
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def float64():
    """Rounding then is far below what the tests look for."""
    with compat.float64_by_default():
        yield


def make(name, p=math.inf):
    """A net with random means in evaluation mode, and three inputs."""
    shape, builder = NETS[name]
    net = builder().to(torch.get_default_dtype())
    for m in net.modules():
        if isinstance(m, MeanShift):
            m.running_mean.copy_(torch.randn_like(m.running_mean))
    set_p(net, p)
    return net.eval(), torch.rand(3, *shape)


def ball(x, eps=0.05):
    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1)))


def perturbed(x, eps=0.05, samples=200):
    """Random points and corners of the ball within the pixel range."""
    for i in range(samples):
        at = torch.rand_like(x)
        low, high = (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)
        yield low + (at.round() if i % 2 else at) * (high - low)


# auto_LiRPA 0.7.1 says that p = 2 leaves a tanh with loose bounds, as it does.
@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
@each_net
@each_method
@pytest.mark.parametrize("p", [2.0, 8.0, math.inf], ids=lambda p: f"p={p:g}")
def test_bounds_hold(name, method, p, float64):
    net, x = make(name, p)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method=method)
    assert lower.shape == upper.shape == (3, 4)
    with torch.no_grad():
        for point in perturbed(x):
            y = net(point)
            assert (lower <= y + 1e-9).all() and (y <= upper + 1e-9).all()


@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
@each_method
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


@each_net
@each_method
def test_a_specification_bounds_differences(name, method, float64):
    net, x = make(name)
    C = torch.tensor([[1.0, -1, 0, 0], [0, 1, 0, -2]]).expand(3, 2, 4)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), C=C, method=method)
    with torch.no_grad():
        for point in perturbed(x):
            y = (C @ net(point).unsqueeze(2)).squeeze(2)
            assert (lower <= y + 1e-9).all() and (y <= upper + 1e-9).all()


@each_net
@each_method
def test_a_ball_of_radius_zero_gives_the_output(name, method, float64):
    net, x = make(name)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x, 0.0),), method=method)
    torch.testing.assert_close(lower, net(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(upper, net(x), rtol=0, atol=1e-9)


@each_method
def test_bounds_of_a_batch_are_those_of_its_samples(method, float64):
    net, x = make("distance-conv")
    bounded = BoundedModule(net, x[:1])
    together = bounded.compute_bounds(x=(ball(x),), method=method)
    for i in range(3):
        alone = bounded.compute_bounds(x=(ball(x[i : i + 1]),), method=method)
        for ours, theirs in zip(alone, together):
            torch.testing.assert_close(ours[0], theirs[i], rtol=0, atol=1e-9)


@pytest.mark.parametrize("conv_mode", ["patches", "matrix"])
def test_both_forms_of_coefficients_give_the_same_bounds(conv_mode, float64):
    """Batch size 4 and 4 channels, which broadcast with each other where they are confused."""
    torch.manual_seed(1)
    net, _ = make("conv-distance-conv")
    x = torch.rand(4, 2, 5, 5)
    bounds = [
        BoundedModule(net, x[:1], bound_opts={"conv_mode": mode}).compute_bounds(x=(ball(x),), method="CROWN")
        for mode in (conv_mode, "matrix")
    ]
    for ours, theirs in zip(*bounds):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ("mlp", "sortnet"))
def test_interval_bounds_of_a_distance_net_are_within_the_lipschitz_bound(name, float64):
    net, x = make(name)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method="IBP")
    y, reach = net(x), net.lipschitz * 0.05
    assert (lower >= y - reach - 1e-9).all() and (upper <= y + reach + 1e-9).all()


@pytest.mark.parametrize("p", [8.0, math.inf], ids=lambda p: f"p={p:g}")
def test_intervals_of_sorted_sums_are_their_rule_whatever_p_is(p, float64):
    net = nn.Sequential(SortDistLinear(6, 4, p=p, rho=0.4, k=3)).double().eval()
    x = torch.rand(3, 6)
    lower, upper = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x),), method="IBP")
    ends = (x - 0.05).clamp(0, 1), (x + 0.05).clamp(0, 1)
    for ours, theirs in zip((lower, upper), reference.box_sorted_dist(*ends, net[0].weight, 0.4, 3)):
        assert torch.equal(ours, theirs + net[0].bias)


@pytest.mark.parametrize("name", ("head", "sortnet-head"))
@each_method
def test_gradients_reach_the_weights(name, method):
    net, x = make(name)
    bounded = BoundedModule(net, x[:1])
    lower, upper = bounded.compute_bounds(x=(ball(x),), method=method)
    (upper - lower).sum().backward()
    for layer in net.modules():
        if isinstance(layer, (LinfDistLinear, SortDistLinear)):
            assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0


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


@pytest.mark.parametrize("norm", [2, 4])
@each_method
def test_other_norms_are_refused(norm, method):
    net, x = make("mlp")
    with pytest.raises(ValueError, match=f"norm={norm}"):
        other = BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=0.1))
        BoundedModule(net, x[:1]).compute_bounds(x=(other,), method=method)


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
def test_a_perturbed_weight_is_refused(method):
    net, x = make("mlp")
    bounded = BoundedModule(net, x[:1])
    weight = next(n for n in bounded._modules.values() if getattr(n, "ori_name", "") == "2.weight")
    weight.perturbation = PerturbationLpNorm(norm=math.inf, eps=0.01)
    with pytest.raises(ValueError, match="weight"):
        bounded.compute_bounds(x=(ball(x),), method=method)


def test_a_net_in_training_mode_is_refused():
    net, x = make("mlp")
    with pytest.raises(ValueError, match="training mode"):
        BoundedModule(net.train(), x[:1])


def change_p(net, x):
    set_p(net, 8.0)


def change_means(net, x):
    reestimate_means(net, [x + 1])


def change_mode(net, x):
    net.train()


@pytest.mark.parametrize("change", [change_p, change_means, change_mode])
def test_a_change_after_tracing_is_noticed(change):
    net, x = make("mlp")
    bounded = BoundedModule(net, x[:1])
    bounded.compute_bounds(x=(ball(x),), method="IBP")
    change(net, x)
    for stale in (lambda: bounded.compute_bounds(x=(ball(x),), method="IBP"), lambda: bounded(x)):
        with pytest.raises(RuntimeError, match="layer '"):
            stale()
    net.eval()
    fresh = BoundedModule(net, x[:1]).compute_bounds(x=(ball(x, 0.0),), method="IBP")
    torch.testing.assert_close(fresh[0], net(x), rtol=0, atol=1e-5)


def test_a_net_without_our_layers_may_be_in_training_mode():
    net, x = make("relu")
    lower, upper = BoundedModule(net.train(), x[:1]).compute_bounds(x=(ball(x),), method="IBP")
    assert (lower <= net(x)).all() and (net(x) <= upper).all()


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
