"""The layers: their invariant, their shapes, their state; and what a model does with all of them."""

import copy
import math
import pickle

import pytest
import torch
from cases import INF, few_p, value_tolerance
from torch import nn

from linf_plugin import build
from linf_plugin.kernels import reference
from linf_plugin.kernels.geometry import Geometry
from linf_plugin.layers import base
from linf_plugin.layers.base import set_p
from linf_plugin.layers.distance import LinfDistConv2d, LinfDistLinear
from linf_plugin.layers.lipschitz import flat_layers, lipschitz_bound
from linf_plugin.layers.shifts import CenterCrop, MeanShift, Negate, Normalize, reestimate_means
from linf_plugin.layers.sort import SortDistLinear, random_subsets
from linf_plugin.state import constants, tensors

NAN = math.nan


def _shifted(features, means):
    shift = MeanShift(features)
    shift.running_mean.copy_(torch.as_tensor(means))
    return shift.eval()


LAYERS = {  # layer for a given p, shape of one sample
    "linear": (lambda p: LinfDistLinear(6, 5, p=p), (6,)),
    "linear-identity": (lambda p: LinfDistLinear(3, 5, p=p, identity_init=True), (3,)),
    "sorted": (lambda p: SortDistLinear(6, 5, p=p, rho=0.4, k=3).eval(), (6,)),
    "sorted-all": (lambda p: SortDistLinear(3, 5, p=p, rho=0.7, identity_init=True).eval(), (3,)),
    "sorted-rho-1": (lambda p: SortDistLinear(6, 5, p=p, rho=1).eval(), (6,)),
    "conv": (lambda p: LinfDistConv2d(2, 3, 3, p=p), (2, 4, 5)),
    "conv-everything": (lambda p: LinfDistConv2d(4, 6, (2, 3), (1, 2), (1, 0), (2, 1), groups=2, p=p), (4, 5, 6)),
    "mean-shift": (lambda p: _shifted(3, [0.5, -2.0, 0.0]), (3, 2, 2)),
    "normalize": (lambda p: Normalize([0.1, 0.2, 0.3], 0.25), (3, 2, 2)),
    "crop": (lambda p: CenterCrop(2), (3, 4, 5)),
    "negate": (lambda p: Negate(), (4,)),
}
each_layer = pytest.mark.parametrize("make, shape", LAYERS.values(), ids=LAYERS)


# The invariant.


@few_p
@each_layer
def test_lipschitz_is_never_exceeded(make, shape, p):
    layer = make(p).double()
    x = torch.randn(50, *shape, dtype=torch.float64)
    for step in (torch.randn_like(x), torch.randn_like(x).sign(), torch.ones_like(x)):
        for size in (1e-3, 1.0, 10.0):
            change = (layer(x + size * step) - layer(x)).flatten(1).abs().amax(1)
            bound = lipschitz_bound(layer, math.inf) * size * step.flatten(1).abs().amax(1)
            assert (change <= bound + 1e-12).all()  # the values, up to 100, are rounded to 1e-14


@few_p
@pytest.mark.parametrize("name", ("linear", "conv", "conv-everything"))
def test_lipschitz_is_attained(name, p):
    """From w_k + 1 to w_k + 2 every coordinate grows by 1, and ‖x − w_k‖_p by n^{1/p}."""
    layer = LAYERS[name][0](p).double()
    kernel = layer.weight[:1].detach()
    if isinstance(layer, LinfDistConv2d):  # one window: zero padding and further groups would add to it
        layer = LinfDistConv2d(kernel.shape[1], 1, kernel.shape[2:], p=p, dtype=torch.float64)
        layer.weight.data.copy_(kernel)
    growth = layer(kernel + 2).flatten()[0] - layer(kernel + 1).flatten()[0]
    assert growth.item() == pytest.approx(lipschitz_bound(layer, math.inf), rel=1e-14)


