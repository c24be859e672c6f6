"""Programs of any module: what is read is what runs, and what cannot be read is named."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin import LinfDistLinear
from linf_plugin.bounds.rounded import Noisy
from linf_plugin.certificates import certify, margin_bound, sound_radius
from linf_plugin.float32.reach import check_program, reach
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.fusion import PRODUCTS
from linf_plugin.norms import box

pytestmark = pytest.mark.usefixtures("few_alpha_steps")


def net_of(forward, *parts):
    """Returns a module whose parts have random weights and statistics, and whose forward is ``forward(x, *parts)``."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, x):
            return forward(x, *self.parts)

    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return net


def _residual(x, conv, norm, last):
    x = F.max_pool2d(F.relu(x + norm(conv(x))), 2, ceil_mode=True)
    return last(F.adaptive_avg_pool2d(x, 1).flatten(1))


def _dense(x, one, two, last):
    y = torch.cat([x, torch.sigmoid(one(x))], 1)
    return last(torch.cat([y, F.elu(two(y))], 1).flatten(1))


def _sorted(x, one, two):
    a, b = one(x).chunk(2, 1)
    return two(torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1))


def _in_place(x, layer):
    y = layer(x)
    y[:, 0] += 1
    return F.relu_(y)


NETS = {  # name → (net, shape of a sample)
    "residual": (
        lambda: net_of(_residual, nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Linear(2, 3)),
        (2, 5, 4),
    ),
    "dense connections": (
        lambda: net_of(_dense, nn.Conv2d(1, 2, 3, padding="same"), nn.Conv2d(3, 1, 1), nn.Linear(64, 3)),
        (1, 4, 4),
    ),
    "max-min": (lambda: net_of(_sorted, nn.Linear(4, 6), nn.Linear(6, 3)), (4,)),
    "group sort": (
        lambda: net_of(lambda x, a: torch.sort(a(x).unflatten(1, (2, 4)), 2)[0].flatten(1), nn.Linear(3, 8)),
        (3,),
    ),
    "shared layer": (lambda: net_of(lambda x, a: a(torch.relu(a(x))), nn.Linear(4, 4)), (4,)),
    "with a distance layer": (
        lambda: net_of(lambda x, a, d: d(F.leaky_relu(a(x)).flatten(1)), nn.Conv1d(2, 3, 2), LinfDistLinear(12, 3)),
        (2, 5),
    ),
    "transposed": (
        lambda: net_of(
            lambda x, a, b: F.avg_pool2d(b(a(x)), 3, 2, 1).flatten(1),
            nn.ConvTranspose2d(2, 3, (3, 2), (2, 1), (1, 0), (1, 0), groups=1, dilation=(1, 2)),
            nn.PReLU(3),
        ),
        (2, 3, 3),
    ),
    "rows of features": (
        lambda: net_of(
            lambda x, a, d: d(a(x).reshape(-1, 3)).view(x.shape[0], -1), nn.Linear(4, 3), LinfDistLinear(3, 2)
        ),
        (2, 4),
    ),
    "two branches multiplied": (
        lambda: net_of(lambda x, a, b: a(x) * torch.tanh(b(x)), nn.Linear(3, 4), nn.Linear(3, 4)),
        (3,),
    ),
    "signs behind products": (
        lambda: net_of(lambda x, a, b: -b(torch.relu(-a(x))) - torch.ones(3), nn.Linear(3, 4), nn.Linear(4, 3)),
        (3,),
    ),
    "in place": (lambda: net_of(_in_place, nn.Linear(3, 4)), (3,)),
    "clipped": (lambda: net_of(lambda x, a: F.softplus(a(x.clamp(0.2, 0.7)), 2.0) / 3 - 1, nn.Linear(3, 4)), (3,)),
    "one output of a pool": (
        lambda: net_of(lambda x, a: torch.stack([(1 - a(x)).amax(1), a(x).mean(1)], 1), nn.Linear(3, 4)),
        (3,),
    ),
}
each_net = pytest.mark.parametrize("name", NETS)


def _made(name):
    torch.manual_seed(0)
    make, shape = NETS[name]
    return make(), torch.rand(5, *shape)


@each_net
def test_the_graph_computes_what_the_net_computes(name):
    net, x = _made(name)
    graph, exact = capture(net, x), net.double()
    for samples in (1, 5):
        y = graph(x[:samples].double())
        assert y.shape == exact(x[:samples].double()).shape
        assert (y - exact(x[:samples].double())).abs().max() < 1e-6  # constants of float32, such as the eps of a norm


@each_net
def test_rounding_stays_within_its_bound(name):
    net, x = _made(name)
    graph = check_program(net, x)
    lower, upper = box(x, 0.05, 0.0, 1.0)
    found = reach(graph, lower, upper)
    assert found.error.isfinite().all() and (found.error < 1e-3).all()
    for _ in range(50):
        near = (lower + torch.rand_like(lower) * (upper - lower)).float().clamp(0, 1)
        computed, exact = net(near).double(), graph(near.double())
        assert ((computed - exact).abs() <= found.error).all()
        assert ((found.lower <= computed) & (computed <= found.upper)).all()


