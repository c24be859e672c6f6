"""Whatever the code of a net reads is noticed when it changes, and nothing else is."""

import array
import collections
import copy
import dataclasses
import enum
import functools
import math
import sys
import types
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistLinear
from linf_plugin.bounds import compute_bounds
from linf_plugin.bounds.walk import walk

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

GLOBAL = {"scale": 1.0}
NUMBER = 1.0


class Net(nn.Module):
    """Its outputs are scaled by something that is somewhere."""

    def __init__(self, cfg=None, read=lambda cfg: cfg):
        super().__init__()
        self.d, self.cfg, self.read = LinfDistLinear(4, 3), cfg, read

    def forward(self, x):
        return self.d(x) * self.read(self.cfg)


def bounds(bounded, x):
    return compute_bounds(bounded, (BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1)),), method="IBP")


def bounded_module(net, x):
    return BoundedModule(net.eval(), x)


class Plain:
    scale = 1.0


class Meta(type):
    scale = 1.0


class Kind(enum.Enum):
    ONE = [1.0]


@dataclasses.dataclass
class Settings:
    scale: float = 1.0


class Mapping(dict):
    pass


class Sequence(list):
    pass


class Callable:
    @property
    def scale(self):
        return GLOBAL["scale"]


class Scaled(Net):
    cfg = None

    def __init__(self):
        super().__init__()
        del self.cfg

    def forward(self, x):
        return self.d(x) * self.cfg.scale


def scaled(state):
    def decorate(f):
        @functools.wraps(f)
        def scaled_forward(self, x):
            return f(self, x) * state["k"]

        return scaled_forward

    return decorate


def helper(module, x):
    return x if not module.training else 5 * x


def further(module, x):
    return inner(module, x)


inner = helper


def tuned(x):
    return x * tuned.scale


def in_class():
    return type("Held", (Scaled,), {"cfg": types.SimpleNamespace(scale=1.0)})()


def in_closure():
    state = {"k": 1.0}
    kind = type("Decorated", (Net,), {"forward": scaled(state)(lambda self, x: self.d(x))})
    return kind(), lambda net: state.update(k=5.0)


def in_default():
    class Defaults(Net):
        def forward(self, x, k=[1.0]):  # noqa: B006  (a default that changes is what is tested)
            return self.d(x) * k[0]

    return Defaults(), lambda net: Defaults.forward.__defaults__[0].__setitem__(0, 5.0)


def in_namespace():
    module = types.ModuleType("settings_of_a_test")
    module.scale = 1.0
    return Net(module, lambda cfg: cfg.scale), lambda net: setattr(module, "scale", 5.0)


def by_keys():
    first, second = nn.ReLU(), nn.ReLU()
    return Net({first: 1.0, second: 2.0}, lambda cfg: cfg[first]), lambda net: net.cfg.update({first: 5.0})


def in_weight():
    net = Net(None, lambda cfg: net.d.weight.gain)
    net.d.weight.gain = 1.0
    return net, lambda net: setattr(net.d.weight, "gain", 5.0)


def of_attribute(make, read, change):
    return lambda: (Net(make(), read), change)


def of_forward(forward, change):
    return lambda: (type("Other", (Net,), {"forward": forward})(), change)


def setting(kind, key):
    return lambda net: PATCH.setattr(kind, key, 5.0)


PATCH = pytest.MonkeyPatch()
scale = lambda cfg: cfg.scale  # noqa: E731  (a function that has no name of its own)
SETTINGS = {  # what scales → (net, change)
    "class": of_attribute(lambda: Plain, scale, setting(Plain, "scale")),
    "class of an object": of_attribute(Plain, scale, setting(Plain, "scale")),
    "metaclass": of_attribute(lambda: Meta("K", (), {}), scale, setting(Meta, "scale")),
    "data class": of_attribute(Settings, scale, lambda net: setattr(net.cfg, "scale", 5.0)),
    "enum": of_attribute(lambda: Kind.ONE, lambda cfg: cfg.value[-1], lambda net: Kind.ONE.value.append(2)),
    "module": in_namespace,
    "object of a class": lambda: (in_class(), lambda net: setattr(net.cfg, "scale", 5.0)),
    "closure": in_closure,
    "default": in_default,
    "attribute of a dictionary": of_attribute(
        Mapping, lambda cfg: getattr(cfg, "scale", 1.0), lambda net: setattr(net.cfg, "scale", 5.0)
    ),
    "attribute of a list": of_attribute(
        lambda: Sequence([1]), lambda cfg: getattr(cfg, "scale", 1.0), lambda net: setattr(net.cfg, "scale", 5.0)
    ),
    "attribute of a function": of_forward(lambda self, x: tuned(self.d(x)), lambda net: setattr(tuned, "scale", 5.0)),
    "attribute of a weight": in_weight,
    "bytes": of_attribute(lambda: bytearray([1]), lambda cfg: cfg[0], lambda net: net.cfg.__setitem__(0, 5)),
    "array": of_attribute(lambda: array.array("d", [1]), lambda cfg: cfg[0], lambda net: net.cfg.__setitem__(0, 5)),
    "view": of_attribute(
        lambda: types.MappingProxyType(GLOBAL),
        lambda cfg: cfg["scale"],
        lambda net: PATCH.setitem(GLOBAL, "scale", 5.0),
    ),
    "default of a dictionary": of_attribute(
        lambda: collections.defaultdict(lambda: 1.0),
        lambda cfg: cfg["a"],
        lambda net: (net.cfg.clear(), setattr(net.cfg, "default_factory", float)),
    ),
    "method of a dictionary": of_attribute(
        lambda: {"a": 1.0}.get, lambda cfg: cfg("a"), lambda net: net.cfg.__self__.update(a=5.0)
    ),
    "objects in a set": of_attribute(
        lambda: {Callable(), types.FunctionType},
        len,
        lambda net: vars(next(c for c in net.cfg if isinstance(c, Callable))).update(a=1),
    ),
    "weak reference": of_attribute(lambda: weakref.ref(Plain), lambda cfg: cfg().scale, setting(Plain, "scale")),
    "keys that are written alike": by_keys,
    "arrays of objects": of_attribute(
        lambda: np.array([1.0, None]), lambda cfg: cfg[0], lambda net: net.cfg.__setitem__(0, 5.0)
    ),
    "global dictionary": of_forward(
        lambda self, x: self.d(x) * GLOBAL["scale"], lambda net: PATCH.setitem(GLOBAL, "scale", 5.0)
    ),
    "global number": of_forward(lambda self, x: self.d(x) * NUMBER, setting(sys.modules[__name__], "NUMBER")),
    "global of a property": of_attribute(Callable, scale, lambda net: PATCH.setitem(GLOBAL, "scale", 5.0)),
    "mode in a helper": of_forward(lambda self, x: helper(self, self.d(x)), lambda net: net.train()),
    "mode behind a helper": of_forward(lambda self, x: further(self, self.d(x)), lambda net: net.train()),
    "helper": of_forward(
        lambda self, x: further(self, self.d(x)),
        lambda net: PATCH.setattr(sys.modules[__name__], "inner", lambda m, x: 5 * x),
    ),
    "code": of_forward(
        lambda self, x: further(self, self.d(x)),
        lambda net: PATCH.setattr(further, "__code__", (lambda module, x: 5 * x).__code__),
    ),
}


