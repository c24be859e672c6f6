"""Whatever of a net changes after its BoundedModule was made is refused, or reaches the bounds."""

import copy
import functools
import itertools
import math
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear, build, set_p
from linf_plugin.bounds import certify, compute_bounds, fresh
from linf_plugin.layers import CenterCrop, Negate, Normalize

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm  # isort: skip


class Shifted(nn.Module):
    def forward(self, w):
        return w + 1


class Odd(nn.Module):
    """A net that keeps what its function depends on in every way but as a layer would."""

    factor = 2.0  # of the class
    table = [1.0, 0.5]

    def __init__(self):
        super().__init__()
        self.last = LinfDistLinear(6, 3)
        self.numbers, self.pair, self.nested = [1.0, 2.0], (0.5, 3), {"shift": 0.25, "more": [{"deep": 2.0}]}
        self.tensor, self.tensors = torch.rand(6), [torch.rand(6), {"a": torch.rand(6)}]
        self.array, self.text, self.flag, self.nothing, self.kinds = np.ones(6, np.float32), "a", True, None, {1, 2}
        self.settings = types.SimpleNamespace(gain=1.5, levels=[2.0])
        self.config = Config(3.0)
        self.function, self.part = torch.relu, functools.partial(torch.mul, other=2.0)
        self.hidden = [nn.Linear(6, 6).requires_grad_(False)]  # in a list, where PyTorch does not see it
        self.level = nn.Parameter(torch.tensor(0.5))  # read as a number
        self.aside = nn.Parameter(torch.rand(6))  # read around the trace
        self.weight = nn.Parameter(torch.rand(6))  # computed with
        self.register_buffer("offset", torch.rand(6))
        self.register_buffer("unsaved", torch.rand(6), persistent=False)
        scale = 1.5
        self.closure = lambda x: x * scale

    def forward(self, x):
        x = self.closure(self.part(self.function(self.hidden[0](x)))) * self.numbers[1] + self.pair[0] * self.pair[1]
        x = x * self.nested["shift"] + self.nested["more"][0]["deep"] + self.tensor + self.tensors[0]
        x = (x + self.tensors[1]["a"]) * torch.from_numpy(self.array) + float(self.level) + self.aside.data
        x = x * self.settings.gain + self.settings.levels[0] + self.config.value + len(self.kinds)
        x = x + (1.0 if self.text == "a" else 0.0) + (1.0 if self.flag else 0.0) + (0.0 if self.nothing is None else 1.0)
        x = (x + self.weight + 2 + self.offset + self.unsaved) * self.factor * self.table[1]
        return self.last(x)


class Config:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def shifted_weights():
    layer = LinfDistLinear(6, 3)
    parametrize.register_parametrization(layer, "weight", Shifted())
    return nn.Sequential(layer)


NETS = {  # name → (input shape, net); together they hold every layer of the package
    "images": ((2, 4, 4), lambda: nn.Sequential(
        Normalize((0.1, 0.2), 0.5), CenterCrop(3), LinfDistConv2d(2, 2, 2, groups=2), MeanShift(2), nn.Flatten(),
        LinfDistLinear(8, 3), Negate(),
    )),
    "sorted": ((6,), lambda: nn.Sequential(
        SortDistLinear(6, 5, rho=0.5, k=3), MeanShift(5), nn.LeakyReLU(0.2), LinfDistLinear(5, 4), nn.Linear(4, 3),
    )),
    "stock": ((2, 5, 5), lambda: nn.Sequential(
        Normalize((0.1,), 0.5), nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(12, 3),
    )),
    "odd": ((6,), Odd),
    "parametrized": ((6,), shifted_weights),
    "stock-only": ((6,), lambda: nn.Sequential(
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 3))),
}


@torch.no_grad()  # else auto_LiRPA keeps tensors that cannot be copied
def make(name):
    shape, builder = NETS[name]
    net = builder().eval()
    for buffer in net.buffers():
        if buffer.is_floating_point():
            buffer += torch.rand_like(buffer) / 8
    x = torch.rand(2, *shape)
    return net, x, bounded_module(net, x)


def bounded_module(net, x):
    bounded = BoundedModule(net, x[:1])
    bounded.eval()  # else it drops out, though the net does not
    return bounded


def bounds(bounded, x, method="CROWN"):
    ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.05))
    return compute_bounds(bounded, (ball,), method=method)


