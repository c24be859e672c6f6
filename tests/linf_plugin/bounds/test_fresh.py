"""Whatever of a net changes after its BoundedModule was made is refused, or reaches the bounds."""

import copy
import functools
import itertools
import math
import pickle
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import linf_plugin.bounds  # noqa: F401  (before auto_LiRPA, which it makes importable)
from linf_plugin import LinfDistConv2d, LinfDistLinear, MeanShift, SortDistLinear, build, set_p
from linf_plugin.bounds import compute_bounds, fresh
from linf_plugin.bounds.walk import MODULE
from linf_plugin.certificates.cascade import certify
from linf_plugin.layers.shifts import CenterCrop, Negate, Normalize

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm


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
        self.array, self.kinds = np.ones(6, np.float32), {1, 2}
        self.text, self.flag, self.nothing = "a", True, None
        self.settings = types.SimpleNamespace(gain=1.5, levels=[2.0])
        self.config = Config(3.0)
        self.function, self.part = torch.relu, functools.partial(torch.mul, other=2.0)
        self.hidden = [Normalize([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 0.5)]  # in a list, where PyTorch does not see it
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
        x = x + (1.0 if self.text == "a" else 0.0) + (1.0 if self.flag else 0.0)
        x = x + (0.0 if self.nothing is None else 1.0)
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
    "images": (
        (2, 4, 4),
        lambda: nn.Sequential(
            Normalize((0.1, 0.2), 0.5),
            CenterCrop(3),
            LinfDistConv2d(2, 2, 2, groups=2),
            MeanShift(2),
            nn.Flatten(),
            LinfDistLinear(8, 3),
            Negate(),
        ),
    ),
    "sorted": (
        (6,),
        lambda: nn.Sequential(
            SortDistLinear(6, 5, rho=0.5, k=3), MeanShift(5), nn.LeakyReLU(0.2), LinfDistLinear(5, 4), nn.Linear(4, 3)
        ),
    ),
    "stock": (
        (2, 5, 5),
        lambda: nn.Sequential(
            Normalize((0.1,), 0.5),
            nn.Conv2d(2, 3, 3),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.AvgPool2d(2, 1),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
    ),
    "odd": ((6,), Odd),
    "parametrized": ((6,), shifted_weights),
    "stock-only": ((6,), lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))),
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
        return [(*value[:i], new, *value[i + 1 :]) for i, v in enumerate(value) for new in other(v)]
    if isinstance(value, list):
        return [[*value, 1.0], *([*value[:i], new, *value[i + 1 :]] for i, v in enumerate(value) for new in other(v))]
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
        for key, a in value.named_buffers():
            yield from ((f".{key} {what}", change) for what, change in in_place(a))
        yield ".scale", lambda: setattr(value, "scale", 3.0)


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
            elif key not in MODULE:
                for new in other(value):
                    yield f"{name}.{key}={new!r}", lambda m=module, k=key, n=new: setattr(m, k, n)
                yield from ((f"{name}.{key} {what}", change) for what, change in in_place(value))
                if not (key == "_p" and type(module) is SortDistLinear):  # nothing works without it
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
    state = {key: a + 0.5 if a.is_floating_point() else a for key, a in net.state_dict().items()}
    yield "state", lambda: net.load_state_dict(state)
    yield "state assigned", lambda: net.load_state_dict(state, assign=True)
    yield "float64", net.double
    yield "float64 and back", lambda: net.double().float()


def outcome(net, x, bounded, change, what, method):
    """ "refused", or "right" where the bounds are those of a new BoundedModule."""
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
    seen = [what for what, found in outcomes.items() if found == "right"]
    trained = "" if name == "parametrized" else next(key for key, _ in made[0].named_parameters() if "." in key)
    trained = trained or "0.parametrizations.weight.original"
    assert f"{trained} in place" in seen and f"{trained} its .data" in seen  # steps of training go on
    assert len(seen) < len(outcomes) / 2 and not [what for what in seen if "replaced" in what or "reassigned" in what]


CHANGED = {  # what of "odd" changes outside its objects' own dictionaries, and how it is put back
    "closure": (
        lambda net: setattr(net.closure.__closure__[0], "cell_contents", 2.0),
        lambda net: setattr(net.closure.__closure__[0], "cell_contents", 1.5),
    ),
    "factor": (lambda net: setattr(Odd, "factor", 3.0), lambda net: setattr(Odd, "factor", 2.0)),
    "table": (lambda net: Odd.table.append(1.0), lambda net: Odd.table.pop()),
    "forward": (
        lambda net: setattr(Normalize, "forward", lambda self, x: 2 * FORWARD(self, x)),
        lambda net: setattr(Normalize, "forward", FORWARD),
    ),
}
FORWARD = Normalize.forward


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
@pytest.mark.parametrize("name", CHANGED)
def test_changes_of_classes_and_closures_are_noticed_until_they_are_undone(name):
    net, x, bounded = make("odd")
    change, undo = CHANGED[name]
    before = bounds(bounded, x, "IBP")
    change(net)
    try:
        with pytest.raises(RuntimeError, match=f"{name}.* make it again"):
            bounds(bounded, x, "IBP")
    finally:
        undo(net)
    assert all(map(torch.equal, bounds(bounded, x, "IBP"), before))


