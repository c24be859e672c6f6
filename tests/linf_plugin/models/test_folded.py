"""Batch normalisation is folded into the layer before it: the function stays the same up to rounding."""

import copy
import json
import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates import margin_bound
from linf_plugin.models.folded import FOLDED

NETS = {
    "images": dict(
        name="relu-conv", shape=(2, 6, 6), classes=3, channels=(3, 4), strides=(1, 2), width=5, batch_norm=True
    ),
    "rows": dict(name="relu-mlp", shape=(1, 3, 3), classes=3, width=6, depth=3, batch_norm=True, mean=(0.3,), std=0.4),
    "ramp": dict(name="cnn3", shape=(1, 8, 8), classes=3, width=2, activation="ramp"),
    "max-min": dict(name="cnn7", shape=(1, 8, 8), classes=3, width=2, hidden=(4,), activation="max-min"),
    "crop": dict(name="cnn5", shape=(3, 8, 8), classes=3, width=2, hidden=(4,), crop=6, mean=(0.1, 0.2, 0.3)),
}
each_net = pytest.mark.parametrize("name", NETS)
CONV = ["conv", {"in_channels": 2, "out_channels": 4, "kernel_size": 3, "bias": False}]
NORM, FLAT = ["batch_norm", {"num_features": 4}], ["flatten", {}]
LAST = ["linear", {"in_features": 64, "out_features": 3}]


@torch.no_grad()
def settled(net):
    """In evaluation mode, with scales of both signs."""
    for layer in net:
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for a in (layer.weight, layer.bias, layer.running_mean):
                a.normal_()
            layer.running_var.uniform_(0.1, 2)
            layer.num_batches_tracked.fill_(7)
        if isinstance(layer, lp.ParamRamp):
            layer.top.uniform_(0.2, 1)
    return net.eval()


def made(name):
    torch.manual_seed(0)
    return settled(lp.build(**NETS[name]))


def of_layers(*layers):
    torch.manual_seed(0)
    return settled(lp.Net({"input_shape": [2, 6, 6], "layers": [list(layer) for layer in layers]}))


