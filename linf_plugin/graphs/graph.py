"""A net as a graph: values, each computed by one module from earlier values."""

import math
from typing import NamedTuple

from torch import Tensor, nn

from ..layers.potential import Potential
from .growth import growth
from .operations import Add


class Node(NamedTuple):
    """One value.

    Attributes:
        module: what computes it.
        inputs: which values it takes: 0 is the input of the net, i + 1 is the value of node i.
        where: the place in the user's net, for messages.
    """

    module: nn.Module
    inputs: tuple[int, ...]
    where: str


def last_uses(nodes: list[Node]) -> list[int]:
    """Returns for each value, that of the input included, the last node that takes it; −1 if none does."""
    last = [-1] * (len(nodes) + 1)
    for i, node in enumerate(nodes):
        for value in node.inputs:
            last[value] = i
    return last


class Graph(nn.Module):
    """A net whose values are computed one after the other; the last one is the output.

    Each module treats every sample by itself, so a graph is a function of one sample.  It has no other state.
    """

    def __init__(self, nodes: list[Node]):
        super().__init__()
        self.parts = nn.ModuleList(node.module for node in nodes)
        self.inputs = tuple(node.inputs for node in nodes)
        self.where = tuple(node.where for node in nodes)

    @property
    def nodes(self) -> list[Node]:
        """The nodes, in order."""
        return [Node(*each) for each in zip(self.parts, self.inputs, self.where)]

    def users(self) -> list[list[int]]:
        """Returns for each value the nodes that take it."""
        found: list[list[int]] = [[] for _ in range(len(self.parts) + 1)]
        for i, inputs in enumerate(self.inputs):
            for value in set(inputs):
                found[value].append(i)
        return found

    def lipschitz_in(self, norm: float) -> float:
        """Returns a Lipschitz bound in ℓ∞ (``growth``).  Raises TypeError for another norm, or without a rule."""
        if norm != math.inf:
            raise TypeError("the Lipschitz bound of a traced net is known in ℓ∞ only")
        return growth(self.nodes)

    def forward(self, x: Tensor) -> Tensor:
        values, last = [x], last_uses(self.nodes)
        for i, (module, inputs) in enumerate(zip(self.parts, self.inputs)):
            values.append(module(*(values[j] for j in inputs)))
            for j in inputs:
                if last[j] == i:
                    values[j] = None  # nobody reads it again
        return values[-1]


def chain(layers: list[nn.Module]) -> Graph:
    """Returns the graph of layers that are applied one after the other."""
    return Graph([Node(layer, (i,), f"layer {i} ({type(layer).__name__})") for i, layer in enumerate(layers)])


def expanded(nodes: list[Node]) -> list[Node]:
    """Returns the nodes with each ``Potential`` layer as its operations: W·x + b, relu, Wᵀ·h and x − y."""
    found: list[Node] = []
    value = [0]  # value of the given nodes → value of the new ones
    for module, inputs, where in nodes:
        taken = tuple(value[i] for i in inputs)
        if isinstance(module, Potential):
            into, back = module.branch()
            found.append(Node(into, taken, where))
            found.append(Node(nn.ReLU().eval(), (len(found),), where))
            found.append(Node(back, (len(found),), where))
            module, taken = Add(-1).eval(), (*taken, len(found))
        found.append(Node(module, taken, where))
        value.append(len(found))
    return found
