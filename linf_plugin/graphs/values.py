"""The values of a traced program, and index arithmetic for operators that only move numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .graph import Graph, Node
from .operations import Gather

CHECKED_WITH = (2, 3)  # numbers of samples with which it is checked that an operator treats every sample by itself


class Unknown(TypeError):
    """An operator or a use of one for which nothing is proved.  The message says what to do, but not where it is."""


@dataclass(frozen=True)
class Value:
    """One value of the program, of shape (N·rows, *), where N is the number of samples.

    Attributes:
        at: its number in the graph, where it has shape (N, *shape).
        shape: the shape of one sample; it starts with ``rows`` if these are joined with the samples.
        rows: how many rows of each sample are joined with the samples, as in ``x.reshape(-1, features)``; or None.
    """

    at: int
    shape: tuple[int, ...]
    rows: int | None = None

    @property
    def numbers(self) -> int:
        """How many numbers one sample has."""
        return torch.Size(self.shape).numel()

    def of(self, samples: int) -> tuple[int, ...]:
        """Returns the shape that the program sees for this number of samples."""
        if self.rows is None:
            return (samples, *self.shape)
        return (samples * self.rows, *self.shape[1:])


@dataclass(frozen=True)
class Size:
    """A whole number that may depend on the number of samples.

    Attributes:
        of: samples → the number.
    """

    of: Callable[[int], int]


class Builder:
    """The nodes of a graph while it is made."""

    def __init__(self, shape: tuple[int, ...]):
        self.nodes: list[Node] = []
        self.where = ""
        self.input = Value(0, shape)

    def add(self, module: nn.Module, inputs: tuple[Value, ...], shape: tuple[int, ...], rows: int | None = None):
        """Adds a node, and returns its value."""
        self.nodes.append(Node(module.eval(), tuple(value.at for value in inputs), self.where))
        return Value(len(self.nodes), tuple(shape), rows)

    def like(self, module: nn.Module, *inputs: Value) -> Value:
        """Adds a node whose value has the shape of its first input."""
        return self.add(module, inputs, inputs[0].shape, inputs[0].rows)

    def graph(self, output: Value) -> Graph:
        """Returns the nodes on which the output depends, as a graph."""
        if output.at == 0:
            output = self.like(nn.Identity(), output)
        needed, pending = set(), [output.at]
        while pending:
            at = pending.pop()
            if at and at not in needed:
                needed.add(at)
                pending += self.nodes[at - 1].inputs
        order = sorted(needed)
        new = {0: 0, **{at: i for i, at in enumerate(order, 1)}}
        kept = [self.nodes[at - 1] for at in order]
        return Graph([node._replace(inputs=tuple(new[i] for i in node.inputs)) for node in kept]).eval()

    # Moves.

    def index(self, move: Callable[..., Tensor], inputs: tuple[Value, ...]) -> tuple[Tensor, int | None]:
        """Returns which numbers of a sample an operator moves to where, (*shape), and the rows joined with samples.

        Args:
            move: (samples, tensors) → the tensor to which the operator moves the numbers of the tensors.  It is called
                with numbers that name their own place; −1 names a zero.

        Raises:
            Unknown: the operator does not treat every sample by itself.
        """
        found = []
        for samples in CHECKED_WITH:
            total, begin, given = sum(v.numbers for v in inputs), 0, []
            for value in inputs:
                names = torch.arange(
                    begin, begin + value.numbers, dtype=torch.float64
                )  # some operators take no integers
                first = total * torch.arange(samples).unsqueeze(1)
                given.append((first + names).view(value.of(samples)))
                begin += value.numbers
            found.append(_of_each(move(samples, given).long(), samples, total))
        first, second = found
        if first is None or second is None or not torch.equal(first[0], second[0]) or first[1] != second[1]:
            raise Unknown("it mixes the samples of a batch, so nothing holds for one sample")
        return first

    def move(self, move: Callable[..., Tensor], *inputs: Value) -> Value:
        """Adds an operator that only moves numbers.  ``move`` is as ``index`` says."""
        index, rows = self.index(move, inputs)
        return self.gather(index, inputs, rows)

    def gather(self, index: Tensor, inputs: tuple[Value, ...], rows: int | None = None) -> Value:
        """Adds a ``Gather``, unless it would change nothing."""
        one = inputs[0]
        if len(inputs) == 1 and index.shape == one.shape and Gather(index).in_order(one.numbers):
            return Value(one.at, one.shape, rows)
        return self.add(Gather(index), inputs, index.shape, rows)


def _of_each(moved: Tensor, samples: int, total: int) -> tuple[Tensor, int | None] | None:
    """Returns what is moved in one sample, and the rows joined with samples; None if samples are mixed."""
    if moved.dim() == 0 or moved.shape[0] % samples:
        return None
    rows = moved.shape[0] // samples
    each = moved.reshape(samples, rows, *moved.shape[1:])
    shift = total * torch.arange(samples).view(samples, *[1] * (each.dim() - 1))
    local = torch.where(each < 0, -1, each - shift)
    if not (torch.equal(local, local[:1].expand_as(local)) and ((local >= -1) & (local < total)).all()):
        return None
    return (local[0, 0], None) if rows == 1 else (local[0], rows)


def resolve(argument: Any, samples: int) -> Any:
    """Returns an argument with all its sizes for this number of samples."""
    if isinstance(argument, Size):
        return argument.of(samples)
    if isinstance(argument, (list, tuple)):
        return type(argument)(resolve(a, samples) for a in argument)
    return argument
