"""Lipschitz bounds of graphs from ℓ∞ to ℓ∞: never below a slope that is found, and exact where that is clear."""

import math

import pytest
import torch
import torch.nn.functional as F
from graph_operations import NAMES, made
from torch import nn

from linf_plugin import lipschitz_bound
from linf_plugin.float32.operations import OF_OPERATIONS
from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.graph import Graph, Node
from linf_plugin.graphs.growth import GROWTH
from linf_plugin.graphs.operations import Add, Affine, Average, Gather, Largest, Multiply, Scale, Shift

WITHOUT = (Multiply,)  # no number bounds a product of two values
EXACT = (Gather, Largest, Add, Affine, Shift, Scale, nn.Linear, nn.Conv1d, nn.Conv2d)  # some input has this slope


class Split(nn.Module):
    """Takes the values of an operation from one input."""

    def __init__(self, module, shapes):
        super().__init__()
        parts, begin = [], 0
        for shape in shapes:
            count = math.prod(shape)
            parts.append(Node(Gather(torch.arange(begin, begin + count).view(shape)), (0,), ""))
            begin += count
        self.numbers = begin
        self.graph = Graph([*parts, Node(module, tuple(range(1, len(shapes) + 1)), "")]).eval()


def _slope(net, x, far) -> float:
    """The largest change of an output for a change of the input by at most 1 in each number, found at points x."""
    x = x.clone().requires_grad_()
    y = net(x).flatten(1)
    rows = torch.stack([torch.autograd.grad(v.sum(), x, retain_graph=True)[0].flatten(1) for v in y.unbind(1)], 1)
    steps = far * rows.sign()  # the direction in which each output rises fastest
    found = rows.abs().sum(2).max()
    with torch.no_grad():
        for direction in (*steps.unbind(1), far * torch.randn_like(steps[:, 0]).sign()):
            moved = net(x + direction.view_as(x)) - net(x)
            found = torch.maximum(found, moved.abs().max() / far)
    return float(found)


@pytest.mark.parametrize("name", NAMES)
def test_no_slope_is_above_the_bound(name):
    module, shapes = made()[name]
    split = Split(module, shapes)
    if isinstance(module, WITHOUT):
        with pytest.raises(TypeError, match="no Lipschitz bound for Multiply"):
            lipschitz_bound(split.graph, math.inf)
        return
    bound = lipschitz_bound(split.graph, math.inf)
    found = max(_slope(split.graph, 2 * torch.randn(30, split.numbers).double(), far) for far in (1e-3, 1.0))
    assert 0 < found <= bound * (1 + 1e-9)
    if isinstance(module, EXACT):
        assert found >= bound * (1 - 1e-9)


def test_every_operation_has_a_case():
    tried = {type(module) for module, _ in made().values()}
    missing = {kind.__name__ for kind in (GROWTH.keys() | OF_OPERATIONS.keys()) - tried}
    assert not missing, f"{missing}: add one to tests/graph_operations.py"
    assert {kind for kind in OF_OPERATIONS if kind not in GROWTH} == set(WITHOUT)


class Net(nn.Module):
    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


def _linear(*rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


KNOWN = {  # net on two numbers → its exact Lipschitz constant in ℓ∞
    "residual": (Net(lambda m, x: x + m.a(x), a=_linear((1.0, 2.0), (0.0, 1.0))), 4.0),
    "difference": (Net(lambda m, x: m.a(x) - x, a=_linear((-1.0, 2.0), (0.0, -1.0))), 4.0),
    "joined": (Net(lambda m, x: torch.cat([x, m.a(x)], 1), a=_linear((1.0, -2.0))), 3.0),
    "shared": (Net(lambda m, x: m.a(m.a(x)), a=_linear((0.0, 2.0), (2.0, 0.0))), 4.0),
    "mean": (Net(lambda m, x: x.mean(1, keepdim=True)), 1.0),
    "sum": (Net(lambda m, x: x.sum(1, keepdim=True)), 2.0),
    "scaled": (Net(lambda m, x: 3 * x.amax(1, keepdim=True) + 7), 3.0),
    "max-min": (Net(lambda m, x: x.sort(1).values), 1.0),
    "leaky": (Net(lambda m, x: F.leaky_relu(x, 0.25)), 1.0),
    "elu": (Net(lambda m, x: F.elu(x, 0.5)), 1.0),
    "sigmoid": (Net(lambda m, x: torch.sigmoid(x)), 0.25),
    "constant": (Net(lambda m, x: 0 * x), 0.0),
}


@pytest.mark.parametrize("net, exact", KNOWN.values(), ids=KNOWN)
def test_known_constants(net, exact):
    graph = capture(net.eval(), torch.rand(1, 2))
    assert lipschitz_bound(graph, math.inf) == exact


def test_where_ways_meet_the_bound_may_be_loose():
    """x − x is 0, and the bound does not see it."""
    graph = capture(Net(lambda m, x: x - x).eval(), torch.rand(1, 2))
    assert lipschitz_bound(graph, math.inf) == 2.0


def test_batch_norm_counts_its_largest_factor():
    norm = nn.BatchNorm1d(2, eps=0.0)
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    norm.weight.data = torch.tensor([3.0, -1.0])
    assert lipschitz_bound(capture(Net(lambda m, x: m.a(x), a=norm).eval(), torch.rand(1, 2)), math.inf) == 2.0


def test_an_average_of_windows_that_reach_beyond_the_image():
    """All windows have the same divisor, so that at most one of all pixels is left."""
    graph = capture(Net(lambda m, x: F.avg_pool1d(x, 3, 1, 1).flatten(1)).eval(), torch.rand(1, 2, 4))
    assert isinstance(graph.parts[0], Average) and lipschitz_bound(graph, math.inf) == 1.0
    padded = capture(Net(lambda m, x: F.avg_pool1d(x, 2, 2, 1).flatten(1)).eval(), torch.rand(1, 1, 2))
    assert lipschitz_bound(padded, math.inf) == 0.5


def test_other_norms_are_refused():
    graph = capture(Net(lambda m, x: x + x.relu()).eval(), torch.rand(1, 2))
    for norm in (2, 1):
        with pytest.raises(TypeError, match="known in ℓ∞ only"):
            lipschitz_bound(graph, norm)