def test_what_a_class_says_is_found_by_its_name():
    with pytest.raises(RuntimeError, match=r"layer '2' now has stride=\(2, 2\), but this BoundedModule was made with"):
        net, x, bounded = make("images")
        net[2].stride = (2, 2)
        bounded(x)
    with pytest.raises(RuntimeError, match=r"layer '5' now has p=8\.0"):
        net, x, bounded = make("images")
        set_p(net, 8)
        net[2].p = math.inf
        bounded(x)
    with pytest.raises(RuntimeError, match="the weight of layer '5' is another tensor than the one that"):
        net, x, bounded = make("images")
        net[5].weight = nn.Parameter(net[5].weight.detach())
        bounded(x)


@pytest.mark.parametrize("name", ["images", "sorted", "parametrized"])
def test_training_goes_on_and_every_step_is_seen(name):
    net, x, bounded = make(name)
    bounded.train()  # of its nodes: the net stays in evaluation mode
    optimizer = torch.optim.SGD(bounded.parameters(), 0.1)
    for _ in range(3):
        lower, upper = bounds(bounded, x, "IBP")
        optimizer.zero_grad()
        (upper - lower).sum().backward()
        optimizer.step()
    bounded.eval()
    for a, b in zip(bounds(bounded, x, "IBP"), bounds(bounded_module(net, x), x, "IBP"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "edit",
    [
        lambda w: w.add_(0.5),
        lambda w: w.data.mul_(1.5),
        lambda w: setattr(w, "data", w.data + 0.5),
        lambda w: w.data.__setitem__((0, 0), 3.0),
    ],
)
def test_what_was_kept_of_inputs_is_not_used_after_a_step(edit):
    net, x, bounded = make("images")
    with torch.no_grad():
        bounds(bounded, x)
        bounded.compute_bounds(method="CROWN")
        edit(net[5].weight)
        for kept in ({"method": "CROWN"}, {"method": None, "IBP": True, "reuse_ibp": True}):
            with pytest.raises(RuntimeError, match="5.weight has changed since inputs were given last"):
                bounded.compute_bounds(**kept)
        again = bounds(bounded, x)
        for a, b in zip(again, bounded.compute_bounds(method="CROWN")):
            assert a.shape == b.shape
        assert (again[0] <= net(x) + 1e-5).all() and (net(x) <= again[1] + 1e-5).all()


def test_certificates_are_always_of_the_net_as_it_is():
    torch.manual_seed(0)
    net = build("linf-mlp", shape=(1, 3, 3), classes=3, width=6, depth=2, mean=(0.3,), std=0.5).eval()
    x = torch.rand(4, 1, 3, 3)
    for change in (
        lambda: setattr(net[0], "scale", 4.0),
        lambda: net[0].mean.add_(0.2),
        lambda: set_p(net, 3.0),
        lambda: net.load_state_dict(
            {k: a * 0.5 if a.is_floating_point() else a for k, a in net.state_dict().items()}, assign=True
        ),
        lambda: setattr(net[-1], "forward", lambda x: -2 * x),
    ):
        certify(net, x, net(x).argmax(1), 0.01, ["ibp", "crown"], sound=False)
        change()
        labels = net(x).argmax(1)
        ours, theirs = (
            certify(a, x, labels, 0.01, ["ibp", "crown"], sound=False).bound for a in (net, copy.deepcopy(net))
        )
        assert torch.equal(ours, theirs) and torch.isfinite(ours).all()


def test_stock_nets_notice_nothing_but_our_function_does():
    net, x, bounded = make("stock-only")
    net[0].weight = nn.Parameter(torch.rand(5, 6))
    ball = BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.05))
    bounded.compute_bounds(x=(ball,), method="IBP")
    with pytest.raises(RuntimeError, match="the weight of layer '0' is another tensor"):
        compute_bounds(bounded, (ball,), method="IBP")
    del bounded._linf_record
    with pytest.raises(RuntimeError, match="made before linf_plugin.bounds was imported: make it again"):
        compute_bounds(bounded, (ball,), method="IBP")


def test_a_net_with_dropout_stays_in_evaluation_mode():
    """auto_LiRPA would trace it, mean shifts and all, in training mode, and leave it there."""
    net = nn.Sequential(LinfDistLinear(6, 5), MeanShift(5), nn.Dropout(0.5), nn.Linear(5, 3)).eval()
    net[1].running_mean += 9
    x = torch.rand(4, 6)
    bounded = BoundedModule(net, x[:1])
    assert not any(m.training for m in net.modules())
    lower, upper = bounds(bounded, x)
    assert (lower <= net(x) + 1e-5).all() and (net(x) <= upper + 1e-5).all()
    net[2].train()
    with pytest.raises(RuntimeError, match="layer '2' is in training mode.* call eval"):
        bounded(x)
    net.eval().training = True  # auto_LiRPA would give all layers the mode of the whole
    with pytest.raises(ValueError, match="training mode, at layer '1'"):
        BoundedModule(net, x[:1])


def test_a_copy_is_checked_against_the_copied_net_and_a_net_without_copy_against_none():
    net, x, bounded = make("images")
    both = copy.deepcopy({"net": net, "bounded": bounded})
    net[0].scale = 3.0
    bounds(both["bounded"], x)
    both["net"][0].scale = 3.0
    with pytest.raises(RuntimeError, match="layer '0' now has scale=3.0"):
        bounds(both["bounded"], x)
    net, x, bounded = make("images")
    net.unheard_of = (i for i in range(3))  # which has no copy
    copied = copy.deepcopy(make("images")[2])
    bounds(copied, x)
    stale = copy.deepcopy(fresh.Record(net))
    stale.check()


def test_a_record_that_was_pickled_has_no_net():
    record = pickle.loads(pickle.dumps(make("images")[2]._linf_record))
    record.check()
    record.check_inputs()
