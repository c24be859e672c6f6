"""Layers with noise: its distribution, its seed, and that everything without a probability refuses them by name."""

import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
import linf_plugin.bounds
from linf_plugin.certificates import certify, exact_radius
from linf_plugin.float32.reach import reach
from linf_plugin.intervals import interval
from linf_plugin.layers.facts import FACTS, RANDOM

from auto_LiRPA import BoundedModule

SIZES = {"sigma": lp.GaussianNoise, "scale": lp.LaplaceNoise, "radius": lp.UniformNoise}
each_kind = pytest.mark.parametrize("size, kind", SIZES.items(), ids=SIZES)
CDF = {
    "sigma": lambda t: 0.5 * (1 + torch.erf(t / math.sqrt(2))),
    "scale": lambda t: torch.where(t < 0, 0.5 * t.exp(), 1 - 0.5 * (-t).exp()),
    "radius": lambda t: ((t + 1) / 2).clamp(0, 1),
}


def test_every_random_layer_is_here():
    assert set(RANDOM) == set(SIZES.values())
    assert all(list(FACTS[kind].needed) == [size] for size, kind in SIZES.items())


@each_kind
@pytest.mark.parametrize("training", (True, False), ids=("training", "evaluation"))
def test_the_noise_has_its_distribution(size, kind, training):
    """By the largest distance of the distribution functions (Kolmogorov–Smirnov), in both modes."""
    torch.manual_seed(3)
    n, x = 20_000, torch.full((20_000, 1), 0.25, dtype=torch.float64)
    noise = ((kind(0.3).train(training)(x) - x) / 0.3).flatten().sort().values
    steps = torch.arange(n, dtype=torch.float64)
    exact = CDF[size](noise)
    distance = torch.maximum((exact - steps / n).abs(), ((steps + 1) / n - exact).abs()).max()
    assert distance < 1.95 / math.sqrt(n)  # it is exceeded with a probability of 1e-3


@each_kind
def test_values_are_independent_in_samples_and_places(size, kind):
    torch.manual_seed(0)
    noise = kind(1.0)(torch.zeros(20_000, 2, 3, dtype=torch.float64)).flatten(1)
    correlation = torch.corrcoef(noise.t()) - torch.eye(6, dtype=torch.float64)
    assert correlation.abs().max() < 4.5 / math.sqrt(20_000)


@each_kind
def test_a_seed_fixes_it_for_every_layout(size, kind):
    layer, x = kind(0.5), torch.rand(4, 6, 3)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    torch.manual_seed(1)
    assert torch.equal(layer(strided), first)
    torch.manual_seed(1)
    assert torch.equal(nn.Sequential(layer)(x), first)


@each_kind
def test_size_zero_is_the_identity_and_draws_nothing(size, kind):
    x, before = torch.rand(3, 4), torch.get_rng_state()
    assert kind(0.0)(x) is x and kind(0)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


@each_kind
def test_the_gradient_passes(size, kind):
    x = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 4, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((kind(0.5)(x) * weights).sum(), x)
    assert torch.equal(gradient, weights)


@each_kind
def test_shapes_and_dtypes_stay(size, kind):
    for shape in ((0, 3), (2, 0), (1, 1), (2, 3, 4, 5)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            y = kind(0.5)(torch.zeros(shape, dtype=dtype))
            assert y.shape == shape and y.dtype == dtype and y.isfinite().all()


@each_kind
@pytest.mark.parametrize("value", (-0.1, math.nan, math.inf, "0.1", None, True, torch.tensor(0.1)), ids=str)
def test_wrong_sizes_are_refused_by_name(size, kind, value):
    with pytest.raises((TypeError, ValueError), match=f"^{size} must be"):
        kind(value)
    spec = {"input_shape": [2], "layers": [[FACTS[kind].name, {size: value}]]}
    with pytest.raises((TypeError, ValueError), match=f"{size} of layer 0 of spec, {FACTS[kind].name}, must be"):
        lp.Net(spec)


@each_kind
@pytest.mark.parametrize("x", (torch.zeros(2, 2, dtype=torch.long), [0.5], None), ids=("integers", "list", "None"))
def test_wrong_inputs_are_refused_by_name(size, kind, x):
    with pytest.raises(TypeError, match="^x must be a floating-point tensor, got"):
        kind(0.1)(x)


def net_of(kind, size):
    torch.manual_seed(0)
    layers = [["linear", {"in_features": 4, "out_features": 5}], [FACTS[kind].name, {size: 0.2}], ["relu", {}]]
    return lp.Net({"input_shape": [4], "layers": [*layers, ["linear", {"in_features": 5, "out_features": 3}]]}).eval()


@each_kind
def test_a_net_is_rebuilt_saved_and_loaded(size, kind, tmp_path):
    net, x = net_of(kind, size), torch.rand(3, 4)
    lp.save(tmp_path / "net.pt", net)
    for other in (lp.Net(net.spec), lp.load(tmp_path / "net.pt")[0]):
        other.load_state_dict(net.state_dict())
        outputs = []
        for each in (net, other.eval()):
            torch.manual_seed(5)
            outputs.append(each(x))
        assert torch.equal(*outputs) and repr(other[1]) == f"{kind.__name__}({size}=0.2)"
    with pytest.raises(RuntimeError, match=f"{size}=0.2 there, 0.3 here"):
        kind(0.3).load_state_dict(kind(0.2).state_dict())


@each_kind
def test_nothing_without_a_probability_is_said_of_it(size, kind):
    net, x = net_of(kind, size), torch.rand(3, 4)
    y = torch.zeros(3, dtype=torch.long)
    refused = f"for {kind.__name__}: it draws noise at each call, so only certificates with a probability hold"
    for ask in (
        lambda: lp.lipschitz_bound(net, math.inf),
        lambda: interval(net[1], (x, x)),
        lambda: reach(net, x.double(), x.double()),
        lambda: BoundedModule(net, x),
        lambda: exact_radius(net, x[0]),
        lambda: certify(net, x, y, 0.01),
        lambda: certify(net, x, y, 0.01, sound=False),
        lambda: lp.sound_radius(net, x, y, norm=2),
    ):
        with pytest.raises(TypeError, match=refused):
            ask()