@pytest.mark.parametrize("name", ("sorted", "sorted-all", "sorted-rho-1"))
def test_lipschitz_of_sorted_sums_is_attained_but_for_rounded_coefficients(name):
    layer = LAYERS[name][0](INF).double()
    kernel = layer.weight[:1].detach()
    growth = layer(kernel + 2).flatten()[0] - layer(kernel + 1).flatten()[0]
    assert 1 - 1e-6 < growth.item() <= 1 + 1e-14


def test_lipschitz_values():
    assert lipschitz_bound(LinfDistLinear(16, 2), math.inf) == 1.0
    assert lipschitz_bound(LinfDistLinear(16, 2, p=2), math.inf) == 4.0
    assert lipschitz_bound(LinfDistConv2d(8, 4, (1, 4), groups=2, p=4.0), math.inf) == 2.0  # 4 channels × 4 pixels
    assert lipschitz_bound(SortDistLinear(16, 2, p=2, rho=0.5), math.inf) == 4.0  # in training, for any one subset
    assert (
        lipschitz_bound(SortDistLinear(16, 2, rho=0.5), math.inf)
        == lipschitz_bound(SortDistLinear(16, 2, p=2, rho=0.5).eval(), math.inf)
        == 1.0
    )
    assert lipschitz_bound(Normalize([0.0], 0.3), math.inf) == torch.tensor(1 / 0.3).item()  # as float32 has it
    assert (
        lipschitz_bound(MeanShift(3), math.inf)
        == lipschitz_bound(Negate(), math.inf)
        == lipschitz_bound(CenterCrop(3), math.inf)
        == 1.0
    )


def test_lipschitz_bound_of_stock_layers():
    linear, conv = nn.Linear(2, 2), nn.Conv2d(1, 1, (1, 3))
    linear.weight.data = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    conv.weight.data = torch.tensor([[[[-1.0, 2.0, 0.5]]]])
    assert lipschitz_bound(linear, math.inf) == 3.0 and lipschitz_bound(conv, math.inf) == 3.5
    net = nn.Sequential(LinfDistLinear(4, 2, p=2), nn.Sequential(linear, nn.ReLU(), nn.Tanh()), nn.Identity())
    assert lipschitz_bound(net, math.inf) == 6.0
    assert lipschitz_bound(nn.Sequential(), math.inf) == 1.0
    with pytest.raises(TypeError, match="GELU.*lipschitz"):
        lipschitz_bound(nn.Sequential(linear, nn.GELU()), math.inf)


def test_lipschitz_bound_of_a_forward_of_its_own_must_be_stated():
    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    net = Residual(nn.ReLU())
    for module in (net, nn.Sequential(net)):
        with pytest.raises(TypeError, match="Residual.*lipschitz"):
            lipschitz_bound(module, math.inf)
    net.lipschitz = 2.0  # a number that names no norm is not read
    with pytest.raises(TypeError, match=r"Residual: give it a method lipschitz_in\(norm\)"):
        lipschitz_bound(net, math.inf)
    net.lipschitz_in = lambda norm: 2.0 if norm == math.inf else 3.0
    assert lipschitz_bound(nn.Sequential(net, net), math.inf) == 4.0
    assert lipschitz_bound(nn.Sequential(net, net), "l2") == 9.0
    with pytest.raises(TypeError, match="Residual has a forward of its own"):
        flat_layers(nn.Sequential(net))


def test_flat_layers_are_in_order():
    a, b, c = nn.ReLU(), Negate(), nn.Identity()
    assert flat_layers(nn.Sequential(a, nn.Sequential(nn.Sequential(), b), c)) == [a, b, c]
    assert flat_layers(a) == [a]
    net = build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2)
    assert flat_layers(net) == list(net)


# Distance layers.


