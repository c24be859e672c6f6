"""Bounds and certificates inside ``torch.inference_mode``, and of tensors that were made in it."""

import copy
import math

import pytest
import torch
from nets import ball, make, within
from torch import nn

from linf_plugin import LinfDistLinear, build
from linf_plugin.bounds import compute_bounds
from linf_plugin.certificates import certify, certify_each, margin_bound
from linf_plugin.certificates.lipschitz import sound_radius
from linf_plugin.inference import outside_inference

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

METHODS = ("IBP", "CROWN-IBP", "CROWN", "CROWN-Optimized", "Forward", "Forward+Backward")
each_method = pytest.mark.parametrize("method", METHODS)
FEW = {"optimize_bound_args": {"iteration": 3}}
ROUNDING = 1e-4
pytestmark = [
    pytest.mark.usefixtures("few_alpha_steps"),
    pytest.mark.filterwarnings("ignore:Creating a LinearBound with zero weights:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
]


def is_ordinary(*tensors):
    return not any(a.is_inference() for a in tensors)


# The decorator.


@outside_inference
def product(a, b=None, *, rest=()):
    assert not torch.is_inference_mode_enabled()
    assert is_ordinary(*(c for c in (a, b, *rest) if isinstance(c, torch.Tensor)))
    return a * (1 if b is None else b), torch.is_grad_enabled()


def test_a_function_computes_outside_on_ordinary_copies():
    a = torch.rand(3)
    with torch.inference_mode():
        b = torch.rand(3)
        inside, grad = product(a, b, rest=[b, 1])
    assert not grad and is_ordinary(inside) and torch.equal(inside, a * b)
    outside, grad = product(a, b, rest=(b,))
    assert grad and torch.equal(outside, inside)
    assert product.__name__ == "product"


def test_gradients_stay_as_the_caller_has_set_them():
    a = torch.rand(3, requires_grad=True)
    with torch.inference_mode():
        b = torch.rand(3)
    y, _ = product(a, b)
    y.sum().backward()
    assert torch.equal(a.grad, b)
    with torch.no_grad():
        assert not product(a, b)[1]
    assert product(a)[0].requires_grad


def test_boxes_are_copied_with_their_ends():
    seen = []
    look = outside_inference(seen.append)
    with torch.inference_mode():
        x = torch.rand(2, 3)
        box = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=x - 1, x_U=x + 1))
        eps = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.5))
    outer = BoundedTensor(x.clone(), PerturbationLpNorm(norm=math.inf, x_L=x - 1, x_U=x + 1))
    look((box, eps))
    look([outer])
    ((one, two), (three,)) = seen
    for copied, given in ((one, box), (two, eps), (three, outer)):
        assert type(copied) is BoundedTensor and is_ordinary(copied) and torch.equal(copied, given)
        assert copied.ptb.norm == given.ptb.norm
    assert two.ptb.eps == eps.ptb.eps
    assert is_ordinary(one.ptb.x_L, one.ptb.x_U, three.ptb.x_L) and torch.equal(one.ptb.x_U, box.ptb.x_U)
    assert box.ptb.x_L.is_inference()  # the caller's own is as it was


# Bounds.


@each_method
@pytest.mark.parametrize("made_inside", ["nothing", "ball", "ball and graph"])
def test_bounds_inside_are_those_outside(made_inside, method):
    net, x = make("head")
    C = torch.tensor([[1.0, -1, 0, 0], [0, 1, 0, -1]]).expand(3, 2, 4)
    box, bounded = ball(x), BoundedModule(net, x[:1], bound_opts=FEW)
    wanted = [compute_bounds(bounded, (box,), c, method) for c in (None, C)]
    with torch.inference_mode():
        if made_inside != "nothing":
            box = ball(x.clone())
        if made_inside == "ball and graph":
            bounded = BoundedModule(net, x[:1], bound_opts=FEW)
        found = [compute_bounds(bounded, (box,), c, method) for c in (None, C)]
        alone = bounded.compute_bounds(x=(box,), method=method)
        assert torch.equal(bounded(x), net(x))
    for ours, theirs in zip((*found[0], *found[1]), (*wanted[0], *wanted[1])):
        assert is_ordinary(ours)
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=ROUNDING)
    assert within(*alone, net, x, rounding=ROUNDING)


