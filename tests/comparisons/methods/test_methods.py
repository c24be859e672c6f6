"""Losses as recipes name them: what they take from the model and the schedule."""

import pytest
import torch

from comparisons.methods.kinds import METHODS
from comparisons.methods.losses import LOSSES
from linf_plugin import build
from linf_plugin.training import Schedule, clipped_hinge, interval_hinge

SCHEDULE = Schedule(epochs=10, eps=0.2, p_end=8)
X, Y = torch.rand(5, 1, 3, 3), torch.tensor([0, 3, 1, 2, 1])


@pytest.mark.parametrize("epoch, weight", [(0, 0.4), (4, 0.2), (8, 0.1), (9, 0.1)])
def test_hinges_have_the_radius_of_the_step_and_a_falling_cross_entropy(epoch, weight):
    """Pixels are divided by 0.25, so that ε = 0.2 is 0.8 in logits and in features."""
    step = SCHEDULE.at(epoch)
    net = build("linf-mlp", shape=(1, 3, 3), classes=4, width=5, depth=2, std=0.25).eval()
    loss = LOSSES["clipped-hinge"](net, SCHEDULE, ce_first=0.4, ce_last=0.1)
    loss.scalar.data.fill_(1.5)
    torch.testing.assert_close(loss(net, X, Y, step), clipped_hinge(net(X), Y, 0.8, weight, 1.5))
    net = build("linf-mlp-head", shape=(1, 3, 3), classes=4, width=5, depth=2, hidden=6, std=0.25).eval()
    loss = LOSSES["interval-hinge"](net, SCHEDULE, ce_first=0.4, ce_last=0.1)
    loss.scalar.data.fill_(1.5)
    features, head = net.split_head()
    torch.testing.assert_close(loss(net, X, Y, step), interval_hinge(head, features(X), Y, 0.8, weight, 1.5))


@pytest.mark.parametrize("weights", [(0, 0.1), (0.1, 0), (-1, 0.1)])
@pytest.mark.parametrize("name", ["clipped-hinge", "interval-hinge"])
def test_weights_that_cannot_fall_geometrically_are_refused(name, weights):
    net = build("linf-mlp-head", shape=(1, 3, 3), classes=4, width=5, depth=2, hidden=6)
    with pytest.raises(ValueError, match="ce_first and ce_last must be positive"):
        LOSSES[name](net, SCHEDULE, *weights)


def test_losses_of_lipschitz_nets_ask_for_margins():
    net, step = build("sll-mlp", shape=(1, 3, 3), classes=4, depth=2, hidden=5).eval(), SCHEDULE.at(0)
    z, at = net(X), Y.unsqueeze(1)
    shifted = (z - 0.6 * torch.eye(4)[Y]) / 0.5
    expected = 0.5 * (shifted.logsumexp(1) - shifted.gather(1, at).squeeze(1)).mean()
    torch.testing.assert_close(
        LOSSES["offset-ce"](net, SCHEDULE, temperature=0.5, offset=0.6)(net, X, Y, step), expected
    )
    short = (0.7 - z.gather(1, at) + z).clamp_min(0).scatter(1, at, 0)
    torch.testing.assert_close(LOSSES["multi-margin"](net, SCHEDULE)(net, X, Y, step), short.sum(1).mean() / 4)
    with pytest.raises(ValueError, match="temperature must be positive"):
        LOSSES["offset-ce"](net, SCHEDULE, temperature=0.0)
    with pytest.raises(ValueError, match="margin must be positive"):
        LOSSES["multi-margin"](net, SCHEDULE, margin=-1.0)


def test_every_kind_has_a_label_of_its_own():
    assert len({m.label for m in METHODS.values()}) == len(METHODS)
