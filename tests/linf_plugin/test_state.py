"""A state holds every constant of a layer's function beside its tensors, or the state is refused."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import linf_plugin as lp
from linf_plugin import (
    LinfDistConv2d,
    LinfDistLinear,
    Net,
    Normalize,
    SortDistLinear,
    StateWarning,
    build,
    layers,
    set_p,
    state,
)
from linf_plugin.layers import base
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.shifts import CenterCrop

CHANGED = {  # a layer, the same with another constant, and a part of the message
    "rho": (lambda: SortDistLinear(6, 5, rho=0.5), lambda: SortDistLinear(6, 5, rho=0.25), "rho=0.5 there, 0.25 here"),
    "k": (lambda: SortDistLinear(6, 5, rho=0.5, k=3), lambda: SortDistLinear(6, 5, rho=0.5, k=4), "k=3 there, 4 here"),
    "stride": (
        lambda: LinfDistConv2d(2, 4, 2, stride=(2, 1)),
        lambda: LinfDistConv2d(2, 4, 2, stride=2),
        r"stride=\[2, 1\] there, \[2, 2\] here",
    ),
    "padding": (lambda: LinfDistConv2d(2, 4, 2), lambda: LinfDistConv2d(2, 4, 2, padding=1), "padding=.* there"),
    "dilation": (lambda: LinfDistConv2d(2, 4, 2), lambda: LinfDistConv2d(2, 4, 2, dilation=2), "dilation=.* there"),
    "groups": (lambda: LinfDistConv2d(2, 4, 2, groups=2), lambda: LinfDistConv2d(1, 4, 2), "groups=2 there, 1 here"),
    "scale": (lambda: Normalize((0.5,), 0.25), lambda: Normalize((0.5,), 0.5), "scale=4.0 there, 2.0 here"),
    "size": (lambda: CenterCrop(4), lambda: CenterCrop(3), "size=4 there, 3 here"),
}
NETS = {
    "mlp": lambda: build("linf-mlp", shape=(1, 4, 4), classes=3, width=6, depth=3, std=0.3),
    "conv": lambda: build("linf-conv", shape=(1, 8, 8), classes=3, channels=(3, 4), strides=(1, 2), width=5, crop=6),
    "sortnet": lambda: build("sortnet-mlp", shape=(1, 4, 4), classes=3, width=6, depth=2, rho=0.5, k=3),
}
each_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


def pair(make, p=8.0, other=math.inf):
    """Returns two nets with different weights and different p."""
    one, two = make().eval(), make().eval()
    set_p(one, p)
    set_p(two, other)
    return one, two, torch.rand(3, *one.input_shape)


@each_net
@pytest.mark.parametrize("p, other", [(8.0, math.inf), (math.inf, 8.0), (1.5, 2.0)])
@pytest.mark.parametrize("options", [{}, {"strict": False}, {"assign": True}], ids=str)
def test_a_loaded_state_gives_the_function_that_was_saved(make, p, other, options):
    one, two, x = pair(make, p, other)
    two.load_state_dict(one.state_dict(), **options)
    assert torch.equal(two(x), one(x)) and lipschitz_bound(two, math.inf) == lipschitz_bound(one, math.inf)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", CHANGED)
def test_a_state_of_another_function_is_refused_and_named(name, strict):
    here, there, message = CHANGED[name]
    net, other = nn.Sequential(nn.Flatten(0, -1), there()), nn.Sequential(nn.Flatten(0, -1), here())
    with pytest.raises(RuntimeError, match=rf"(?s)layer '1' \({type(other[1]).__name__}\): .*{message}"):
        net.load_state_dict(other.state_dict(), strict=strict)
    there().load_state_dict(there().state_dict(), strict=strict)
    with pytest.raises(RuntimeError, match=message):
        there().load_state_dict(here().state_dict(), strict=strict)


def test_a_sorted_layer_is_no_distance_layer():
    message = r"(?s)LinfDistLinear: it holds p, rho, k but must hold p.*end in _extra_state"
    with pytest.raises(RuntimeError, match=message):
        LinfDistLinear(6, 5).load_state_dict(SortDistLinear(6, 5, rho=0.5).state_dict())


def test_every_argument_of_a_layer_is_in_its_state_or_changes_no_function():
    """A new argument of a layer must be in one of the two."""
    of_training = {"identity_init", "momentum", "group", "device", "dtype"}
    in_shapes = {
        "in_features",
        "out_features",
        "in_channels",
        "out_channels",
        "kernel_size",
        "bias",
        "num_features",
        "features",
        "channels",
        "inner",
        "mean",
        "top",
    }
    said = {"std": "scale"}
    kinds = [
        kind
        for kind in vars(layers).values()
        if inspect.isclass(kind)
        and issubclass(kind, nn.Module)
        and kind.__module__.startswith(f"{layers.__name__}.")
        and not kind.__name__.startswith("_")
    ]
    assert {LinfDistLinear, LinfDistConv2d, SortDistLinear, Normalize, CenterCrop} <= set(kinds)
    for kind in kinds:
        names = {said.get(name, name) for name in inspect.signature(kind).parameters} - of_training - {"args", "kwargs"}
        held = {*kind.restored, *kind.compared} if issubclass(kind, state.Constants) else set()
        assert held <= names and names - held <= in_shapes, kind


@each_net
def test_states_written_before_load_with_one_warning(make, tmp_path):
    one, two, x = pair(make, 2.0, 2.0)
    old = state.tensors(one)
    assert not any(key.endswith(state.KEY) for key in old)
    with pytest.warns(StateWarning, match="the state says nothing of") as warned:
        two.load_state_dict(old)
    assert len(warned) == 1
    assert torch.equal(two(x), one(x))
    with pytest.warns(StateWarning):  # and again, as many times as a state is loaded
        two.load_state_dict(old, strict=False)
    if not isinstance(two[1], CenterCrop):
        two.load_state_dict({}, strict=False)  # nothing is loaded, and there is no warning


def test_what_else_is_missing_is_still_an_error():
    net = NETS["mlp"]()
    old = state.tensors(net)
    del old["2.weight"]
    with pytest.warns(StateWarning), pytest.raises(RuntimeError, match=r'Missing key.*state_dict: "2.weight"\. '):
        net.load_state_dict(old)


def test_states_that_are_averaged_or_converted():
    """A user who averages weights by hand treats all values of a state like this."""
    layer, other = LinfDistLinear(6, 5, p=3), LinfDistLinear(6, 5, p=8)
    held = other.state_dict()
    for converted in ({k: v.float() for k, v in held.items()}, {k: (v + v) / 2 for k, v in held.items()}):
        layer.p = 3
        layer.load_state_dict(converted)
        assert layer.p == 8
    mixed = {k: (v + held[k]) / 2 for k, v in LinfDistLinear(6, 5, p=3).state_dict().items()}
    with pytest.raises(RuntimeError, match="_extra_state must be"):
        layer.load_state_dict(mixed)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (torch.full((3,), 0.5), "must be a tensor of bytes, got torch.float32"),
        ({"p": 8.0}, "must be a tensor of bytes"),
        (torch.tensor(list(b"{"), dtype=torch.uint8), "must be JSON"),
        (torch.tensor(list(b"[" * 1000), dtype=torch.uint8), "must be JSON"),
        (torch.tensor(list(b"[" * 100_000), dtype=torch.uint8), "must have at most 1000 bytes, got 100000"),
        (torch.tensor([255], dtype=torch.uint8), "must be JSON"),
        (torch.tensor(list(b"[8]"), dtype=torch.uint8), "must be a JSON object"),
        (torch.tensor(list(b"{}"), dtype=torch.uint8), "it holds nothing but must hold p"),
        (torch.tensor(list(b'{"p": 8, "q": 1}'), dtype=torch.uint8), "it holds p, q but must hold p"),
        (torch.tensor(list(b'{"p": 0.5}'), dtype=torch.uint8), "p must be at least 1"),
        (torch.tensor(list(b'{"p": NaN}'), dtype=torch.uint8), "p must be at least 1"),
        (torch.tensor(list(b'{"p": "8"}'), dtype=torch.uint8), "p must be a number"),
    ],
)
def test_a_state_that_is_not_as_written_is_refused(wrong, message):
    layer = LinfDistLinear(6, 5, p=3)
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict(layer.state_dict() | {state.KEY: wrong})
    with pytest.raises(ValueError, match=message):
        layer.set_extra_state(wrong)
    assert layer.p == 3


@each_net
def test_states_are_tensors_that_torch_loads_without_running_anything(make, tmp_path):
    one, two, x = pair(make)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    two.load_state_dict({key: a.detach().cpu().clone() for key, a in loaded.items()})
    assert torch.equal(two(x), one(x))


@each_net
def test_states_pass_through_wrappers(make):
    one, two, x = pair(make)
    wrapped = nn.DataParallel(two)
    wrapped.load_state_dict({f"module.{key}": a for key, a in one.state_dict().items()})
    assert torch.equal(two(x), one(x))
    averaged = AveragedModel(make().eval())
    averaged.load_state_dict(AveragedModel(one).state_dict())
    assert torch.equal(averaged(x), one(x))
    averaged.update_parameters(one)
    two.load_state_dict(averaged.module.state_dict())
    assert torch.equal(copy.deepcopy(two)(x), one(x))


@each_net
def test_states_are_parameters_of_functional_calls(make):
    one, two, x = pair(make)
    set_p(two, 8.0)
    for given in (one.state_dict(), state.tensors(one)):
        assert torch.equal(torch.func.functional_call(two, given, (x,)), one(x))
    assert not any(hasattr(m, state.KEY) for m in two.modules())


@each_net
def test_traces_and_exports_do_not_mind(make):
    one, _, x = pair(make)
    assert torch.equal(torch.export.export(one, (x,)).module()(x), one(x))


def test_files_are_as_before_and_say_p_by_the_spec(tmp_path):
    net = NETS["sortnet"]().eval()
    set_p(net, 8.0)
    lp.save(tmp_path / "net.pt", net)
    content = lp.checkpoint.read(tmp_path / "net.pt")
    assert not any(key.endswith(state.KEY) for key in content["state"])
    again, _ = lp.load(tmp_path / "net.pt")
    assert again.spec == net.spec and {m.p for m in base.distance_layers(again)} == {8.0}


SPECS = {  # net → a change of its layers that its tensors do not show
    "rho": ("sortnet", lambda net: setattr(net[4], "rho", 0.25)),
    "k": ("sortnet", lambda net: setattr(net[4], "k", 1)),
    "scale": ("mlp", lambda net: setattr(net[0], "scale", 2.5)),
}


@pytest.mark.parametrize("name", SPECS)
def test_files_hold_what_a_layer_has_become(name, tmp_path):
    which, alter = SPECS[name]
    net = NETS[which]().eval()
    assert net.spec == NETS[which]().spec
    alter(net)
    lp.save(tmp_path / "net.pt", net)
    again, _ = lp.load(tmp_path / "net.pt")
    x = torch.rand(4, *net.input_shape)
    assert torch.equal(again(x), net(x)) and lipschitz_bound(again, math.inf) == lipschitz_bound(net, math.inf)


def test_a_spec_holds_the_windows_that_layers_have_now():
    net = NETS["conv"]()
    net[1].size, net[2].padding, net[4].stride = 5, (2, 1), (2, 3)
    again = Net(net.spec)
    assert (again[1].size, again[2].padding, again[4].stride) == (5, (2, 1), (2, 3))


def test_a_net_whose_layers_were_exchanged_is_not_saved(tmp_path):
    for alter in (
        lambda net: net.append(nn.Tanh()),
        lambda net: net.__setitem__(2, nn.Linear(16, 6)),
        lambda net: net.__delitem__(5),
    ):
        net = NETS["mlp"]()
        alter(net)
        with pytest.raises(ValueError, match="the layers of this Net are no longer those it was built from"):
            lp.save(tmp_path / "net.pt", net)
        assert not (tmp_path / "net.pt").exists()


def test_the_scale_of_a_normalisation_is_its_lipschitz_bound():
    layer = Normalize((0.5,), 0.25)
    layer.scale = 8.0
    assert lipschitz_bound(layer, math.inf) == lp.lipschitz_bound(layer, math.inf) == 8.0
    vars(layer)["lipschitz"] = 4.0  # as layers pickled by earlier versions have it
    assert "lipschitz" not in vars(pickle.loads(pickle.dumps(layer)))
