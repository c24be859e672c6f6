"""What a forward pass writes into its net is no change of it, and what it reads around the trace must stay."""

import math

import pytest
import torch
from torch import nn

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistLinear
from linf_plugin.bounds import compute_bounds

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm


def ball(x):
    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.05))


def bounds(bounded, x, method="CROWN"):
    return compute_bounds(bounded, (ball(x),), method=method)


def bounded_module(net, x):
    return BoundedModule(net.eval(), x[:1])


class Both(nn.Module):
    """Its weight is read by the graph and, as a number, baked into it."""

    def __init__(self, read):
        super().__init__()
        self.last, self.weight, self.read = LinfDistLinear(6, 3), nn.Parameter(torch.rand(6)), read

    def forward(self, x):
        return self.last(x + self.weight) + self.read(self.weight)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize(
    "read",
    [
        lambda w: float(w.sum()),
        lambda w: w.detach().numpy().max().item(),
        lambda w: w.tolist()[0],
        lambda w: 1.0 if (w > 0.5).all() else 2.0,
        lambda w: w.data[0],
        lambda w: math.exp(w.detach().mean()),
        lambda w: len(w.nonzero().tolist()),
        lambda w: w.max().item(),
    ],
)
def test_a_parameter_that_is_also_read_as_a_number_must_stay_as_it_is(read):
    net, x = Both(read).eval(), torch.rand(2, 6)
    bounded = bounded_module(net, x)
    with torch.no_grad():
        net.last.weight += 1  # which the graph reads
        assert (bounds(bounded, x, "IBP")[0] <= net(x) + 1e-5).all()
        net.weight += 1
    with pytest.raises(RuntimeError, match="the weight of the model has changed"):
        bounds(bounded, x, "IBP")


class Leaves(nn.Module):
    """A net that leaves things behind in itself whenever it runs, which are not what it is made of."""

    def __init__(self):
        super().__init__()
        self.last, self.calls, self.features, self.kept = LinfDistLinear(6, 3), 0, None, []
        self.last.register_forward_hook(lambda module, given, found: self.kept.append(found))
        self.cache = None

    def forward(self, x):
        if self.cache is None:  # made once, and read ever after
            self.cache = torch.ones(6)
        self.calls += 1
        self.features, self.samples = x * self.cache, len(x)
        return self.last(self.features)


def test_what_a_pass_leaves_behind_is_no_change():
    net, x = Leaves().eval(), torch.rand(5, 6)
    bounded = bounded_module(net, x)
    for n in (1, 2, 5):
        net(x[:n])
        lower, upper = bounds(bounded, x)
    assert (lower <= net(x)).all() and (net(x) <= upper).all() and net.samples == 5
    net.cache = torch.full((6,), 2.0)
    with pytest.raises(RuntimeError, match="the cache of the model has changed"):
        bounds(bounded, x)


class Counter(nn.Module):
    """It counts in what also holds a setting."""

    def __init__(self, cfg, count, scale):
        super().__init__()
        self.d, self.cfg, self.count, self.scale = LinfDistLinear(6, 3), cfg, count, scale

    def forward(self, x):
        self.count(self.cfg)
        return self.d(x) * self.scale(self.cfg)


class Box:
    def __init__(self):
        self.s, self.scale = 0, 1.0  # the name of one begins that of the other


def count(key):
    return lambda cfg: cfg.__setitem__(key, cfg[key] + 1)


@pytest.mark.parametrize(
    "make, count, scale, change",
    [
        (lambda: {"calls": 0, "scale": 1.0}, count("calls"), lambda c: c["scale"], lambda c: c.update(scale=5.0)),
        (lambda: {"calls": 0, "scale": 1.0}, count("calls"), lambda c: c["scale"], lambda c: c.update(more=5.0)),
        (lambda: [0, 1.0], count(0), lambda c: c[1], lambda c: c.__setitem__(1, 5.0)),
        (
            lambda: {"calls": 0, "kind": Box()},
            count("calls"),
            lambda c: c["kind"].scale,
            lambda c: setattr(c["kind"], "scale", 5.0),
        ),
        (lambda: [[0, 1.0], {}], lambda c: count(0)(c[0]), lambda c: c[0][1], lambda c: c[0].__setitem__(1, 5.0)),
        (Box, lambda c: setattr(c, "s", c.s + 1), lambda c: c.scale, lambda c: setattr(c, "scale", 5.0)),
    ],
)
def test_a_counter_hides_no_setting_beside_it(make, count, scale, change):
    net, x = Counter(make(), count, scale), torch.rand(2, 6)
    bounded = bounded_module(net, x)
    for _ in range(3):
        net(x)
        bounds(bounded, x, "IBP")
    change(net.cfg)
    with pytest.raises(RuntimeError, match="the model .* make it again"):
        bounds(bounded, x, "IBP")


class Buffer(nn.Module):
    def __init__(self, write, read, persistent):
        super().__init__()
        self.d, self.write, self.read = LinfDistLinear(6, 3), write, read
        self.register_buffer("calls", torch.ones(()), persistent=persistent)

    def forward(self, x):
        self.write(self)
        return self.d(x) + self.read(self)


def reassign(net):
    net.calls = net.calls + 1


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python number:torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "read, persistent, free",
    [
        (lambda net: 0.0, True, True),
        (lambda net: 0.0, False, False),  # the trace would have it as a constant, without its name
        (lambda net: net.calls * 0, True, False),
        (lambda net: float(net.calls) * 0, True, False),
    ],
)
@pytest.mark.parametrize("write", [lambda net: net.calls.add_(1), reassign])
def test_a_buffer_that_counts_is_no_change_unless_the_graph_may_read_it(write, read, persistent, free):
    net, x = Buffer(write, read, persistent), torch.rand(2, 6)
    bounded = bounded_module(net, x)
    if not free:
        with pytest.raises(RuntimeError, match="the calls of the model has changed"):
            bounds(bounded, x)
        return
    for _ in range(2):
        lower, upper = bounds(bounded, x)
        assert (lower <= net(x)).all() and (net(x) <= upper).all()


@pytest.mark.parametrize(
    "fail",
    [
        lambda bounded, x: bounded.compute_bounds(x=(ball(x),), method="nonsense"),
        lambda bounded, x: bounded.compute_bounds(x=(ball(x * math.nan),), method="IBP"),
        lambda bounded, x: bounded.compute_bounds(x=(ball(x),), method="IBP", C=torch.ones(9, 9, 9)),
        lambda bounded, x: bounded(),
    ],
)
def test_a_call_that_failed_is_not_the_last_one(fail):
    net, x = nn.Sequential(LinfDistLinear(6, 6), nn.Linear(6, 3)), torch.rand(2, 6)
    bounded = bounded_module(net, x)
    bounds(bounded, x, "IBP")
    with torch.no_grad():
        net[1].weight.mul_(3)
    with pytest.raises(Exception):  # noqa: B017  (each version in its own words)
        fail(bounded, x)
    with pytest.raises(RuntimeError, match="1.weight has changed since inputs were given last"):
        bounded.compute_bounds(method="CROWN")
