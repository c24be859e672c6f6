"""A net with unknown but bounded noise after its operations: in this way auto_LiRPA's bounds cover rounding."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..float32 import allowance, rules
from ..float32.reach import nodes
from ..graphs.graph import expanded, last_uses
from ..graphs.operations import Affine
from . import operators, within
from .folded import can_fold, folded
from .lowered import lowered


def register() -> None:
    """Registers the operators of noisy nets with auto_LiRPA.  A second call does nothing."""
    within.register()
    operators.register()


class Noises(NamedTuple):
    """The noise of a net over a batch of boxes.

    Attributes:
        between: the amounts that ``Noisy`` takes besides x.
        limits: (N,) each, the limits of the bounds at these places, and of those of the logits.
        last: (N, classes), the noise of the last operation; infinite where there is no bound.
    """

    between: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    last: Tensor

    def slack(self, bounded) -> Tensor:
        """Returns (N, classes): what to subtract from the bounds of logits that ``compute_bounds`` has just found.

        It is infinite also where an interval bound is beyond its limit.  The bounds of every method are cut to the
        interval bounds, so they are within the limits where the interval bounds are.
        """
        number = dict(zip(bounded.input_name, bounded.input_index))  # input 0 is x, and the amounts follow
        at = {n: number[node.inputs[1].name] - 1 for n, node in bounded._modules.items() if _is_noise(node)}
        if sorted(at.values()) != list(range(len(self.between))):
            raise RuntimeError(f"the traced net has noise {sorted(at.values())} of {len(self.between)}")
        at[bounded.final_name] = len(self.between)
        inside = torch.ones_like(self.last[:, 0], dtype=torch.bool)
        for name, k in at.items():
            for end in bounded._linf_intervals.get(name, ()):  # a last linear layer has no interval of its logits
                inside &= rules.rows(end.abs()).amax(1) <= self.limits[k]
        return torch.where(inside.unsqueeze(1), self.last * rules.OUTWARD, torch.inf)


def _is_noise(node) -> bool:
    return type(node).__name__ == "BoundWithin"


class Noisy(nn.Module):
    """A net with ``allowance.noise`` after each operation that computes, except the last one.

    The noise of the last one is subtracted from the bound instead, so that auto_LiRPA still joins that layer with a
    specification.  If operations follow that only move values, and nobody else takes what they move, noise comes after
    these.  Then the next relaxation is made on the bounds of the noisy values, and ``Noises.slack`` checks these
    bounds.  A product and the constants that are folded into it are one operation, with the noise of all.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.source = [model]  # in a list, so that its parameters are not also those of this net
        self.nodes = expanded(nodes(model))
        users = [[] for _ in range(len(self.nodes) + 1)]
        for i, node in enumerate(self.nodes):
            for value in node.inputs:
                users[value].append(i)
        self.places: dict[int, int] = {}  # node that computes → node after which its noise comes
        self.into: dict[int, int] = {}  # node that is folded → the product into which it is folded
        for i, node in enumerate(self.nodes):
            if isinstance(node.module, Affine) and node.module.fused:
                product = self.into.get(node.inputs[0] - 1, node.inputs[0] - 1)
                if product >= 0 and can_fold(self.nodes[product].module, node.module):
                    self.into[i] = product
        for i, node in enumerate(self.nodes):
            if not allowance.computes(node.module) or self._folded_later(users, i):
                continue
            at = i
            while len(users[at + 1]) == 1 and self._only_moves(users[at + 1][0]):
                at = users[at + 1][0]
            self.places[i] = at
        self.last = next((i for i, at in self.places.items() if at == len(self.nodes) - 1), None)
        # node that computes → node after which its noise comes, in the order of the amounts
        self.noisy = {i: at for i, at in sorted(self.places.items(), key=lambda each: each[1]) if i != self.last}
        products: dict[int, list[Affine]] = {}
        for i, product in self.into.items():
            products.setdefault(product, []).append(self.nodes[i].module)
        self.forms = nn.ModuleList(
            nn.Identity() if i in self.into else lowered(folded(node.module, products.get(i, [])))
            for i, node in enumerate(self.nodes)
        )

    def _folded_later(self, users: list[list[int]], i: int) -> bool:
        return len(users[i + 1]) == 1 and users[i + 1][0] in self.into

    def _only_moves(self, i: int) -> bool:
        node = self.nodes[i]
        return len(node.inputs) == 1 and not allowance.computes(node.module)

    def noises(self, lower: Tensor, upper: Tensor) -> Noises:
        """Returns the noise for float32 inputs between lower and upper, (N, *) each.

        There is no bound where an activation may overflow.
        """
        noise = allowance.noise(self.source[0], lower, upper)
        finite = torch.ones(len(lower), dtype=torch.bool, device=lower.device)
        for a in noise:
            finite &= True if a is None else rules.rows(a.amount).isfinite().all(1)
        between, limits = [], []
        for i in self.noisy:
            amount = self._amount(noise, i)
            between.append(self._moved(torch.where(rules.samples(finite, amount), amount, 0), i))
            limits.append(noise[i].limit)
        zero = lower.new_zeros(len(lower), 1)
        if self.last is None:  # nothing computes, or the output is also used before
            return Noises(
                tuple(between), (*limits, zero[:, 0] + torch.inf), torch.where(finite.unsqueeze(1), zero, torch.inf)
            )
        last = self._moved(self._amount(noise, self.last), self.last)
        last = torch.where(finite.unsqueeze(1), last, torch.inf)
        return Noises(tuple(between), (*limits, noise[self.last].limit), last)

    def _amount(self, noise: list[allowance.Noise | None], i: int) -> Tensor:
        """Returns the noise after node i, with that of the product and the constants that are folded into it."""
        before = self.nodes[i].inputs[0] - 1
        if i not in self.into:
            return noise[i].amount
        earlier = self._amount(noise, before)
        return (earlier * self.nodes[i].module.factor.abs() + noise[i].amount) * rules.OUTWARD

    def _moved(self, amount: Tensor, i: int) -> Tensor:
        """Returns the amount behind the operations that only move it.  A change of sign does not change it."""
        at = i
        while at != self.places[i]:
            at = next(k for k in range(at + 1, len(self.nodes)) if at + 1 in self.nodes[k].inputs)
            amount = self.nodes[at].module(amount).abs()
        return amount

    def forward(self, x: Tensor, *amounts: Tensor) -> Tensor:
        noise = dict(zip(self.noisy.values(), amounts))
        values, last = [x], last_uses(self.nodes)
        for i, (form, node) in enumerate(zip(self.forms, self.nodes)):
            y = form(*(values[j] for j in node.inputs))
            values.append(within.within(y, noise[i]) if i in noise else y)
            for j in node.inputs:
                if last[j] == i:
                    values[j] = None
        return values[-1]