def other(value):
    """Values of the same kind that are not this one, or none where none is known."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [2.5 if math.isinf(value) else value + 0.25] if isinstance(value, float) else [value + 1]
    if isinstance(value, str):
        return [value + "b"]
    if isinstance(value, tuple):
        return [value[:i] + (new,) + value[i + 1:] for i, v in enumerate(value) for new in other(v)]
    if isinstance(value, list):
        return [[*value, 1.0], *([*value[:i], new, *value[i + 1:]] for i, v in enumerate(value) for new in other(v))]
    if isinstance(value, dict):
        return [{**value, key: new} for key, v in value.items() for new in other(v)]
    if isinstance(value, set):
        return [value | {99}]
    if isinstance(value, np.ndarray):
        return [value + 1]
    if isinstance(value, nn.Parameter):
        return [nn.Parameter(value.detach() + 1)]
    if isinstance(value, torch.Tensor):
        return [value + 1]
    if isinstance(value, types.SimpleNamespace):
        return [types.SimpleNamespace(**new) for new in other(vars(value))]
    if value is None:
        return [1.0]
    if callable(value) and not isinstance(value, nn.Module):
        return [lambda x: 3 * x]
    return []


def in_place(value):
    """Changes of a value that leave it the same object, as functions."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        yield "in place", lambda: value.add_(0.5)
        yield "in place by .data", lambda: value.data.mul_(1.5)
        yield "its .data", lambda: setattr(value, "data", value.data + 0.5)
        if value.dim() and value.shape[0] > 1:
            yield "its order", lambda: value.copy_(value.flip(0))
    elif isinstance(value, np.ndarray):
        yield "in place", lambda: value.__iadd__(1)
    elif isinstance(value, list):
        for i, v in enumerate(value):
            for new in other(v):
                yield f"[{i}]", lambda i=i, new=new: value.__setitem__(i, new)
            yield from ((f"[{i}] {what}", change) for what, change in in_place(v))
    elif isinstance(value, dict):
        for key, v in value.items():
            for new in other(v):
                yield f"[{key!r}]", lambda key=key, new=new: value.__setitem__(key, new)
            yield from ((f"[{key!r}] {what}", change) for what, change in in_place(v))
    elif isinstance(value, (types.SimpleNamespace, Config)):
        for key in vars(value) if isinstance(value, types.SimpleNamespace) else value.__slots__:
            for new in other(getattr(value, key)):
                yield f".{key}", lambda key=key, new=new: setattr(value, key, new)
    elif isinstance(value, functools.partial):
        yield "keywords", lambda: value.keywords.update(other=3.0)
    elif isinstance(value, nn.Module):
        for key, p in value.named_parameters():
            yield from ((f".{key} {what}", change) for what, change in in_place(p))


def changes(net):
    """(what, function) of every change that is known of anything of the net."""
    for name, module in net.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers"):
                for tensor, a in value.items():
                    for new in other(a):
                        if a is not None:
                            yield f"{name}.{tensor} reassigned", lambda v=value, t=tensor, n=new: v.__setitem__(t, n)
                    yield from ((f"{name}.{tensor} {what}", change) for what, change in in_place(a))
            elif key == "training":
                yield f"{name}.training", lambda m=module: m.train(not m.training)
            elif key not in fresh.MODULE:
                for new in other(value):
                    yield f"{name}.{key}={new!r}", lambda m=module, k=key, n=new: setattr(m, k, n)
                yield from ((f"{name}.{key} {what}", change) for what, change in in_place(value))
                yield f"{name}.{key} gone", lambda m=module, k=key: vars(m).pop(k)
        for key, child in module.named_children():
            doubled = nn.Sequential(child, Shifted())
            yield f"{name}.{key} replaced", lambda m=module, k=key, d=doubled: m._modules.__setitem__(k, d)
            yield f"{name}.{key} removed", lambda m=module, k=key: m._modules.__setitem__(k, nn.Identity())
        yield f"{name} hooked", lambda m=module: m.register_forward_hook(lambda m, i, y: 2 * y)
        yield f"{name} hooked before", lambda m=module: m.register_forward_pre_hook(lambda m, i: 2 * i[0])
        yield f"{name} forward replaced", lambda m=module: setattr(m, "forward", lambda x, f=m.forward: 2 * f(x))
        yield f"{name} added", lambda m=module: setattr(m, "unheard_of", 1)
        yield f"{name} class", lambda m=module: setattr(m, "__class__", type("Other", (type(m),), {}))
    if isinstance(net, nn.Sequential):
        yield "a layer added", lambda: net.append(Negate())
        yield "an order", lambda: net._modules.update(dict(zip(net._modules, reversed(list(net._modules.values())))))
    state = {key: a + 0.5 for key, a in net.state_dict().items() if a.is_floating_point()}
    yield "state", lambda: net.load_state_dict(state, strict=False)
    yield "state assigned", lambda: net.load_state_dict(state, strict=False, assign=True)
    yield "float64", net.double
    yield "float64 and back", lambda: net.double().float()


def outcome(net, x, bounded, change, what, method):
    """"refused", or "right" where the bounds are those of a new BoundedModule."""
    with torch.no_grad():
        change()
    x = x.to(next(net.parameters(), x).dtype)
    try:
        now = bounds(bounded, x, method)
    except RuntimeError as error:
        assert "make it again" in str(error) or "call eval" in str(error), (what, error)
        return "refused"
    assert (now[0] <= net(x) + 1e-5).all() and (net(x) <= now[1] + 1e-5).all(), what
    again = bounds(bounded_module(net.eval(), x), x, method)
    for a, b in zip(now, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, msg=lambda m: f"{what}: {m}")
    return "right"


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize("name", NETS)
def test_every_change_is_refused_or_reaches_the_bounds(name):
    made, outcomes = make(name), {}
    for i in range(len(list(changes(made[0])))):
        net, x, bounded = copy.deepcopy(made)  # which stay what they are to each other
        what, change = next(itertools.islice(changes(net), i, None))
        outcomes[what] = outcome(net, x, bounded, change, what, "CROWN" if name == "sorted" else "IBP")
    print(name, len(outcomes), {k for k, v in outcomes.items() if v == "right"})
