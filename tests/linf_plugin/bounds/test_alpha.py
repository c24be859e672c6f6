"""What α-CROWN needs of auto_LiRPA's comparison with interval bounds, which 0.3 does not have: here it stands alone."""

import math

import pytest
import torch

from linf_plugin.bounds import alpha

INTERVAL = torch.tensor([0.1, -1.0]), torch.tensor([0.3, 2.0])


@pytest.fixture
def compared():
    """A module whose comparison takes the better of the bounds given and ``INTERVAL``."""

    class Compared:
        _linf_baked = ("a layer",)

        def compare_with_IBP(self, node, lower, upper, C=None):
            return torch.maximum(lower, INTERVAL[0]), None if upper is None else torch.minimum(upper, INTERVAL[1])

    alpha.pass_gradients(Compared)
    return Compared()


def test_gradients_pass_and_values_stay(compared):
    lower, upper = torch.tensor([-0.7, 0.3]).requires_grad_(), torch.tensor([0.2, 2.9]).requires_grad_()
    better = compared.compare_with_IBP(None, lower=lower, upper=upper)
    assert torch.equal(better[0], torch.tensor([0.1, 0.3])) and torch.equal(better[1], torch.tensor([0.2, 2.0]))
    (better[0].sum() - better[1].sum()).backward()
    assert torch.equal(lower.grad, torch.ones(2)) and torch.equal(upper.grad, -torch.ones(2))


def test_one_side_and_infinite_bounds(compared):
    lower = torch.tensor([-math.inf, 0.3]).requires_grad_()
    better = compared.compare_with_IBP(None, lower=lower, upper=None)
    assert torch.equal(better[0], torch.tensor([0.1, 0.3])) and better[1] is None


def test_other_models_notice_nothing(compared):
    compared._linf_baked = ()
    lower, upper = torch.tensor([-0.7, 0.3]).requires_grad_(), torch.tensor([0.2, 2.9])
    better = compared.compare_with_IBP(None, lower=lower, upper=upper)
    better[0].sum().backward()
    assert torch.equal(lower.grad, torch.tensor([0.0, 1.0]))
