"""PGD finds what can be found, and repeats."""

import pytest
import torch
from torch import nn

from comparisons.attacks.attacked import pgd_survives
from linf_plugin import build


class Threshold(nn.Module):
    """Class 1 where the mean pixel is above 1/2: the exact robust radius is |mean − 1/2|."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


def test_it_breaks_exactly_what_can_be_broken():
    mean = torch.linspace(0.3, 0.7, 21)
    x = mean.view(-1, 1, 1, 1).expand(-1, 1, 3, 3).contiguous()
    y = (mean > 0.5).long()
    keep = (mean - 0.5).abs() > 0.01
    survives = pgd_survives(Threshold().eval(), x, y, 0.1, steps=20, restarts=1)
    away = ((mean - 0.5).abs() - 0.1).abs() > 0.01  # not within rounding of the boundary
    assert torch.equal(survives[keep & away], ((mean - 0.5).abs() > 0.1)[keep & away])


def test_misclassified_samples_do_not_survive_and_radius_zero_is_clean_accuracy():
    x = torch.full((2, 1, 2, 2), 0.9)
    y = torch.tensor([0, 1])
    assert pgd_survives(Threshold().eval(), x, y, 0.0).tolist() == [False, True]
    assert pgd_survives(Threshold().eval(), x, y, 0.01, steps=2, restarts=1).tolist() == [False, True]


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    import numpy as np

    net = build("linf-mlp", shape=(1, 4, 4), classes=3, width=8, depth=2).eval()
    x, y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    one, two = (pgd_survives(net, x, y, 0.05, steps=3, restarts=2, seed=4) for _ in range(2))
    assert torch.equal(one, two)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_no_survivor_of_a_longer_attack_was_broken_by_a_shorter_one_on_a_linear_net(eps):
    """On a linear model one PGD run reaches the worst corner, so steps beyond that change nothing."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).eval()
    x = 0.3 + 0.4 * torch.rand(40, 1, 3, 3)
    y = net(x).argmax(1).detach()
    w = (net[1].weight[0] - net[1].weight[1]).abs().sum()
    gap = net(x)[:, 0] - net(x)[:, 1]
    exact = gap.abs() > eps * w
    away = (gap.abs() - eps * w).abs() > 1e-4
    survives = pgd_survives(net, x, y, eps, steps=20, restarts=1)
    assert torch.equal(survives[away], exact[away])
