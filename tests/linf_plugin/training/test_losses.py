"""Losses against their definitions, sample by sample."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin import build
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.training import clipped_hinge, hinge, interval_cross_entropy, interval_hinge, ramp
from linf_plugin.training.losses import head_margins


@pytest.fixture
def batch():
    return 2 * torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 3, 2, 1, 1, 0])


def margins(z, y, radius):
    return [[z[n, j] - z[n, y[n]] + 2 * radius for j in range(4) if j != y[n]] for n in range(len(z))]


@pytest.mark.parametrize("mix", [0.0, 0.75, 1.0])
def test_hinge(batch, mix):
    z, y = batch
    positive = [[max(0.0, float(m)) for m in row] for row in margins(z, y, 0.5)]
    worst = sum(max(row) for row in positive) / 6
    mean = sum(map(sum, positive)) / 24  # the label's own margin is 0 and counts
    assert hinge(z, y, 0.5, mix).item() == pytest.approx(mix * worst + (1 - mix) * mean)


def test_clipped_hinge(batch):
    z, y = batch
    clipped = sum(max(min(max(float(m) / 1.0, 0), 1) for m in row) for row in margins(z, y, 0.5)) / 6
    expected = clipped + 0.1 * F.cross_entropy(3 * z, y).item()
    assert clipped_hinge(z, y, 0.5, 0.1, 3.0).item() == pytest.approx(expected)


def test_ramp(batch):
    z, y = batch
    worst = z - z.gather(1, y.unsqueeze(1)) + 0.3
    expected = 0.0
    for n in range(len(z)):
        others = [float(worst[n, j]) for j in range(4) if j != y[n]]
        expected += min(max(max(others) / 0.8 + 0.5, 0), 1) / len(z)
    assert ramp(worst.scatter(1, y.unsqueeze(1), 0.0), y, 0.8).item() == pytest.approx(expected)
    sure = torch.full((2, 3), -0.5)
    assert (
        ramp(sure.scatter(1, torch.tensor([[0], [2]]), 0.0), torch.tensor([0, 2]), 1.0).item() == 0
    )  # not the label's 0


def test_a_misclassified_sample_gives_no_hinge_gradient_and_the_temperature_no_margin():
    z = torch.tensor([[0.0, 5.0], [0.4, 0.0]], requires_grad=True)
    scalar = torch.tensor(2.0, requires_grad=True)
    clipped_hinge(z, torch.tensor([0, 0]), 0.5, 0.0, scalar).backward()
    assert torch.equal(z.grad[0], torch.zeros(2)) and z.grad[1].abs().sum() > 0
    assert scalar.grad == 0


def head(dtype=torch.float64):
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)).to(dtype)


def test_head_margins_hold_for_every_corner():
    net, features, y = head(), torch.randn(3, 5, dtype=torch.float64), torch.tensor([1, 0, 3])
    bound = head_margins(net, features, 0.2, y)
    assert torch.equal(bound.gather(1, y.unsqueeze(1)), torch.zeros(3, 1, dtype=torch.float64))
    for corner in itertools.product((-0.2, 0.2), repeat=5):
        z = net(features + torch.tensor(corner, dtype=torch.float64))
        assert (z - z.gather(1, y.unsqueeze(1)) <= bound + 1e-12).all()


def test_head_margins_of_a_radius_for_each_feature():
    net, features, y = head(), torch.randn(3, 5, dtype=torch.float64), torch.tensor([1, 0, 3])
    torch.testing.assert_close(
        head_margins(net, features, torch.full_like(features, 0.2), y), head_margins(net, features, 0.2, y)
    )
    radius = torch.rand_like(features)
    bound = head_margins(net, features, radius, y)
    for corner in itertools.product((-1.0, 1.0), repeat=5):
        z = net(features + radius * torch.tensor(corner, dtype=torch.float64))
        assert (z - z.gather(1, y.unsqueeze(1)) <= bound + 1e-12).all()


def test_head_margins_at_radius_zero_are_the_differences():
    net, features, y = head(), torch.randn(3, 5, dtype=torch.float64), torch.tensor([1, 0, 3])
    z = net(features)
    torch.testing.assert_close(head_margins(net, features, 0.0, y), z - z.gather(1, y.unsqueeze(1)))


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
def test_interval_cross_entropy_mixes_worst_and_clean(kappa):
    net, features, y = head(), torch.randn(3, 5, dtype=torch.float64), torch.tensor([1, 0, 3])
    worst = F.cross_entropy(head_margins(net, features, 0.2, y), y)
    expected = kappa * worst + (1 - kappa) * F.cross_entropy(net(features), y)
    torch.testing.assert_close(interval_cross_entropy(net, features, y, 0.2, kappa), expected)


@pytest.mark.parametrize("scalar", [1.0, 2.5])
def test_interval_hinge_of_each_sample(scalar):
    """Samples that are right and safe, right and unsafe, and wrong."""
    net, features = head(), torch.randn(40, 5, dtype=torch.float64)
    net[2].weight.data *= 20  # some margins are larger than 1
    z = net(features).detach()
    y = z.argsort(1)[:, -1].clone()
    y[::3] = z.argsort(1)[::3, -2]
    radius, hinged, entropy, seen = 0.02, 0.0, 0.0, set()
    for n in range(40):
        m = head_margins(net, features[n : n + 1], radius, y[n : n + 1])[0].tolist()
        worst = max(0.0, *(m[j] + 1 for j in range(4) if j != y[n]))
        right = all(z[n, j] < z[n, y[n]] for j in range(4) if j != y[n])
        seen.add((right, worst > 0))
        hinged += worst if right else 0.0
        entropy += float(torch.logsumexp(scalar * z[n], 0) - scalar * z[n, y[n]])
    assert seen >= {(True, False), (True, True), (False, True)}
    loss = interval_hinge(net, features, y, radius, 0.3, scalar)
    assert loss.item() == pytest.approx(hinged / 40 + 0.3 * entropy / 40)


def test_interval_hinge_leaves_misclassified_samples_to_the_cross_entropy():
    net, features = head(), torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    wrong = net(features).argsort(1)[:, 0]
    assert not torch.autograd.grad(interval_hinge(net, features, wrong, 0.1, 0.0), features)[0].any()
    assert torch.autograd.grad(interval_hinge(net, features, wrong, 0.1, 0.5), features)[0].any()


def test_head_of_a_model_is_split_where_its_linear_layers_begin():
    model = build("linf-mlp-head", shape=(1, 3, 3), classes=4, width=5, depth=2, hidden=6).eval()
    features, tail = model.split_head()
    x = torch.rand(2, 1, 3, 3)
    assert len(tail) == 3 and torch.equal(tail(features(x)), model(x))
    pure = build("linf-mlp", shape=(1, 3, 3), classes=4, width=5, depth=2)
    assert len(pure.split_head()[1]) == 0 and math.isclose(lipschitz_bound(pure, math.inf), 1.0)