@each_net
@pytest.mark.parametrize("method", ("ibp", "crown-ibp", "crown", "alpha-crown"))
def test_bounds_of_margins_hold(name, method):
    net, x = _made(name)
    labels, eps = net(x).argmax(1), 0.02
    bound = margin_bound(net, x, labels, eps, method)
    assert bound.isfinite().all()
    near = (x + eps * (2 * torch.rand(100, *x.shape) - 1).sign()).clamp(0, 1)
    z = net(near.flatten(0, 1)).double().unflatten(0, (100, 5))
    own = z.gather(2, labels.view(1, 5, 1).expand(100, 5, 1)).squeeze(2)
    other = z.scatter(2, labels.view(1, 5, 1).expand(100, 5, 1), -math.inf).amax(2)
    assert (bound <= (own - other).amin(0)).all()


@each_net
def test_every_product_has_noise(name):
    """Its own, or that of the operation into which it is folded."""
    net, x = _made(name)
    noisy = Noisy(check_program(net, x))
    covered = {*noisy.places, *(product for i, product in noisy.into.items() if i in noisy.places)}
    products = {i for i, node in enumerate(noisy.nodes) if isinstance(node.module, PRODUCTS)}
    assert products <= covered
    noises = noisy.noises(*box(x, 0.02))
    amounts = [*noises.between, noises.last] if noisy.last is not None else [*noises.between]
    assert amounts and all((a.reshape(len(x), -1).amax(1) > 0).all() for a in amounts)


def test_the_lipschitz_certificate_of_a_graph():
    net, x = _made("residual")
    labels = net(x).argmax(1)
    radius = sound_radius(net, x, labels)
    assert (radius > 0).all()
    found = certify(net, x, labels, radius.min().item() / 2, ["lipschitz"])
    assert found.certified.all()


REFUSED = {  # what the net does → (forward, shape, what the message names)
    "softmax": (lambda x: x.softmax(1), (3,), "softmax at .*test_capture.py, line"),
    "mean of all": (lambda x: x - x.mean(), (3,), "mean at .*samples of a batch"),
    "mean of the batch": (lambda x: x - x.mean(0, keepdim=True), (3,), "mean at .*samples of a batch"),
    "order of the batch": (lambda x: x.flip(0), (3,), "flip at .*mixes the samples"),
    "product of the batch": (lambda x: x @ x.transpose(0, 1), (3,), "transpose at .*mixes the samples"),
    "choice by values": (lambda x: x if x.sum() > 0 else -x, (3,), "torch.export cannot read"),
    "number of samples": (lambda x: x.reshape(len(x), -1), (3,), r"len\(x\) for x.shape\[0\]"),
    "other type": (lambda x: x.double(), (3,), "to at .*torch.float64"),
    "autocast": (lambda x: _halved(x), (3,), "wrap_with_autocast"),
    "random": (lambda x: x + torch.rand(3), (3,), "rand at .*store them as a buffer"),
    "dropout": (lambda x: F.dropout(x, 0.5, True), (3,), "dropout at .*model.eval"),
    "two outputs": (lambda x: (x, -x), (3,), "returns 2 tensors"),
    "no output": (lambda x: torch.ones(2, 2), (3,), "returns no tensors"),
    "a quotient of values": (lambda x: x / (1 + x), (3,), "div at .*depends on the input"),
    "a steep unit": (lambda x: F.elu(x, 2.0), (3,), "elu at .*alpha ≤ 1"),
    "a falling slope": (lambda x: F.leaky_relu(x, -0.1), (3,), "leaky_relu at .*at least 0"),
    "places of maxima": (lambda x: x.max(1)[1] + x[:, 0], (3,), "second result"),
    "rounded constants": (lambda x: x + torch.ones(3) / 3, (3,), "div at .*store it as a buffer"),
}


def _halved(x):
    with torch.autocast("cpu", torch.bfloat16):
        return x @ torch.ones(3, 3)


@pytest.mark.parametrize("forward, shape, names", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_named(forward, shape, names):
    with pytest.raises(TypeError, match=names) as found:
        check_program(net_of(forward), torch.rand(4, *shape))
    assert "\n" not in str(found.value) and re.search("sound=False|wrap it", str(found.value))


def test_batch_norm_in_training_mode_is_refused():
    net = net_of(lambda x, norm: norm(x), nn.BatchNorm1d(3))
    net.parts[0].train()
    with pytest.raises(ValueError, match="training mode"):
        check_program(net, torch.rand(4, 3))
    net.parts[0].eval().track_running_stats = False
    net.parts[0].running_mean = net.parts[0].running_var = None
    with pytest.raises(TypeError, match=r"batch_norm at .*(mean of the batch|running statistics)"):
        check_program(net, torch.rand(4, 3))


def test_a_state_is_found_by_running():
    class Counting(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x * (1.0 if self.calls < 2 else 2.0)

    with pytest.raises(RuntimeError, match="does not compute what the model computes"):
        check_program(Counting().eval(), torch.rand(4, 3))