@each_method
def test_a_graph_and_a_ball_made_inside_serve_outside(method):
    net, x = make("conv-distance-conv")
    with torch.inference_mode():
        bounded, box = BoundedModule(net, x[:1], bound_opts=FEW), ball(x.clone())
    wanted = compute_bounds(BoundedModule(net, x[:1], bound_opts=FEW), (ball(x),), None, method)
    for ours, theirs in zip(compute_bounds(bounded, (box,), None, method), wanted):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=ROUNDING)
    if method != "CROWN-Optimized":
        lower, _ = bounded.compute_bounds(x=(box,), method=method)
        lower.sum().backward()
        assert any(a.grad is not None and a.grad.abs().sum() > 0 for a in net.parameters())


@pytest.mark.parametrize("layer", [LinfDistLinear, nn.Linear])
def test_a_net_made_inside_is_refused_by_name_and_a_copy_serves(layer):
    with torch.inference_mode():
        net, x = nn.Sequential(layer(6, 4)).eval(), torch.rand(2, 6)
    with pytest.raises(ValueError, match=r"parameter '0.weight' was made in torch.inference_mode\(\).*deepcopy"):
        BoundedModule(net, x)
    copied = copy.deepcopy(net)
    lower, upper = compute_bounds(BoundedModule(copied, x), (ball(x),), method="CROWN")
    assert (lower <= net(x) + ROUNDING).all() and (net(x) <= upper + ROUNDING).all()


def test_a_step_of_an_optimisation_needs_gradients_that_are_switched_off():
    net, x = make("head")
    bounded = BoundedModule(net, x[:1], bound_opts=FEW)
    wanted = bounded.compute_bounds(x=(ball(x),), method="CROWN-Optimized")
    with torch.no_grad():
        found = bounded.compute_bounds(x=(ball(x),), method="CROWN-Optimized")
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs)


# Certificates.


def problem():
    torch.manual_seed(0)
    net = build("linf-mlp-head", shape=(1, 5, 5), classes=4, width=12, depth=2, hidden=6, mean=(0.3,), std=0.4).eval()
    x = torch.rand(2, 1, 5, 5)
    return net, x, net(x).argmax(1)


EPS = 0.05
NAMES = ("lipschitz", "ibp", "alpha-crown")


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("made_inside", ["nothing", "samples", "net and samples"])
def test_certificates_inside_are_those_outside(made_inside, sound):
    net, x, labels = problem()
    wanted = certify(net, x, labels, EPS, NAMES, sound=sound)
    each = certify_each(net, x, labels, EPS, NAMES, sound=sound)
    margins = margin_bound(net, x, labels, EPS, "alpha-crown", sound=sound)
    with torch.inference_mode():
        if made_inside == "net and samples":
            state = net.state_dict()
            net = build(
                "linf-mlp-head", shape=(1, 5, 5), classes=4, width=12, depth=2, hidden=6, mean=(0.3,), std=0.4
            ).eval()
            net.load_state_dict(state)
            assert next(net.parameters()).is_inference()
        if made_inside != "nothing":
            x, labels = x.clone(), labels.clone()
        found = certify(net, x, labels, EPS, NAMES, sound=sound)
        assert all(
            torch.equal(a, b)
            for a, b in zip(certify_each(net, x, labels, EPS, NAMES, sound=sound).values(), each.values())
        )
        assert torch.equal(margin_bound(net, x, labels, EPS, "alpha-crown", sound=sound), margins)
    for result in (found, certify(net, x, labels, EPS, NAMES, sound=sound)):
        assert torch.equal(result.bound, wanted.bound) and torch.equal(result.certified, wanted.certified)
        assert is_ordinary(result.bound, result.certified)
    assert margins.isfinite().all()


def test_radii_inside_are_those_outside():
    net, x, labels = problem()
    wanted = sound_radius(net, x, labels)
    with torch.inference_mode():
        found = sound_radius(net, x.clone(), labels.clone())
    assert torch.equal(found, wanted) and is_ordinary(found) and (found > 0).any()
