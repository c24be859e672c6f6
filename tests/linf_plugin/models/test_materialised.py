"""Nets of forms for training become nets of plain layers: the same function, with their spec and their state."""

import copy

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.certificates import margin_bound
from linf_plugin.layers.facts import FACTS, TRAINED
from linf_plugin.models.architectures import build
from linf_plugin.models.materialised import ARGUMENTS

NETS = {
    "sll-conv": dict(shape=(1, 8, 8), classes=3, convs=2, dense=1, width=3, inner=2, hidden=4, mean=(0.3,)),
    "cpl-mlp": dict(shape=(1, 3, 3), classes=3, depth=3, hidden=5, method="norm2toep"),
    "aol-conv": dict(shape=(1, 6, 6), classes=3, channels=(4, 6), strides=(1, 2), width=8),
    "circulant-mlp": dict(shape=(1, 3, 3), classes=3, depth=3, normalized=True),
    "relu-conv": dict(shape=(1, 6, 6), classes=3, channels=(4,), strides=(2,), width=8, batch_norm=True),
}


@torch.no_grad()
@pytest.mark.parametrize("name", NETS)
def test_the_plain_net_is_the_same_function_and_can_be_rebuilt(name):
    torch.manual_seed(0)
    net = build(name, **NETS[name]).eval()
    state = torch.get_rng_state()
    plain = lp.materialise(net)
    assert torch.equal(torch.get_rng_state(), state) and not plain.training
    x = torch.rand(4, *net.input_shape)
    torch.testing.assert_close(plain(x), net(x), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, (*TRAINED, nn.BatchNorm2d)) for layer in plain)
    twin = lp.Net(plain.spec).eval()
    twin.load_state_dict(plain.state_dict())
    assert torch.equal(twin(x), plain(x)) and lp.materialise(plain) is plain
    if name != "relu-conv":
        assert lp.lipschitz_bound(plain[:-1], 2) <= 1 + 1e-12


@torch.no_grad()
def test_a_module_of_ones_own_is_copied():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.rest = lp.SLLLinear(4, 3), nn.Sequential(lp.CPLLinear(4, 2), lp.NormalizedRows(4, 2))

        def forward(self, x):
            return self.rest(self.first(x))

    net, x = Own().eval(), torch.randn(3, 4)
    plain, before = lp.materialise(net), copy.deepcopy(net.state_dict())
    torch.testing.assert_close(plain(x), net(x), rtol=1e-4, atol=1e-5)
    kinds = [type(m).__name__ for m in (plain.first, *plain.rest)]
    assert kinds == ["PotentialLinear", "PotentialLinear", "Linear"] and type(net.first) is lp.SLLLinear
    assert all(torch.equal(a, before[key]) for key, a in net.state_dict().items() if a.is_floating_point())
    assert type(lp.materialise(net.first)) is lp.PotentialLinear


def test_training_mode_and_weights_that_are_not_finite_are_refused():
    net = build("cpl-mlp", **NETS["cpl-mlp"])
    with pytest.raises(ValueError, match="net is in training mode"):
        lp.materialise(net)
    net[2].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weight must not hold NaN or infinite values"):
        lp.materialise(net.eval())


@pytest.mark.parametrize("sound", (True, False))
def test_certificates_of_a_form_say_what_to_do(sound):
    net, x = build("cpl-mlp", **NETS["cpl-mlp"]).eval(), torch.rand(2, 1, 3, 3)
    with pytest.raises(TypeError, match="CPLLinear: it is a form for training: .*materialise"):
        margin_bound(net, x, torch.zeros(2, dtype=torch.long), 0.1, "ibp", sound=sound)


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: kind.__name__)
def test_the_arguments_of_a_layer_that_stays_are_those_of_a_spec(kind):
    known = FACTS[kind].needed.keys() | FACTS[kind].optional.keys()
    assert FACTS[kind].needed.keys() <= {*ARGUMENTS[kind], "bias"} <= known