@few_p
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no-bias"))
@pytest.mark.parametrize("leading", ((), (4,), (1,), (0,), (2, 3), (2, 0), (2, 1, 3)), ids=str)
def test_linear_keeps_leading_dimensions(leading, bias, p):
    layer = LinfDistLinear(5, 3, bias, p).double()
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(*leading, 5, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (*leading, 3)
    expected = reference.dist(x.reshape(math.prod(leading), 5), layer.weight, p).reshape(*leading, 3)
    if bias:
        expected = expected + layer.bias
    torch.testing.assert_close(y, expected, rtol=value_tolerance(torch.float64, p, 5), atol=1e-14)  # sums up to 10


@few_p
def test_conv2d_on_one_pixel_is_linear(p):
    conv, linear = LinfDistConv2d(5, 3, 1, p=p), LinfDistLinear(5, 3, p=p)
    linear.weight.data.copy_(conv.weight.flatten(1))
    for layer in (conv, linear):
        layer.bias.data.copy_(torch.tensor([1.0, -2.0, 0.5]))
    x = torch.randn(4, 5)
    tolerance = value_tolerance(torch.float32, p, 5)
    torch.testing.assert_close(conv(x[..., None, None])[..., 0, 0], linear(x), rtol=tolerance, atol=10 * tolerance)


@few_p
def test_conv2d_is_a_loop_over_windows(p):
    layer = LinfDistConv2d(4, 6, (2, 3), (2, 1), (1, 2), (1, 2), groups=2, p=p).double()
    nn.init.normal_(layer.bias)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (2, 6, 3, 6)
    for n, k, i, j in torch.cartesian_prod(*map(torch.arange, y.shape)).tolist():
        distances = []
        for c in range(2):
            for a in range(2):
                for b in range(3):
                    row, column = 2 * i + a - 1, j + 2 * b - 2
                    inside = 0 <= row < 5 and 0 <= column < 6
                    pixel = x[n, 2 * (k // 3) + c, row, column].item() if inside else 0.0
                    distances.append(abs(pixel - layer.weight[k, c, a, b].item()))
        expected = max(distances) if p == INF else sum(d**p for d in distances) ** (1 / p)
        assert y[n, k, i, j].item() == pytest.approx(expected + layer.bias[k].item(), rel=1e-13, abs=1e-13)


def test_gradients_reach_weight_and_bias():
    for layer, x in ((LinfDistLinear(5, 3), torch.rand(4, 5)), (LinfDistConv2d(2, 3, 3), torch.rand(2, 2, 5, 5))):
        y = layer(x)
        y.sum().backward()
        assert torch.equal(layer.bias.grad, torch.full((3,), y[:, 0].numel()).float())
        # one coordinate a distance, with sign ±1
        assert layer.weight.grad.abs().sum() <= y.numel() and layer.weight.grad.any()


def test_identity_init_starts_as_a_copy():
    x = torch.rand(3, 4)
    y = LinfDistLinear(4, 10, bias=False, identity_init=True)(x)
    torch.testing.assert_close(y - 10, x.repeat(1, 3)[:, :10], rtol=0, atol=2e-6)  # 10 + x is rounded to 1e-6
    image = torch.rand(2, 3, 5, 6)
    for kernel, padding in ((3, 1), ((1, 5), (0, 2))):
        y = LinfDistConv2d(3, 7, kernel, padding=padding, bias=False, identity_init=True)(image)
        torch.testing.assert_close(y - 10, image.repeat(1, 3, 1, 1)[:, :7], rtol=0, atol=2e-6)


def test_identity_init_needs_as_many_outputs_as_inputs():
    assert LinfDistLinear(5, 4, identity_init=True).weight.min() > -10
    assert LinfDistLinear(4, 4).weight.min() > -10


def test_set_p_reaches_every_distance_layer():
    net = nn.Sequential(
        LinfDistLinear(4, 4), nn.Sequential(LinfDistConv2d(1, 1, 1), nn.Linear(4, 4)), SortDistLinear(4, 4, rho=0.5)
    )
    set_p(net, 8)
    assert [layer.p for layer in base.distance_layers(net)] == [8.0, 8.0, 8.0]
    assert lipschitz_bound(net[0], math.inf) == 4 ** (1 / 8)
    for bad, error in ((0.5, ValueError), (NAN, ValueError), ("8", TypeError)):
        with pytest.raises(error, match="^p must"):
            set_p(net, bad)
    assert net[1][0].p == 8.0
    with pytest.raises(ValueError, match="^p must"):
        net[0].p = 0


# Sorted sums at evaluation, distances on random subsets in training.


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no-bias"))
@pytest.mark.parametrize("leading", ((), (4,), (0,), (2, 3)), ids=str)
def test_evaluation_is_the_sorted_sum_whatever_p_is(leading, bias):
    layer = SortDistLinear(5, 3, bias, 8.0, rho=0.4, k=4).eval()
    if bias:
        nn.init.normal_(layer.bias)
    x = torch.randn(*leading, 5)
    y = layer(x)
    expected = reference.sorted_dist(x.reshape(-1, 5) if leading != (0,) else x, layer.weight, 0.4, 4)
    assert torch.equal(y, (expected + layer.bias if bias else expected).reshape(*leading, 3))
    set_p(layer, INF)
    assert torch.equal(layer(x), y)


@few_p
def test_rho_1_is_the_distance_neuron(p):
    sort, dist = SortDistLinear(7, 4, p=p, rho=1), LinfDistLinear(7, 4, p=p)
    dist.load_state_dict(constants(dist) | tensors(sort))
    x, before = torch.randn(40, 7), torch.get_rng_state()
    assert torch.equal(sort(x), dist(x))
    assert torch.equal(torch.get_rng_state(), before)
    set_p(dist, INF)
    assert torch.equal(sort.eval()(x), dist(x))


@few_p
@pytest.mark.parametrize("n", (1, 4, 11))
def test_training_takes_one_subset_a_group_of_samples(n, p):
    layer = SortDistLinear(9, 5, p=p, rho=0.5, group=4).double()
    x = torch.randn(n, 9, dtype=torch.float64)
    state = torch.get_rng_state()
    y = layer(x)
    torch.set_rng_state(state)
    subsets = random_subsets(-(-n // 4), 9, 0.5)
    assert n <= 4 or len(set(map(tuple, subsets.tolist()))) > 1
    for row, z in enumerate(y):
        kept = subsets[row // 4]
        expected = reference.dist(x[row : row + 1, kept], layer.weight[:, kept], p)[0] + layer.bias
        torch.testing.assert_close(z, expected, rtol=value_tolerance(torch.float64, p, 9), atol=0)
    assert not torch.equal(layer(x), y)  # other subsets


def test_training_on_no_samples():
    assert SortDistLinear(9, 5, rho=0.5)(torch.rand(0, 9)).shape == (0, 5)


def test_inputs_that_were_dropped_get_no_gradient():
    layer, x = SortDistLinear(40, 5, p=2, rho=0.5, group=2), torch.randn(2, 40, requires_grad=True)
    state = torch.get_rng_state()
    y = layer(x)
    torch.set_rng_state(state)
    (kept,) = random_subsets(1, 40, 0.5)
    for grad in torch.autograd.grad(y.sum(), (x, layer.weight)):
        assert torch.equal(grad.ne(0).all(0), kept) and torch.equal(grad.ne(0).any(0), kept)


@pytest.mark.parametrize("rho", (1e-12, 0.2, 0.5, 0.95, 1.0))
def test_subsets_are_random_and_never_empty(rho):
    count, features = 20000, 6
    kept = random_subsets(count, features, rho)
    assert kept.dtype == torch.bool and kept.device.type == "cpu" and kept.any(1).all()
    chance = 1 - (1 - rho) ** features if rho > 1e-9 else features * rho
    expected = count * rho / chance
    assert (kept.sum(0) - expected).abs().max() <= 5 * math.sqrt(expected) + 1e-6
    both = (kept[:, 1] & kept[:, 4]).sum().item()
    expected = count * rho**2 / chance
    assert abs(both - expected) <= 5 * math.sqrt(expected) + 1e-6
    if rho == 1e-12:
        assert (kept.sum(1) == 1).all()


@pytest.mark.parametrize("rho", (0.15, 0.6))
def test_the_mean_over_subsets_at_infinity_is_the_sorted_sum(rho):
    layer = SortDistLinear(12, 5, rho=rho, k=12, group=1).double()
    x = torch.randn(1, 12, dtype=torch.float64)
    with torch.no_grad():
        samples = layer(x.expand(4000, 12))
        expected = layer.eval()(x)[0]
    error = (samples.mean(0) - expected).abs()
    assert (error <= 5 * samples.std(0) / math.sqrt(4000)).all() and samples.std(0).min() > 0.01
    plain = reference.dist(x, layer.weight, INF)[0] + layer.bias
    assert ((samples.mean(0) - plain).abs() > error).all()


# Mean shift and normalisation.


def test_mean_shift_trains_on_batch_means_and_evaluates_on_the_running_mean():
    shift = MeanShift(3, momentum=0.25)
    x = torch.randn(6, 3, 2, 4) + 5
    mean = x.mean((0, 2, 3))
    y = shift(x)
    torch.testing.assert_close(y, x - mean[:, None, None], rtol=0, atol=0)
    torch.testing.assert_close(shift.running_mean, 0.25 * mean, rtol=1e-6, atol=0)
    before = shift.running_mean.clone()
    shift.eval()
    assert torch.equal(shift(x), x - before[:, None, None])
    assert torch.equal(shift.running_mean, before)


@pytest.mark.parametrize("shape", ((0, 3), (0, 3, 2, 2), (4, 3, 0, 2)), ids=str)
def test_mean_shift_of_nothing_leaves_the_mean(shape):
    shift = MeanShift(3)
    shift.running_mean.fill_(2.0)
    assert shift(torch.rand(shape)).shape == shape
    assert shift.running_mean.tolist() == [2.0] * 3


def test_mean_shift_gradient_goes_through_the_batch_mean():
    x, grad = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, 2).double()
    shift = MeanShift(3).double()
    (g,) = torch.autograd.grad(shift(x), x, grad)
    torch.testing.assert_close(g, grad - grad.mean((0, 2), keepdim=True), rtol=0, atol=1e-15)
    assert torch.equal(torch.autograd.grad(shift.eval()(x), x, grad)[0], grad)


def test_reestimated_means_weigh_samples_alike():
    shift = MeanShift(2)
    shift.running_mean.fill_(77.0)
    x = torch.randn(9, 2, dtype=torch.float64)
    reestimate_means(shift.double(), x.split((5, 0, 1, 3)))
    torch.testing.assert_close(shift.running_mean, x.mean(0), rtol=0, atol=1e-15)
    assert shift.samples_seen is None and shift.training


def test_reestimated_means_forget_the_old_ones():
    shift = MeanShift(2)
    shift.running_mean.fill_(NAN)  # of a batch that overflowed
    x = torch.rand(4, 2)
    reestimate_means(shift, [x])
    assert torch.equal(shift.running_mean, x.mean(0))


def test_reestimation_centres_every_layer():
    net = nn.Sequential(LinfDistLinear(4, 6), MeanShift(6), LinfDistLinear(6, 5), MeanShift(5)).double()
    x = torch.rand(20, 4, dtype=torch.float64)
    reestimate_means(net, [x])
    net.eval()
    for depth in (2, 4):
        assert net[:depth](x).mean(0).abs().max() < 1e-14


@pytest.mark.parametrize("raises", (False, True), ids=("returns", "raises"))
def test_reestimation_restores_the_modes(raises):
    net = nn.Sequential(MeanShift(2), nn.Dropout(), MeanShift(2), LinfDistLinear(2, 2)).train()
    net[0].eval()
    net[3].eval()
    modes = [m.training for m in net.modules()]
    seen = []
    net[1].register_forward_hook(lambda layer, *_: seen.append(layer.training))
    batches = [torch.rand(3, 2), torch.rand(3, 7 if raises else 2)]
    if raises:
        with pytest.raises(ValueError, match="x must have shape"):
            reestimate_means(net, batches)
    else:
        reestimate_means(net, batches)
    assert seen and not any(seen)  # dropout was off
    assert [m.training for m in net.modules()] == modes
    assert net[0].samples_seen is None and net[2].samples_seen is None


def test_normalize():
    x = torch.rand(2, 3, 4, 4)
    y = Normalize((0.5, 0.25, 0.0), 0.2)(x)
    expected = (x.double() - torch.tensor([0.5, 0.25, 0.0])[:, None, None]) / 0.2
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-6)  # values up to 5, rounded three times
    one_mean = Normalize([0.5], 1.0)(x)  # one number serves all channels
    assert torch.equal(one_mean, x - 0.5)


# State.


@each_layer
@pytest.mark.parametrize(
    "duplicate", (copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))), ids=("deepcopy", "pickle")
)
def test_copies_are_equal_and_independent(duplicate, make, shape):
    layer, x = make(3.0), torch.rand(2, *shape)
    before = layer(x)
    twin = duplicate(layer)
    assert torch.equal(twin(x), before)
    assert lipschitz_bound(twin, math.inf) == lipschitz_bound(layer, math.inf)
    for a in (*twin.parameters(), *twin.buffers()):
        a.data.add_(1)
    if hasattr(twin, "p"):
        twin.p = 1
        assert layer.p == 3.0
    assert torch.equal(layer(x), before)


@each_layer
def test_state_dict_carries_weights_and_means(make, shape):
    source, target, x = make(INF), make(INF), torch.rand(2, *shape)
    for a in (*source.parameters(), *source.buffers()):
        nn.init.normal_(a)
    assert set(source.state_dict()) <= {"weight", "bias", "running_mean", "mean", "_extra_state"}
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source(x))


@each_layer
def test_to_float64(make, shape):
    layer, x = make(8.0), torch.rand(2, *shape)
    y, lipschitz = layer(x), lipschitz_bound(layer, math.inf)
    wide = layer.to(torch.float64)(x.double())
    assert wide.dtype == torch.float64 and lipschitz_bound(layer, math.inf) == lipschitz
    torch.testing.assert_close(wide.float(), y, rtol=0, atol=1e-5)  # values up to 10: seven roundings to 1e-6


def test_factory_arguments():
    for layer in (
        LinfDistLinear(2, 3, dtype=torch.float64, device="meta"),
        LinfDistConv2d(2, 3, 1, dtype=torch.float64, device="meta"),
        SortDistLinear(2, 3, rho=0.5, dtype=torch.float64, device="meta"),
        MeanShift(3, dtype=torch.float64, device="meta"),
    ):
        for a in (*layer.parameters(), *layer.buffers()):
            assert a.dtype == torch.float64 and a.device.type == "meta"


def test_repr_says_what_matters():
    assert repr(LinfDistLinear(2, 3, bias=False, p=8)) == "LinfDistLinear(2, 3, bias=False, p=8.0)"
    sort = SortDistLinear(2, 3, rho=0.5)
    assert repr(sort) == "SortDistLinear(2, 3, bias=True, p=inf, rho=0.5, k=10, group=32)"
    conv = LinfDistConv2d(2, 2, (1, 3), padding=(0, 1))
    assert "kernel_size=(1, 3), stride=(1, 1), padding=(0, 1)" in repr(conv)
    assert repr(MeanShift(3)) == "MeanShift(3, momentum=0.1)"


def test_the_geometry_of_a_layer_is_that_of_its_arguments():
    layer = LinfDistConv2d(4, 6, 3, stride=(2, 1), padding=2, dilation=(1, 3), groups=2)
    assert layer.geometry == Geometry((2, 1), (2, 2), (1, 3), 2)
    assert layer.geometry.output_shape((5, 4, 9, 9), layer.weight.shape) == layer(torch.rand(5, 4, 9, 9)).shape


# Bad input.


BAD_CONSTRUCTION = {  # call, exception, what the message names
    "linear-in-0": (lambda: LinfDistLinear(0, 1), ValueError, "in_features"),
    "linear-out-negative": (lambda: LinfDistLinear(1, -1), ValueError, "out_features"),
    "linear-in-float": (lambda: LinfDistLinear(2.0, 1), TypeError, "in_features"),
    "linear-out-bool": (lambda: LinfDistLinear(2, True), TypeError, "out_features"),
    "linear-in-string": (lambda: LinfDistLinear("2", 1), TypeError, "in_features"),
    "linear-p-nan": (lambda: LinfDistLinear(1, 1, p=NAN), ValueError, "p must"),
    "linear-p-0": (lambda: LinfDistLinear(1, 1, p=0), ValueError, "p must"),
    "linear-p-string": (lambda: LinfDistLinear(1, 1, p="inf"), TypeError, "p must"),
    "linear-p-bool": (lambda: LinfDistLinear(1, 1, p=True), TypeError, "p must"),
    "linear-p-tensor": (lambda: LinfDistLinear(1, 1, p=torch.tensor(2.0)), TypeError, "p must"),
    "sort-in-0": (lambda: SortDistLinear(0, 1, rho=0.5), ValueError, "in_features"),
    "sort-rho-missing": (lambda: SortDistLinear(1, 1), TypeError, "rho"),
    "sort-rho-0": (lambda: SortDistLinear(1, 1, rho=0.0), ValueError, "rho must"),
    "sort-rho-nan": (lambda: SortDistLinear(1, 1, rho=NAN), ValueError, "rho must"),
    "sort-rho-string": (lambda: SortDistLinear(1, 1, rho="1"), TypeError, "rho must"),
    "sort-k-0": (lambda: SortDistLinear(1, 1, rho=0.5, k=0), ValueError, "k must"),
    "sort-k-float": (lambda: SortDistLinear(1, 1, rho=0.5, k=2.0), TypeError, "k must"),
    "sort-group-0": (lambda: SortDistLinear(1, 1, rho=0.5, group=0), ValueError, "group"),
    "sort-p-0": (lambda: SortDistLinear(1, 1, p=0, rho=0.5), ValueError, "p must"),
    "conv-in-0": (lambda: LinfDistConv2d(0, 1, 1), ValueError, "in_channels"),
    "conv-out-string": (lambda: LinfDistConv2d(1, "1", 1), TypeError, "out_channels"),
    "conv-kernel-0": (lambda: LinfDistConv2d(1, 1, (1, 0)), ValueError, "kernel_size"),
    "conv-kernel-float": (lambda: LinfDistConv2d(1, 1, 3.0), TypeError, "kernel_size"),
    "conv-kernel-triple": (lambda: LinfDistConv2d(1, 1, (1, 2, 3)), TypeError, "kernel_size"),
    "conv-stride-0": (lambda: LinfDistConv2d(1, 1, 1, 0), ValueError, "stride"),
    "conv-padding-negative": (lambda: LinfDistConv2d(1, 1, 1, padding=-1), ValueError, "padding"),
    "conv-padding-string": (lambda: LinfDistConv2d(1, 1, 1, padding="same"), TypeError, "padding"),
    "conv-dilation-0": (lambda: LinfDistConv2d(1, 1, 1, dilation=(1, 0)), ValueError, "dilation"),
    "conv-groups-0": (lambda: LinfDistConv2d(1, 1, 1, groups=0), ValueError, "groups"),
    "conv-groups-in": (lambda: LinfDistConv2d(3, 4, 1, groups=2), ValueError, "groups=2.*in_channels=3"),
    "conv-groups-out": (lambda: LinfDistConv2d(4, 3, 1, groups=2), ValueError, "groups=2.*out_channels=3"),
    "conv-p": (lambda: LinfDistConv2d(1, 1, 1, p=0.5), ValueError, "p must"),
    "mean-shift-0": (lambda: MeanShift(0), ValueError, "num_features"),
    "mean-shift-float": (lambda: MeanShift(1.0), TypeError, "num_features"),
    "momentum-0": (lambda: MeanShift(1, 0.0), ValueError, "momentum"),
    "momentum-2": (lambda: MeanShift(1, 2.0), ValueError, "momentum"),
    "momentum-nan": (lambda: MeanShift(1, NAN), ValueError, "momentum"),
    "std-0": (lambda: Normalize([0.0], 0.0), ValueError, "std"),
    "std-negative": (lambda: Normalize([0.0], -1.0), ValueError, "std"),
    "std-nan": (lambda: Normalize([0.0], NAN), ValueError, "std"),
    "std-inf": (lambda: Normalize([0.0], INF), ValueError, "std"),
}


@pytest.mark.parametrize("construct, error, names", BAD_CONSTRUCTION.values(), ids=BAD_CONSTRUCTION)
def test_bad_construction_is_named(construct, error, names):
    with pytest.raises(error, match=names):
        construct()


LINEAR, CONV, SORT = LinfDistLinear(3, 2), LinfDistConv2d(2, 4, 3), SortDistLinear(3, 2, rho=0.5)
BAD_FORWARD = {
    "sort-columns": (SORT.eval(), torch.rand(2, 4), ValueError, "x has 4"),
    "sort-columns-training": (SortDistLinear(3, 2, rho=0.5), torch.rand(2, 4), ValueError, "x has 4"),
    "sort-0d": (SORT, torch.tensor(1.0), ValueError, "x"),
    "linear-columns": (LINEAR, torch.rand(2, 4), ValueError, "x has 4"),
    "linear-columns-3d": (LINEAR, torch.rand(2, 2, 4), ValueError, "x has 4"),
    "linear-0d": (LINEAR, torch.tensor(1.0), ValueError, "x"),
    "linear-list": (LINEAR, [[1.0, 2.0, 3.0]], TypeError, "x must be a torch.Tensor"),
    "linear-int": (LINEAR, torch.ones(2, 3, dtype=torch.int64), TypeError, "x must be float"),
    "linear-float16": (LINEAR, torch.rand(2, 3).half(), TypeError, "x must be float"),
    "linear-mixed": (LINEAR, torch.rand(2, 3).double(), TypeError, "x is torch.float64"),
    "linear-device": (LINEAR, torch.rand(2, 3, device="meta"), ValueError, "x is on meta"),
    "conv-3d": (CONV, torch.rand(2, 5, 5), ValueError, "x must have shape"),
    "conv-5d": (CONV, torch.rand(1, 1, 2, 5, 5), ValueError, "x must have shape"),
    "conv-channels": (CONV, torch.rand(1, 3, 5, 5), ValueError, "x must have shape"),
    "conv-list": (CONV, [1.0], TypeError, "x must be a torch.Tensor"),
    "conv-int": (CONV, torch.ones(1, 2, 5, 5, dtype=torch.uint8), TypeError, "x must be float"),
    "conv-float16": (CONV, torch.rand(1, 2, 5, 5).half(), TypeError, "x must be float"),
    "conv-mixed": (CONV, torch.rand(1, 2, 5, 5).double(), TypeError, "x is torch.float64"),
    "conv-no-window": (CONV, torch.rand(1, 2, 2, 5), ValueError, "x"),
    "conv-less-than-no-window": (CONV, torch.rand(1, 2, 1, 1), ValueError, "x"),
    "crop-small": (CenterCrop(4), torch.rand(2, 1, 4, 3), ValueError, "x must have shape .*≥ 4"),
    "crop-3d": (CenterCrop(2), torch.rand(2, 4, 3), ValueError, "x must have shape"),
    "mean-shift-1d": (MeanShift(3), torch.rand(3), ValueError, "x must have shape"),
    "mean-shift-channels": (MeanShift(3), torch.rand(3, 1, 3), ValueError, "x must have shape"),
    "normalize-channels": (Normalize([0.1, 0.2, 0.3], 1.0), torch.rand(2, 1, 4, 4), ValueError, "x"),
}


@pytest.mark.parametrize("layer, x, error, names", BAD_FORWARD.values(), ids=BAD_FORWARD)
def test_bad_input_is_named(layer, x, error, names):
    with pytest.raises(error, match=rf"\b{names}"):
        layer(x)
