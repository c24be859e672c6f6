"""The baselines' losses: what they are at both ends of ε, and that they train the net they were given."""

import pytest
import torch
import torch.nn.functional as F

from comparisons.methods.bounded import BoundedCrossEntropy
from linf_plugin import build
from linf_plugin.certificates import margin_bound
from linf_plugin.training import Step


def step(eps):
    return Step(epoch=0, p=float("inf"), eps=eps, progress=1, lr_factor=1)


@pytest.fixture
def net():
    return build("relu-conv", shape=(1, 5, 5), classes=3, channels=(3,), strides=(2,), width=6).eval()


@pytest.fixture
def batch():
    return torch.rand(8, 1, 5, 5), torch.arange(8) % 3


@pytest.mark.parametrize("crown", [False, True], ids=["ibp", "crown-ibp"])
def test_at_radius_zero_it_is_the_clean_loss(net, batch, crown):
    loss = BoundedCrossEntropy(net, batch[0][:1], 0.1, crown)
    torch.testing.assert_close(loss(net, *batch, step(0.0)), F.cross_entropy(net(batch[0]), batch[1]))


@pytest.mark.parametrize("crown", [False, True], ids=["ibp", "crown-ibp"])
def test_at_full_radius_both_are_interval_cross_entropy(net, batch, crown):
    x, y = batch
    loss = BoundedCrossEntropy(net, x[:1], 0.1, crown, kappa=0.0)
    margins = loss._margins(x, y, 3, 0.1)
    worst = F.cross_entropy(torch.cat([torch.zeros(8, 1), -margins], 1), torch.zeros(8, dtype=torch.long))
    torch.testing.assert_close(loss(net, x, y, step(0.1)), worst)
    expected = margin_bound(net, x, y, 0.1, "ibp").float()
    torch.testing.assert_close(margins.amin(1), expected, rtol=0, atol=1e-5)


def test_half_way_crown_ibp_is_the_mean_of_both_bounds(net, batch):
    x, y = batch
    mixed = BoundedCrossEntropy(net, x[:1], 0.1, crown=True)._margins(x, y, 3, 0.05)
    interval = BoundedCrossEntropy(net, x[:1], 0.1, crown=False)._margins(x, y, 3, 0.05)
    linear = 2 * mixed - interval
    better = torch.maximum(linear, interval).amin(1)  # a certificate is never looser than intervals; the loss may be
    assert (better.double() - margin_bound(net, x, y, 0.05, "crown-ibp")).abs().max() < 1e-5


@pytest.mark.parametrize("crown", [False, True], ids=["ibp", "crown-ibp"])
def test_gradients_reach_the_given_net(net, batch, crown):
    loss = BoundedCrossEntropy(net, batch[0][:1], 0.1, crown, kappa=0.0)
    before = loss(net, *batch, step(0.05))
    before.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    with torch.no_grad():
        for p in net.parameters():
            p -= 1e-3 * p.grad
    assert loss(net, *batch, step(0.05)) < before
