"""Boxes in training: interval bounds at p = ∞, moved values at finite p, gradients, and the mean of clean inputs."""

import math

import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (makes auto_LiRPA importable)
from linf_plugin import build, reestimate_means, set_p
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.training.boxes import propagate, worst_margins

NETS = {
    "mlp": ("linf-mlp", dict(width=7, depth=3)),
    "clipped": ("linf-mlp", dict(width=7, depth=3, clip=0.3)),
    "crop": ("linf-mlp", dict(width=7, depth=2, crop=3)),
    "head": ("linf-mlp-head", dict(width=7, depth=2, hidden=5)),
    "sorted": ("sortnet-mlp", dict(width=7, depth=3, rho=0.5)),
    "conv": ("linf-conv", dict(channels=(3, 4), strides=(1, 2), width=6)),
}


def net(name):
    architecture, arguments = NETS[name]
    if name == "head":  # a Linear has no rule: its features are what boxes go through
        return build(architecture, shape=(1, 5, 5), classes=3, std=0.5, **arguments).split_head()[0]
    return build(architecture, shape=(1, 5, 5), classes=3, std=0.5, **arguments)


@pytest.mark.parametrize("name", NETS)
def test_at_infinity_they_are_interval_bounds(name):
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    model, x, eps = net(name), torch.rand(6, 1, 5, 5), 0.1
    reestimate_means(model, [x])
    model.eval()
    value, lower, upper = propagate(model, x, eps)
    torch.testing.assert_close(value, model(x))
    ball = PerturbationLpNorm(norm=math.inf, x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1))
    low, high = BoundedModule(model, x[:1]).compute_bounds(x=(BoundedTensor(x, ball),), method="IBP")
    torch.testing.assert_close(lower, low)
    torch.testing.assert_close(upper, high)
    for _ in range(50):
        near = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
        y = model(near)
        assert (lower - 1e-5 <= y).all() and (y <= upper + 1e-5).all()


def test_dropped_inputs_have_no_rule():
    with pytest.raises(TypeError, match="no rule for SortDistLinear in training"):
        propagate(net("sorted").train(), torch.rand(2, 1, 5, 5), 0.1)


@pytest.mark.parametrize("name", [name for name in NETS if name != "sorted"])
@pytest.mark.parametrize("p", [3.0, math.inf])
def test_in_training_the_value_is_the_forward_pass_and_lies_in_its_box(name, p):
    model, x = net(name).train(), torch.rand(6, 1, 5, 5)
    set_p(model, p)
    means = [m.running_mean.clone() for m in model if isinstance(m, MeanShift)]
    value, lower, upper = propagate(model, x, 0.05)
    assert (lower <= value).all() and (value <= upper).all() and (lower < upper).any()
    moved = [m.running_mean.clone() for m in model if isinstance(m, MeanShift)]
    for m, mean in zip([m for m in model if isinstance(m, MeanShift)], means):
        m.running_mean.copy_(mean)
    torch.testing.assert_close(model(x), value)
    for m, mean in zip([m for m in model if isinstance(m, MeanShift)], moved):
        torch.testing.assert_close(m.running_mean, mean)  # that of clean inputs, once


def test_without_a_radius_the_box_is_a_point():
    model, x = net("mlp").train(), torch.rand(4, 1, 5, 5)
    for p in (4.0, math.inf):
        set_p(model, p)
        value, lower, upper = propagate(model, x, 0.0)
        torch.testing.assert_close(lower, value)
        torch.testing.assert_close(upper, value)


@pytest.mark.parametrize("p", [4.0, math.inf])
def test_gradients_are_difference_quotients(p):
    model = net("clipped").double().train()
    set_p(model, p)
    x, y = torch.rand(5, 1, 5, 5, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    weight = model[-2].weight

    def total(change):
        with torch.no_grad():
            weight.add_(change)
            logits, worst = worst_margins(model, x, y, 0.1)
            weight.sub_(change)
        return (logits.square().sum() + worst.square().sum()).item()

    logits, worst = worst_margins(model, x, y, 0.1)
    (logits.square().sum() + worst.square().sum()).backward()
    direction = torch.randn_like(weight)
    quotient = (total(1e-6 * direction) - total(-1e-6 * direction)) / 2e-6
    assert (weight.grad * direction).sum().item() == pytest.approx(quotient, rel=1e-5)


def test_worst_margins_are_differences_of_ends_and_0_at_the_label():
    model, x, y = net("mlp").eval(), torch.rand(3, 1, 5, 5), torch.tensor([2, 0, 1])
    logits, lower, upper = propagate(model, x, 0.1)
    found_logits, worst = worst_margins(model, x, y, 0.1)
    assert torch.equal(found_logits, logits)
    for n in range(3):
        for j in range(3):
            expected = 0.0 if j == y[n] else (upper[n, j] - lower[n, y[n]]).item()
            assert worst[n, j].item() == pytest.approx(expected)


def test_clipped_pixels_do_not_move():
    model = build("linf-mlp", shape=(1, 2, 2), classes=2, width=3, depth=2, clip=0.3, mean=(0.2,), std=0.5)
    x = torch.tensor([0.0, 0.2, 0.8, 1.0]).view(1, 1, 2, 2)
    _, lower, upper = propagate(model[:7], x, 0.09)  # 0.3 − 0.2 and a little less: rounding
    assert torch.equal(lower, upper)
    assert torch.allclose(lower.flatten(), (torch.tensor([0.0, 0.0, 1.0, 1.0]) - 0.2) / 0.5)
    middle = model[:7](torch.full((1, 1, 1, 1), 0.4))
    assert middle.item() == pytest.approx((0.25 - 0.2) / 0.5, abs=1e-6)


def test_a_layer_without_a_rule_is_named():
    with pytest.raises(TypeError, match="no rule for Linear"):
        propagate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(1, 1, 2, 2), 0.1)