def assert_same_function(net, folded):
    x = torch.rand(20, *net.input_shape, dtype=torch.float64)
    exact = copy.deepcopy(net).double()(x)
    assert not any(isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) for layer in folded)
    assert not any(module.training for module in folded.modules())
    twin = lp.fold_batch_norm(copy.deepcopy(net).double())
    assert all(a.dtype == torch.float64 for a in twin.parameters())
    torch.testing.assert_close(twin(x), exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(folded(x.float()).double(), exact, rtol=1e-4, atol=1e-4)


@each_net
@torch.no_grad()
def test_the_function_stays_the_same(name):
    net = made(name)
    before = {key: a.clone() for key, a in net.state_dict().items()}
    assert any(layer in FOLDED for layer, _ in net.spec["layers"])
    assert_same_function(net, lp.fold_batch_norm(net))
    assert all(torch.equal(a, before[key]) for key, a in net.state_dict().items())


@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no bias"))
@torch.no_grad()
def test_twice_and_without_a_bias(bias):
    conv = ["conv", CONV[1] | {"bias": bias, "padding": 1, "groups": 2, "padding_mode": "reflect", "stride": [2, 1]}]
    net = of_layers(conv, NORM, NORM, ["max_min", {}], FLAT, ["linear", {"in_features": 72, "out_features": 3}])
    folded = lp.fold_batch_norm(net)
    assert [layer for layer, _ in folded.spec["layers"]] == ["conv", "max_min", "flatten", "linear"]
    assert_same_function(net, folded)


@each_net
@torch.no_grad()
def test_the_folded_net_has_a_spec_and_is_saved(name, tmp_path):
    folded, x = lp.fold_batch_norm(made(name)), torch.rand(4, *NETS[name]["shape"])
    twin = lp.Net(json.loads(json.dumps(folded.spec))).eval()
    twin.load_state_dict(folded.state_dict())
    assert torch.equal(twin(x), folded(x))
    lp.save(tmp_path / "net.pt", folded)
    back, _ = lp.load(tmp_path / "net.pt")
    assert torch.equal(back.eval()(x), folded(x))


@each_net
@torch.no_grad()
def test_a_net_that_is_not_folded_is_saved_with_its_statistics(name, tmp_path):
    net, x = made(name), torch.rand(4, *NETS[name]["shape"])
    lp.save(tmp_path / "net.pt", net)
    back, _ = lp.load(tmp_path / "net.pt")
    assert torch.equal(back.eval()(x), net(x))
    counts = [layer.num_batches_tracked for layer in back if hasattr(layer, "num_batches_tracked")]
    assert counts and all(count.dtype == torch.int64 and count == 7 for count in counts)


def test_a_count_that_is_no_whole_number_is_refused(tmp_path):
    net = made("rows")
    next(layer for layer in net if isinstance(layer, nn.BatchNorm1d)).num_batches_tracked = torch.tensor(7.0)
    lp.save(tmp_path / "net.pt", net)
    with pytest.raises(ValueError, match="num_batches_tracked must be an int64 tensor, got torch.float32"):
        lp.load(tmp_path / "net.pt")


@pytest.mark.parametrize("sound", (True, False), ids=("sound", "without rounding"))
@pytest.mark.parametrize("method", ("ibp", "crown-ibp", "crown"))
def test_bounds_of_both_nets_agree(method, sound):
    """Up to rounding.  (The Lipschitz bound of fewer layers is smaller.)"""
    net = made("images")
    folded, x, y = lp.fold_batch_norm(net), torch.rand(8, 2, 6, 6), torch.arange(8) % 3
    found, before = (margin_bound(each, x, y, 0.02, method, sound=sound) for each in (folded, net))
    assert found.isfinite().all()
    torch.testing.assert_close(found, before, rtol=1e-4, atol=1e-4)
    assert lp.lipschitz_bound(folded, math.inf) <= lp.lipschitz_bound(net, math.inf)


@torch.no_grad()
def test_nothing_random_is_drawn_and_a_net_without_normalisation_stays():
    net, plain = made("images"), lp.build("relu-mlp", shape=(1, 2, 2), classes=2, width=3, depth=2).eval()
    state = torch.get_rng_state()
    lp.fold_batch_norm(net)
    assert torch.equal(torch.get_rng_state(), state) and lp.fold_batch_norm(plain) is plain


REFUSED = {
    "training": (lambda: made("rows").train(), "net is in training mode: call net.eval"),
    "one layer in training": (lambda: _in_training(made("rows")), "net is in training mode"),
    "first": (lambda: of_layers(["batch_norm", {"num_features": 2}], CONV, FLAT, LAST), "layer 0 of net, batch_norm,"),
    "after an activation": (
        lambda: of_layers(CONV, ["relu", {}], NORM, FLAT, LAST),
        "layer 2 of net, batch_norm, does not follow a conv layer",
    ),
    "after distances": (
        lambda: of_layers(
            FLAT, ["dist", {"in_features": 72, "out_features": 3}], ["batch_norm_rows", {"num_features": 3}]
        ),
        "layer 2 of net, batch_norm_rows, does not follow a linear layer",
    ),
    "by the batch": (lambda: _by_the_batch(of_layers(CONV, NORM, FLAT, LAST)), "layer 1 .*no running statistics"),
    "another layer": (lambda: _with_another_layer(of_layers(CONV, NORM, FLAT, LAST)), "build a new Net"),
}


def _in_training(net):
    net[2].train()
    return net


def _by_the_batch(net):
    net[1] = nn.BatchNorm2d(4, track_running_stats=False).eval()
    return net


def _with_another_layer(net):
    net[2] = nn.Identity().eval()
    return net


@pytest.mark.parametrize("net, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_folded_is_named(net, message):
    with pytest.raises(ValueError, match=message):
        lp.fold_batch_norm(net())


@torch.no_grad()
def test_a_normalisation_without_scale_is_folded():
    net = of_layers(CONV, NORM, FLAT, LAST)
    net[1] = nn.BatchNorm2d(4, eps=0.25, affine=False).eval()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.1, 2)
    assert_same_function(net, lp.fold_batch_norm(net))
