"""Optimiser settings and ℓp weight decay."""

import math

import pytest
import torch

from linf_plugin import LinfDistConv2d, LinfDistLinear, build, set_p
from linf_plugin.training import adam
from linf_plugin.training.optim import decay_distances


def test_every_parameter_is_in_one_group_with_its_rate():
    model = build("linf-mlp-head", shape=(1, 3, 3), classes=4, width=5, depth=2, hidden=16)
    loss = torch.nn.Module()
    loss.scalar = torch.nn.Parameter(torch.ones(()))
    optimizer = adam(model, 0.1, loss, scalar_lr=0.01, head_decay=0.02, scalar_decay=0.03)
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert sorted(map(id, held)) == sorted(map(id, [*model.parameters(), loss.scalar]))
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert rate[id(model[2].weight)] == (0.1, 0)
    assert rate[id(model[-3].weight)] == pytest.approx((0.1 / math.sqrt(5), 0.02 * math.sqrt(5)))
    assert rate[id(model[-1].weight)] == pytest.approx((0.1 / 4, 0.02 * 4))
    assert rate[id(model[-3].bias)] == rate[id(model[-1].bias)] == (0.1, 0.02)
    assert rate[id(loss.scalar)] == (0.01, 0.03)
    assert all(g["betas"] == (0.9, 0.99) and g["eps"] == 1e-10 for g in optimizer.param_groups)


def test_the_head_learns_as_if_its_weights_were_scaled_in_the_forward_pass():
    """One Adam step moves w/√n by lr/√n where it moves w by lr."""
    model = build("linf-mlp-head", shape=(1, 3, 3), classes=4, width=4, depth=1, hidden=5)
    optimizer = adam(model, 0.1)
    before = model[-1].weight.detach().clone()
    model(torch.rand(8, 1, 3, 3)).square().sum().backward()
    optimizer.step()
    step = (model[-1].weight - before).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.1 / math.sqrt(5)))


@pytest.mark.parametrize("layer", [LinfDistLinear(7, 3), LinfDistConv2d(2, 3, 2)], ids=["linear", "conv"])
@pytest.mark.parametrize("p", [2.0, 8.0, math.inf], ids=lambda p: f"p={p:g}")
def test_decay_follows_its_formula(layer, p):
    set_p(layer, p)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    bias = layer.bias.detach().clone()
    rows = layer.weight.detach().clone().flatten(1).double()
    decay_distances(layer, 0.1)
    if p == math.inf:
        share = (rows.abs() == rows.abs().amax(1, keepdim=True)).double()
    else:
        share = (rows.abs() / torch.linalg.vector_norm(rows, p, dim=1, keepdim=True)) ** (p - 2)
    torch.testing.assert_close(
        layer.weight.detach().flatten(1).double(), rows - 0.1 * share * rows, rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(layer.bias.detach(), 0.9 * bias)


def test_decay_leaves_zero_rows_alone():
    layer = LinfDistLinear(4, 2, p=8)
    layer.weight.data.zero_()
    decay_distances(layer, 0.1)
    assert torch.equal(layer.weight, torch.zeros(2, 4))
