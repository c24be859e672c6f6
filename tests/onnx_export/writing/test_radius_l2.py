"""The constants of radii in ℓ2: bounds of pairs, rounding, bytes, and what is refused."""

import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates.pairs import pair_bounds
from onnx_export.writing import radius_l2
from onnx_export.writing.radius_l2 import check_cost, pair_constants


@pytest.fixture
def net(small_net):
    return lp.materialise(small_net("sll-mlp", depth=3, hidden=16))


def plain_net(layers, shape=(4,)) -> lp.Net:
    torch.manual_seed(0)
    return lp.Net({"input_shape": list(shape), "layers": layers}).eval()


OTHERS = ~torch.eye(10, dtype=torch.bool).numpy()


def test_bounds_of_pairs_with_rounding(net):
    c, pairs = pair_constants(net), pair_bounds(net, 2).numpy()
    assert c.pairs.shape == (10, 10) and (c.pairs >= pairs + 0.499 * c.slope).all()
    assert (c.pairs < pairs * 1.001 + 1e-3)[OTHERS].all()
    assert 0 < c.slack < 1e-3 and 0 < c.slope < 1e-3 and c.most == pytest.approx(8)
    assert c.lipschitz >= lp.lipschitz_bound(net, 2) == pytest.approx(c.lipschitz, rel=1e-5)
    assert c.centre.shape == (1, 1, 1) and c.centre.item() == net[0].mean.item()


def test_one_bound_where_the_last_layer_is_not_linear():
    net = plain_net([["linear", {"in_features": 4, "out_features": 6}], ["max_min", {}]])
    c = pair_constants(net)
    assert c.pairs.shape == (1, 1) and c.centre.tolist() == [0.5]
    assert math.sqrt(2) * lp.lipschitz_bound(net, 2) < c.pairs.item() < math.sqrt(2) * c.lipschitz * 1.0001


def test_one_bound_for_too_many_classes(net, monkeypatch):
    pairs = pair_constants(net).pairs
    monkeypatch.setattr(radius_l2, "MOST_PAIRED", 9)
    (one,) = pair_constants(net).pairs.ravel()
    assert one >= pairs[OTHERS].max() and one == pytest.approx(math.sqrt(2) * lp.lipschitz_bound(net, 2), rel=1e-2)


def test_bytes_cost_their_own_rounding(net):
    floats, levels = pair_constants(net), pair_constants(net, "byte")
    assert levels.most == pytest.approx(255 * floats.most) and levels.slope == floats.slope
    more = levels.slack - floats.slack
    assert more == pytest.approx(floats.pairs[OTHERS].max() * 8 * 2.0**-24, abs=2.0**-14 * floats.slack)
    assert levels.pairs == pytest.approx(floats.pairs / 255, rel=1e-5)
    assert levels.lipschitz == pytest.approx(floats.lipschitz / 255, rel=1e-5)


def test_layers_without_a_bound_are_refused_by_name(small_net):
    with pytest.raises(TypeError, match="no ℓ2 Lipschitz bound is known for LinfDistLinear"):
        pair_constants(small_net(width=4, depth=2))


@torch.no_grad()
def test_overflow_is_refused(net):
    net[-1].weight.fill_(1e38)
    with pytest.raises(ValueError, match="activations of model may overflow"):
        pair_constants(net)


@pytest.mark.parametrize(
    "layers, shape, place",
    [
        ([["potential", {"features": 4, "inner": 9000}]], (4,), 0),
        ([["flatten", {}], ["linear", {"in_features": 9000, "out_features": 9000}]], (9000,), 1),
        ([["conv", {"in_channels": 9000, "out_channels": 1, "kernel_size": 1}]], (9000, 1, 1), 0),
        ([["conv", {"in_channels": 1, "out_channels": 1, "kernel_size": 1501, "padding": 750}]], (1, 2, 2), 0),
    ],
    ids=["rows of a residual layer", "a matrix", "channels", "taps"],
)
def test_a_small_file_cannot_ask_for_terabytes(layers, shape, place):
    with torch.device("meta"):
        parts = lp.Net({"input_shape": list(shape), "layers": layers})
    with pytest.raises(ValueError, match=f"layer {place} of model has a weight of shape .* too long to bound"):
        check_cost(parts)


def test_the_largest_published_net_is_not_too_large():
    with torch.device("meta"):
        net = nn.Sequential(
            *(lp.PotentialConv2d(120, 5) for _ in range(70)),
            *(lp.PotentialLinear(7680, 2048) for _ in range(15)),
            nn.Linear(7680, 200),
        )
    check_cost(net)
