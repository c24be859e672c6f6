"""A graph of operations: what it computes, what it keeps, and who takes which value."""

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin.graphs.capture import capture
from linf_plugin.graphs.graph import Graph, Node, chain, last_uses
from linf_plugin.graphs.operations import Add, Gather, Multiply, Scale


def _graph() -> Graph:
    """|x|·(x + 2x), by six operations on three numbers."""
    two, minus = Scale(torch.tensor(2.0)), Scale(torch.tensor(-1.0), 0)
    return Graph(
        [
            Node(two, (0,), "a"),
            Node(Add(), (0, 1), "b"),
            Node(minus, (0,), "c"),
            Node(nn.ReLU(), (0,), "d"),
            Node(nn.ReLU(), (3,), "e"),
            Node(Add(), (4, 5), "f"),
            Node(Multiply(), (6, 2), "g"),
        ]
    ).eval()


def test_values_are_computed_in_order():
    x = torch.randn(5, 3).double()
    torch.testing.assert_close(_graph()(x), x.abs() * 3 * x)
    assert _graph()(x[:0]).shape == (0, 3)


def test_nodes_say_what_they_take():
    graph = _graph()
    assert [node.inputs for node in graph.nodes] == [(0,), (0, 1), (0,), (0,), (3,), (4, 5), (6, 2)]
    assert [node.where for node in graph.nodes] == list("abcdefg")
    assert [node.module for node in graph.nodes] == list(graph.parts)
    assert graph.users() == [[0, 1, 2, 3], [1], [6], [4], [5], [5], [6], []]
    assert last_uses(graph.nodes) == [3, 1, 6, 4, 5, 5, 6, -1]


def test_a_value_that_is_taken_twice_has_one_user():
    graph = Graph([Node(Multiply(), (0, 0), "")])
    assert graph.users() == [[0], []] and last_uses(graph.nodes) == [0, -1]
    assert torch.equal(graph(torch.tensor([[3.0]])), torch.tensor([[9.0]]))


def test_values_are_freed_when_nobody_reads_them_again():
    made: list[weakref.ref] = []
    alive: list[int] = []

    class Watched(nn.Module):
        def forward(self, x):
            y = x + 1
            made.append(weakref.ref(y))
            alive.append(sum(a() is not None for a in made))
            return y

    chain([Watched() for _ in range(6)])(torch.zeros(1, 1))
    assert alive == [1, 2, 2, 2, 2, 2]


def test_a_chain_takes_layers_one_after_the_other():
    layers = [nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 4)]
    x = torch.rand(5, 3)
    graph = chain(layers)
    assert torch.equal(graph(x), nn.Sequential(*layers)(x))
    assert [node.inputs for node in graph.nodes] == [(0,), (1,), (2,)]
    assert graph.nodes[2].where == "layer 2 (Linear)"


def test_lipschitz_bounds_are_known_in_one_norm():
    with pytest.raises(TypeError, match="known in ℓ∞ only"):
        chain([nn.Linear(3, 2)]).lipschitz_in(2)
    assert chain([nn.Identity()]).lipschitz_in(math.inf) == 1.0


# Graphs of programs.


class Heads(nn.Module):
    """Three heads on one body, and a normalisation that only one of them uses."""

    def __init__(self, chosen: int):
        super().__init__()
        self.chosen = chosen
        self.body, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.heads = nn.ModuleList(nn.Linear(5, k) for k in (2, 3, 4))

    def forward(self, x):
        h = F.relu(self.body(x))
        return [head(self.norm(h) if k == 2 else h) for k, head in enumerate(self.heads)][self.chosen]


@torch.no_grad()
@pytest.mark.parametrize("chosen", range(3))
def test_only_what_the_chosen_head_needs_is_kept(chosen):
    net, x = Heads(chosen).eval(), torch.rand(3, 4)
    graph = capture(net, x)
    linear = [m for m in graph.parts if isinstance(m, nn.Linear)]
    assert len(graph.parts) == (4 if chosen == 2 else 3)
    assert [layer.out_features for layer in linear] == [5, chosen + 2]
    torch.testing.assert_close(graph(x.double()), net.double()(x.double()))


class Unused(nn.Module):
    """Computes more than it returns, also from what has no rules."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        self.layer(x).tanh().sigmoid()
        y = x.flip(1)
        torch.cat([y, x], 1)
        return self.layer(y)


def test_what_nobody_uses_is_dropped():
    graph = capture(Unused().eval(), torch.rand(3, 4))
    assert [type(m) for m in graph.parts] == [Gather, nn.Linear]


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        for _ in range(3):
            x = F.relu(self.layer(x))
        return self.last(x)


@torch.no_grad()
def test_a_layer_that_is_used_three_times_is_three_nodes_of_the_same_weights():
    net, x = Shared().eval(), torch.rand(3, 4)
    graph = capture(net, x)
    first, second, third, last = (m for m in graph.parts if isinstance(m, nn.Linear))
    assert torch.equal(first.weight, second.weight) and torch.equal(second.weight, third.weight)
    torch.testing.assert_close(graph(x.double()), net.double()(x.double()))


class Same(nn.Module):
    def forward(self, x):
        return x


class Middle(nn.Module):
    """Returns a value from which it has computed another one."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        y = self.layer(x)
        y.relu()
        return y


@torch.no_grad()
def test_the_output_may_be_the_input_or_a_value_in_the_middle():
    x = torch.rand(3, 4)
    graph = capture(Same().eval(), x)
    assert [type(m) for m in graph.parts] == [nn.Identity] and torch.equal(graph(x.double()), x.double())
    assert [type(m) for m in capture(Middle().eval(), x).parts] == [nn.Linear]


@torch.no_grad()
def test_a_graph_stays_as_it_was_read():
    """Its weights are copies."""
    net, x = Shared().eval(), torch.rand(3, 4)
    graph = capture(net, x)
    before = graph(x.double())
    net.layer.weight.zero_()
    assert torch.equal(graph(x.double()), before)


def test_all_numbers_are_float64_and_nothing_is_trained():
    graph = capture(Heads(2).eval(), torch.rand(3, 4))
    assert not graph.training and all(not m.training for m in graph.modules())
    for a in (*graph.parameters(), *graph.buffers()):
        assert not a.requires_grad and (a.dtype == torch.float64 or not a.is_floating_point())
