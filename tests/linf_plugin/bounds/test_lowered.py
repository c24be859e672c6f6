"""Each operation in the form that auto_LiRPA is given: it computes the same, and all of its bounds hold."""

import functools
import math

import pytest
import torch
from graph_operations import NAMES, made
from torch import nn

from linf_plugin.bounds import compute_bounds, rounded, versions
from linf_plugin.bounds.guard import WITHOUT_SHORTCUTS
from linf_plugin.bounds.lowered import LOWERED, lowered
from linf_plugin.certificates import margin_bound
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.graphs.ends import ends
from linf_plugin.graphs.operations import Gather

from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

INF = math.inf
SLACK = 1e-9  # of float64, with room: what noise covers is the subject of other tests
LINEAR = ("Gather", "Average", "Add", "Affine", "Shift", "Scale", "Linear", "Conv", "BatchNorm", "Identity")
each_operation = pytest.mark.parametrize("name", NAMES)
each_method = pytest.mark.parametrize("method", LIRPA_METHODS)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning"),
    pytest.mark.filterwarnings("ignore:The reduce argument of torch.scatter:UserWarning"),
    pytest.mark.usefixtures("few_alpha_steps"),
]


@pytest.fixture(autouse=True)
def float64():
    with versions.float64_by_default():
        yield


class Net(nn.Module):
    """All numbers of x (N, n) are the values that an operation takes; its results go through a linear layer."""

    def __init__(self, module, shapes):
        super().__init__()
        sizes, first, pieces = [math.prod(shape) for shape in shapes], 0, []
        self.count = sum(sizes)
        for size, shape in zip(sizes, shapes):
            pieces.append(lowered(Gather((first + torch.arange(size)).view(shape))))
            first += size
        self.pieces, self.form = nn.ModuleList(pieces), lowered(module)
        y = module(*(torch.zeros(1, *shape) for shape in shapes))
        self.flat = lowered(Gather(torch.arange(y.numel())))
        self.head = nn.Linear(y.numel(), 5).requires_grad_(False)

    def forward(self, x):
        return self.head(self.flat(self.form(*(piece(x) for piece in self.pieces))))


def _boxes(count, width, samples=3):
    """(lower, upper) of samples; every third coordinate has width 0, and some boxes have 0 at an end."""
    centre = 2 * torch.randn(samples, count)
    radius = width * torch.rand(samples, count)
    radius.view(-1)[::3] = 0
    lower, upper = centre - radius, centre + radius
    lower.view(-1)[1::7] = 0
    return torch.minimum(lower, upper), torch.maximum(lower, upper)


@each_operation
def test_a_form_computes_what_the_operation_computes(name):
    module, shapes = made()[name]
    values = [torch.randn(4, *shape) for shape in shapes]
    torch.testing.assert_close(lowered(module)(*values), module(*values), rtol=1e-12, atol=1e-12)


def test_every_form_is_tried():
    kinds = {type(module) for module, _ in made().values()}
    missing = [kind.__name__ for kind in LOWERED if kind not in kinds]
    assert not missing, f"{missing}: add one to tests/graph_operations.py"


@functools.cache
def _traced(name):
    """The module of an operation, a net of it, and its graph, for all boxes and methods."""
    torch.manual_seed(NAMES.index(name))
    rounded.register()
    module, shapes = made()[name]
    net = Net(module, shapes).eval()
    options = {**WITHOUT_SHORTCUTS, "optimize_bound_args": {"iteration": 3}}
    return module, net, BoundedModule(net, torch.zeros(1, net.count), bound_opts=options)


@each_operation
@each_method
@pytest.mark.parametrize("width", [0.0, 1e-6, 0.3, 3.0])
def test_all_bounds_hold(name, method, width):
    module, net, bounded = _traced(name)
    torch.manual_seed(NAMES.index(name))
    lower, upper = _boxes(net.count, width)
    ball = BoundedTensor((lower + upper) / 2, PerturbationLpNorm(norm=INF, x_L=lower, x_U=upper))
    least, most = compute_bounds(bounded, (ball,), method=LIRPA_METHODS[method])
    slack = SLACK * (1 + least.abs() + most.abs())
    t = torch.rand(60, *lower.shape)
    t[1::2] = t[1::2].round()
    y = net((lower + t * (upper - lower)).flatten(0, 1)).unflatten(0, (60, -1))
    assert (least - slack <= y).all() and (y <= most + slack).all()
    # By the rules of intervals: the ends of the operation, and then those of the linear layer.
    parts = [(piece(lower), piece(upper)) for piece in net.pieces]
    low, high = (net.flat(end) for end in ends(module, *parts))
    positive, negative = net.head.weight.clamp_min(0), net.head.weight.clamp_max(0)
    theirs = low @ positive.T + high @ negative.T + net.head.bias, high @ positive.T + low @ negative.T + net.head.bias
    if method == "ibp":
        torch.testing.assert_close(least, theirs[0], rtol=1e-9, atol=SLACK)
        torch.testing.assert_close(most, theirs[1], rtol=1e-9, atol=SLACK)
    elif type(module).__name__.startswith(LINEAR) and not name.startswith("dist"):  # linear bounds are exact
        run = net(torch.zeros(1, net.count)), torch.stack([net(a.unsqueeze(0))[0] for a in torch.eye(net.count)], 1)
        weight = run[1] - run[0].T
        middle, radius = net((lower + upper) / 2), (upper - lower) / 2 @ weight.abs().T
        torch.testing.assert_close(least, middle - radius, rtol=1e-9, atol=1e-8)
        torch.testing.assert_close(most, middle + radius, rtol=1e-9, atol=1e-8)


class OfOneNumber(nn.Module):
    """A sample has one number between its layers, and no dimension beside that of the samples."""

    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, nn.Linear(4, 3)
        self.register_buffer("shares", torch.tensor([1.0, -1.0, 0.0]))

    def forward(self, x):
        return self.head(x) + self.function(x.mean(1)).unsqueeze(1) * self.shares


OF_ONE_NUMBER = {
    "elu": nn.ELU(),
    "softplus": nn.Softplus(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "leaky-relu": nn.LeakyReLU(0.1),
    "clamp": nn.Hardtanh(0.2, 0.6),
    "square": lambda v: v * v,
    "constants": lambda v: (v - 0.3) / 0.7,
    "largest": lambda v: torch.maximum(v, 1 - v),
    "moved": lambda v: torch.stack([v, -v], 1)[:, [1]].squeeze(1),
}


@pytest.mark.parametrize("name", OF_ONE_NUMBER)
@each_method
def test_a_sample_may_be_one_number(name, method):
    torch.manual_seed(0)
    net = OfOneNumber(OF_ONE_NUMBER[name]).float().eval()
    x, labels, eps = torch.rand(3, 4, dtype=torch.float32), torch.tensor([0, 1, 2]), 0.1
    bound = margin_bound(net, x, labels, eps, method)
    at_x = margin_bound(net, x, labels, 0.0, method)

    def margins(points):
        z = net(points).detach().double()
        others = z.scatter(1, labels.unsqueeze(1), -INF)
        return z.gather(1, labels.unsqueeze(1))[:, 0] - others.amax(1)

    for k in range(20):
        t = 2 * torch.rand_like(x) - 1
        assert (margins((x + 0.999 * eps * (t.sign() if k % 2 else t)).clamp(0, 1)) >= bound).all()
    assert (margins(x) - at_x).abs().max() < 1e-5
