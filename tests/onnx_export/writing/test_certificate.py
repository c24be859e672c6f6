"""Certificates of the float32 program: against bounds by other code, by sampling, and where they end."""

import math

import pytest
import torch
from torch import nn

import linf_plugin
from linf_plugin.certificates import certify_each, lipschitz
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import LAYERS
from onnx_export.writing.certificate import (
    END_RULES,
    CertifiedNet,
    check_certifiable,
    radius_constants,
    wants_interval,
    widenings,
)
from onnx_export.writing.compose import graph_of

COLOUR = {"shape": (3, 8, 8), "mean": (0.3, 0.2, 0.1), "std": 0.2}
NETS = {
    "mlp": ("linf-mlp", {"width": 16, "depth": 3}),
    "one-layer": ("linf-mlp", {"width": 1, "depth": 1}),
    "clip": ("linf-mlp", {"width": 16, "depth": 2, "clip": 0.3}),
    "crop": ("linf-mlp", {"width": 16, "depth": 2, "crop": 3} | COLOUR),
    "conv": ("linf-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR),
    "head": ("linf-mlp-head", {"width": 16, "depth": 2, "hidden": 8}),
    "sortnet": ("sortnet-mlp", {"width": 16, "depth": 3, "rho": 0.6, "k": 5}),
    "sortnet-head": ("sortnet-mlp", {"width": 16, "depth": 2, "rho": 1.0, "hidden": 5}),
    "relu-mlp": ("relu-mlp", {"width": 16, "depth": 3}),
    "relu-conv": ("relu-conv", {"channels": (6, 8), "strides": (1, 2), "width": 16} | COLOUR),
}
each_net = pytest.mark.parametrize("name", NETS)


@pytest.fixture
def net(name, small_net):
    architecture, arguments = NETS[name]
    return small_net(architecture, **arguments)


def median_radius(net, x) -> float:
    """Of the interval certificate, by bisection: an ε that certifies some images and not all."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if CertifiedNet(net, middle)(x)[1].float().mean() > 0.5 else (low, middle)
    return low


@torch.no_grad()
@each_net
def test_interval_certificate_agrees_with_auto_lirpa(net):
    """That is in float64, and subtracts the rounding of one ball: ours certifies no more, and at least what that does
    for twice the ε."""
    x = torch.rand(60, *net.input_shape)
    eps = median_radius(net, x)
    logits, certified = CertifiedNet(net, eps)(x)
    assert torch.equal(logits, net(x)) and 0 < certified.sum() < len(x)
    theirs, twice = (certify_each(net, x, logits.argmax(1), e, ["ibp"])["ibp"] for e in (eps, 2 * eps))
    assert theirs[certified].all() and certified[twice].all()
    if not any(isinstance(layer, (nn.Linear, nn.Conv2d)) for layer in net):
        assert (certified != theirs).sum() <= 1


@torch.no_grad()
@each_net
def test_no_pixel_image_in_a_certified_box_changes_the_prediction(net):
    """By corners of the box, random and along the gradient, rounded to float32 outwards but inside ε."""
    x = torch.rand(40, *net.input_shape)
    x[:5] = x[:5].round()  # at the ends of the range
    eps = median_radius(net, x)
    logits, certified = CertifiedNet(net, eps)(x)
    with torch.enable_grad():
        z = x.clone().requires_grad_()
        top = net(z).topk(2, 1).values
        (top[:, 1] - top[:, 0]).sum().backward()
    signs = [z.grad.sign(), *(torch.rand_like(x).sub(0.5).sign() for _ in range(30))]
    for sign in signs:
        moved = (x + sign * eps).clamp(0, 1)
        assert ((moved.double() - x.double()).abs() <= eps + 2.0**-24).all()
        same = net(moved).argmax(1) == logits.argmax(1)
        assert same[certified].all()


@torch.no_grad()
@each_net
def test_ends_bound_the_float32_values_of_every_layer(net):
    eps, n = 0.05, 20
    x = torch.rand(n, *net.input_shape)
    program = CertifiedNet(net, eps)
    ends = (x - program.reach).clamp_min(0), (x + program.reach).clamp_max(1)
    points = [(x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1) for _ in range(10)]
    points += [(x + eps * torch.rand_like(x).sub(0.5).sign()).clamp(0, 1) for _ in range(10)]
    for layer, by in zip(net, program.widenings):
        lower, upper = END_RULES[type(layer)](layer, ends)
        ends, points = (lower - by, upper + by), [layer(p) for p in points]
        assert all(((ends[0] <= p) & (p <= ends[1])).all() for p in points)


def test_only_sums_are_widened(small_net):
    assert set(widenings(small_net(width=6, depth=3))) == {0.0}
    head = widenings(small_net("linf-mlp-head", width=6, depth=2, hidden=4))
    assert head[:-3] == [0.0] * (len(head) - 3) and all(0 < by < 1e-3 for by in head[-3:])


@torch.no_grad()
def test_what_is_not_an_image_is_not_certified(small_net):
    """At an ε of next to nothing."""
    net = small_net("linf-mlp-head", width=16, depth=2, hidden=8)
    program, x = CertifiedNet(net, 1e-4), torch.rand(6, 1, 8, 8)
    assert program(x)[1].all()
    x[1, 0, 3, 3], x[2, 0, 0, 0], x[3, 0, 7, 7] = math.nan, math.inf, -math.inf
    x[4, 0, 1, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert program(x)[1].tolist() == [True, False, False, False, False, True]


@torch.no_grad()
def test_ties_are_not_certified(small_net):
    net = small_net("relu-mlp", width=4, depth=2)
    net[-1].weight[1], net[-1].bias[1] = net[-1].weight[0], net[-1].bias[0]
    net[-1].bias[:2] += 100
    logits, certified = CertifiedNet(net, 1e-6)(torch.rand(5, 1, 8, 8))
    assert (logits.argmax(1) < 2).all() and not certified.any()


@torch.no_grad()
@each_net
def test_the_slack_covers_the_rounding_error(net):
    """Float32 logits against float64 ones, at and beyond the ends of the pixel range."""
    constants = radius_constants(net)
    x = torch.cat([torch.rand(200, *net.input_shape), 3 * torch.rand(200, *net.input_shape) - 1])
    exact = linf_plugin.Net(net.spec).eval()
    exact.load_state_dict(net.state_dict())
    error = (net(x).double() - exact.double()(x.double())).abs().max()
    assert 4 * error < constants.slack < 1e-4 * 2 * constants.lipschitz
    assert constants.lipschitz >= lipschitz_bound(net, math.inf) and constants.most == 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp", "conv", "sortnet", "head"])
def test_the_radius_is_nearly_that_of_each_image(net):
    """``sound_radius`` bounds rounding for each ball by itself, ours for all images at once.  If the last layer is
    linear, it also has a bound for each pair of classes, and the files in ℓ∞ have one for all."""
    x, c = torch.rand(50, *net.input_shape), radius_constants(net)
    ours = ((linf_plugin.margin(net(x)) - c.slack) / (2 * c.lipschitz)).clamp(0, c.most)
    theirs = lipschitz.sound_radius(net, x)
    one = linf_plugin.certified_radius(net(x), None, lipschitz_bound(net, math.inf)).clamp_max(c.most)
    assert (ours <= theirs + 1e-7).all() and (one - ours).max() < 1e-4
    assert (theirs - ours).max() < 1e-4 or isinstance(net[-1], nn.Linear)


def test_bytes_cost_their_own_rounding(small_net):
    floats, levels = (radius_constants(small_net(width=6, depth=2), kind) for kind in ("float", "byte"))
    assert levels.most == 255 and levels.slack > floats.slack
    assert levels.lipschitz == pytest.approx(floats.lipschitz / 255, rel=1e-5)


def test_which_nets_want_an_interval(small_net):
    wanted = {name: wants_interval(small_net(a, **arguments)) for name, (a, arguments) in NETS.items()}
    assert {name for name, w in wanted.items() if w} == {"clip", "head", "sortnet-head", "relu-mlp", "relu-conv"}


def test_overflow_is_refused(small_net):
    net = small_net("relu-mlp", width=4, depth=2)
    with torch.no_grad():
        net[-1].weight.fill_(1e38)
    for bound in (radius_constants, widenings):
        with pytest.raises(ValueError, match="activations of model may overflow"):
            bound(net)


def test_finite_p_is_refused(small_net):
    net = small_net(width=4, depth=2)
    check_certifiable(net)
    linf_plugin.set_p(net, 12.0)
    with pytest.raises(ValueError, match="p = 12, and certificates are for p = ∞"):
        CertifiedNet(net, 0.1)


def test_every_layer_has_a_rule():
    kinds = {
        type(layer)
        for a, arguments in NETS.values()
        for layer in linf_plugin.build(a, **{"shape": (1, 8, 8), "classes": 10} | arguments)
    }
    assert kinds <= END_RULES.keys() and nn.Tanh in kinds and nn.Conv2d in kinds
    assert set(LAYERS.values()) <= END_RULES.keys()


@torch.no_grad()
def test_a_layer_that_comes_twice():
    """The last one is told by its place."""
    torch.manual_seed(0)
    spec = {"input_shape": [4], "layers": [["linear", {"in_features": 4, "out_features": 4}], ["relu", {}]] * 2}
    spec["layers"] = spec["layers"][:3]
    shared, apart = (linf_plugin.Net(spec).eval() for _ in range(2))
    shared[2] = shared[0]
    apart.load_state_dict(shared.state_dict())
    x = torch.rand(50, 4)
    for eps in (0.01, 0.05, 0.2):
        assert widenings(shared) == widenings(apart)
        assert torch.equal(CertifiedNet(shared, eps)(x)[1], CertifiedNet(apart, eps)(x)[1])
    assert graph_of(shared, "float", None, 0.05) == graph_of(apart, "float", None, 0.05)
