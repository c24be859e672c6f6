"""auto_LiRPA's form of a net that trains: statistics of the batch, which move the running ones once."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin.bounds.training import for_training  # makes auto_LiRPA importable: it comes first
from linf_plugin.layers.activations import ParamRamp

from auto_LiRPA import BoundedTensor, PerturbationLpNorm  # isort: skip

EPS = 0.05


def net(activation: type = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential(
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.BatchNorm1d(6),
        activation(6) if activation is ParamRamp else activation(),
        nn.Linear(6, 3),
    )
    with torch.no_grad():
        found[2].weight.uniform_(0.5, 2.0)
        found[2].bias.uniform_(-0.5, 0.5)
        found[2].running_mean.uniform_(-1.0, 1.0)
        found[2].running_var.uniform_(0.5, 2.0)
    return found.eval()


def conv() -> nn.Sequential:
    torch.manual_seed(1)
    found = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        found[1].running_mean.uniform_(-1.0, 1.0)
        found[1].running_var.uniform_(0.5, 2.0)
    return found.eval()


def ball(x):
    return BoundedTensor(x, PerturbationLpNorm(norm=float("inf"), x_L=x - EPS, x_U=x + EPS))


def samples(*shape: int):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def _by_hand(model: nn.Sequential, x, leak: float | None = None):
    """Interval bounds of ``net`` with the mean and the variance of the batch at x."""
    linear, norm, last = model[1], model[2], model[4]
    centre, radius = linear(x.flatten(1)), EPS * linear.weight.abs().sum(1)
    scale = norm.weight / torch.sqrt(centre.var(0, unbiased=False) + norm.eps)
    centre, radius = (centre - centre.mean(0)) * scale + norm.bias, (radius * scale.abs()).expand_as(centre)
    low, high = centre - radius, centre + radius
    if leak is None:
        low, high = F.relu(low), F.relu(high)
    else:
        top = model[3].top
        low, high = (top - F.leaky_relu(top - F.leaky_relu(end, leak), leak) for end in (low, high))
    centre, radius = last((low + high) / 2), (high - low) / 2 @ last.weight.abs().T
    return centre - radius, centre + radius


def test_bounds_use_the_statistics_of_the_batch():
    model, x = net(), samples(5, 8)
    expected = _by_hand(model, x)
    bounded = for_training(model, x)
    bounded(ball(x))
    found = bounded.compute_bounds(method="IBP")
    for ours, theirs in zip(expected, found):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        bounded_in_evaluation = for_training(model, x)
        bounded_in_evaluation.eval()
        bounded_in_evaluation(ball(x))
        other, _ = bounded_in_evaluation.compute_bounds(method="IBP")
    assert not torch.allclose(other, found[0], atol=0.01)  # the running ones are others


def test_a_call_gives_the_logits_of_training_mode_and_moves_the_running_statistics_once():
    model, x = net(), samples(5, 8)
    same = copy.deepcopy(model).train()
    expected = same(x)
    bounded = for_training(model, x)
    before = copy.deepcopy(model[2].state_dict())
    torch.testing.assert_close(bounded(ball(x)), expected)
    bounded.compute_bounds(method="IBP")
    bounded.compute_bounds(method="CROWN-IBP", bound_upper=False)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(model[2], name), getattr(same[2], name))
        assert not torch.equal(getattr(model[2], name), before[name])
    bounded(ball(samples(7, 8)))  # another number of samples
    same(samples(7, 8))
    torch.testing.assert_close(model[2].running_mean, same[2].running_mean)
    assert not model.training


def test_making_it_moves_nothing():
    model, x = net(), samples(5, 8)
    before = copy.deepcopy(model.state_dict())
    for_training(model, x)
    assert all(torch.equal(a, model.state_dict()[name]) for name, a in before.items())


@pytest.mark.parametrize("method", ["IBP", "CROWN-IBP"])
@pytest.mark.parametrize("make, shape", [(net, (6, 8)), (conv, (6, 1, 4, 4))], ids=["linear", "convolution"])
def test_bounds_hold_around_each_sample_with_the_statistics_of_the_batch(make, shape, method):
    model, x = make(), samples(*shape)
    bounded = for_training(model, x)
    bounded(ball(x))
    low, high = bounded.compute_bounds(method=method)
    norm = next(m for m in model if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))
    index = list(model).index(norm)
    inside = model[:index](x)
    dims = [0, *range(2, inside.dim())]
    norm.running_mean.copy_(inside.mean(dims).detach())
    norm.running_var.copy_(inside.var(dims, unbiased=False).detach())
    for i in range(50):
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(i)) * 2 - 1
        z = model(x + EPS * (noise if i % 2 else noise.sign()))
        assert (low - 1e-4 <= z).all() and (z <= high + 1e-4).all()


def test_gradients_reach_the_parameters_of_the_net():
    model, x = net(), samples(5, 8)
    bounded = for_training(model, x)
    bounded(ball(x))
    low, _ = bounded.compute_bounds(method="IBP", bound_upper=False)
    low.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    expected = torch.autograd.grad(_by_hand(model, x)[0].sum(), list(model.parameters()))
    for p, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(p.grad, gradient, rtol=1e-4, atol=1e-5)


def test_a_ramp_has_no_leak_in_bounds():
    model, x = net(ParamRamp), samples(5, 8)
    bounded = for_training(model, x)
    with torch.no_grad():
        model[3].top.uniform_(0.3, 0.8)  # the graph shares the tops
        model[3].leak.fill_(0.3)
    bounded(ball(x))
    found = bounded.compute_bounds(method="IBP")
    with torch.no_grad():
        model[3].leak.zero_()
    for ours, theirs in zip(_by_hand(model, x, 0.0), found):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"model is in training mode: call model\.eval\(\) before"):
        for_training(net().train(), samples(2, 8))
    model = net()
    model[2].train()
    with pytest.raises(ValueError, match="at layer '2'"):
        for_training(model, samples(2, 8))