@pytest.fixture(autouse=True)
def put_back():
    tuned.scale = 1.0
    yield
    PATCH.undo()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_noticed_wherever_it_is(name):
    net, change = SETTINGS[name]()
    x = torch.rand(1, 4)
    bounded = bounded_module(net, x)
    lower, upper = bounds(bounded, x)
    assert (lower <= net(x)).all() and (net(x) <= upper).all()
    bounds(bounded, x)
    change(net)
    with pytest.raises(RuntimeError, match="make it again|call eval"):
        bounds(bounded, x)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_same_net_has_the_same_leaves(name):
    net = SETTINGS[name]()[0]
    first, second = walk(net), walk(net)
    assert first.keys() == second.keys() and len(first) < 300


def test_attributes_may_have_the_names_of_what_every_module_has():
    net, x = Net(1.0), torch.rand(1, 4)
    net.layers = net.children_ = 3
    vars(net)["class"] = 2
    bounded = bounded_module(net, x)
    for key in ("layers", "class"):
        before = vars(net)[key]
        vars(net)[key] = 9
        with pytest.raises(RuntimeError, match=f"the model now has {key}=9"):
            bounds(bounded, x)
        vars(net)[key] = before
    bounds(bounded, x)


def test_classes_of_one_name_are_told_apart():
    kinds = [type("Same", (Net,), {"gain": i}) for i in range(2)]
    net, x = nn.Sequential(kinds[0](1.0), nn.Linear(3, 4), kinds[1](1.0)), torch.rand(1, 4)
    bounded = bounded_module(net, x)
    for kind in kinds:
        kind.gain += 1
        with pytest.raises(RuntimeError, match="class Same now has gain="):
            bounds(bounded, x)
        kind.gain -= 1
    bounds(bounded, x)


def test_what_has_been_added_may_be_kept_elsewhere():
    net, x = Net(1.0), torch.rand(1, 4)
    bounded = bounded_module(net, x)
    net.epoch = 3
    with pytest.raises(RuntimeError, match="the model has got epoch since .*: keep that elsewhere, or make it again"):
        bounds(bounded, x)


def test_data_sets_and_what_trains_a_net_are_not_looked_into():
    net, x = Net(1.0), torch.rand(1, 4)
    data = torch.utils.data.TensorDataset(torch.rand(5, 4))
    data.objects = [types.SimpleNamespace(a=i) for i in range(20_000)]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    net.kept = [data, torch.utils.data.DataLoader(data), optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)]
    bounded = bounded_module(net, x)
    net.kept.append(bounded)
    bounded = bounded_module(net, x)
    data.objects.clear()
    optimizer.param_groups[0]["lr"] = 0.5
    bounds(bounded, x)
    assert len(walk(net)) < 200


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_compiled_layers_are_walked():
    net = nn.Sequential(torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU())), LinfDistLinear(3, 2)).eval()
    assert ("0", "training", ()) in walk(net) and ("0.0", "weight", ()) in walk(net)


def test_deep_objects_have_no_limit():
    net = Net(1.0)
    net.chain = None
    for _ in range(3000):
        net.chain = types.SimpleNamespace(next=net.chain)
    assert len(walk(net)) > 3000


def test_copies_share_code():
    net, x = SETTINGS["closure"]()[0], torch.rand(1, 4)
    net.cfg = Plain
    with torch.no_grad():
        both = copy.deepcopy({"net": net, "bounded": bounded_module(net, x)})
    bounds(both["bounded"], x)
    PATCH.setattr(Plain, "scale", 5.0)
    with pytest.raises(RuntimeError, match="class Plain now has scale=5.0"):
        bounds(both["bounded"], x)
