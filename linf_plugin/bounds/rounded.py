"""A net with unknown but bounded noise after its layers: in this way auto_LiRPA's bounds cover rounding."""

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import tracing
from ..arguments import check_operands, check_shape
from ..float32 import allowance, reach
from ..layers.facts import FACTS
from ..ops.operator import define
from . import linear, versions
from .register import relaxed_class


def _within(x: Tensor, amount: Tensor) -> Tensor:
    return x.clone()


def _check_within(x, amount):
    check_operands(x=x)
    check_operands(amount=amount)  # its dtype may be another one, because the operator's value is x
    check_shape("amount", amount, x.shape)
    if amount.device != x.device:
        raise ValueError(f"amount is on {amount.device} but x is on {x.device}")


# For bounds it is any number within amount of x.  Its value is x.  Shapes (N, *) both.
within = define(
    _within,
    tensors=2,
    check=_check_within,
    shapes=lambda x, amount: torch.empty_like(x),
    composed=lambda x, amount: x.clone(),
    rows=2,
)


def _tanh(x: Tensor) -> Tensor:
    return x.tanh()


# tanh under another name, so that its bounds come from ``lines.tanh``.  auto_LiRPA's own lines are wrong on some
# intervals: narrower than 1e-8 (0.7.1), or beyond ±500 (0.3).
tanh = define(
    _tanh, tensors=1, check=lambda x: check_operands(x=x), shapes=torch.empty_like, composed=torch.tanh, rows=1
)


def _symbolic(g, x, amount):
    """linf::within → linf::Within(x, amount)."""
    return g.op("linf::Within", x, amount).setType(x.type())


def _magnitude(A):
    """Returns |A| for every form in which auto_LiRPA keeps coefficients."""
    return A.abs() if isinstance(A, Tensor) else A.create_similar(A.patches.abs())


@functools.cache
def register() -> None:
    """Registers ``linf::within`` and ``linf::tanh`` with auto_LiRPA.  A second call does nothing."""
    package = versions.import_auto_lirpa()

    class BoundWithin(package.bound_ops.Bound):
        def __init__(self, attr=None, inputs=None, output_index=0, options=None):
            super().__init__(attr, inputs, output_index, options)

        def forward(self, x, amount):
            return x

        def interval_propagate(self, *v):
            (lower, upper), amount = v[0], v[1][0]
            return lower - amount, upper + amount

        def bound_backward(self, last_lA, last_uA, x, amount, **kwargs):
            # a·(x + n) ≥ a·x − |a|·amount, and ≤ a·x + |a|·amount
            def bias(A):
                return 0 if A is None else self.get_bias(_magnitude(A), amount.forward_value)

            return [(last_lA, last_uA), (None, None)], -bias(last_lA), bias(last_uA)

        def bound_forward(self, dim_in, x, amount):
            return package.linear_bound.LinearBound(x.lw, x.lb - amount.lb, x.uw, x.ub + amount.ub)

    tracing.register_symbolic("linf::within", _symbolic)
    package.register_custom_op("linf::Within", BoundWithin)
    tracing.register_symbolic("linf::tanh", lambda g, x: g.op("linf::Tanh", x).setType(x.type()))
    package.register_custom_op(
        "linf::Tanh",
        relaxed_class(
            package,
            "BoundLinfTanh",
            torch.ops.linf.tanh,
            lambda lower, upper: (lower.tanh(), upper.tanh()),
            linear.tanh_blocks,
        ),
    )


class Noises(NamedTuple):
    """The noise of a net over a batch of boxes.

    Attributes:
        between: the amounts that ``Noisy`` takes besides x.
        limits: (N,) each, the limits of the bounds at these places, and of those of the logits.
        last: (N, classes), the noise of the last layer; infinite where there is no bound.
    """

    between: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    last: Tensor

    def slack(self, bounded) -> Tensor:
        """Returns (N, classes): what to subtract from the bounds of logits that ``compute_bounds`` has just found.

        It is infinite also where an interval bound is beyond its limit.  The bounds of every method are cut to the
        interval bounds, so they are within the limits where the interval bounds are.
        """
        noisy = [name for name, node in bounded._modules.items() if type(node).__name__ == "BoundWithin"]
        within = torch.ones_like(self.last[:, 0], dtype=torch.bool)
        for name, limit in zip((*noisy, bounded.final_name), self.limits, strict=True):
            for end in bounded._linf_intervals.get(name, ()):  # a last linear layer has no interval of its logits
                within &= end.abs().flatten(1).amax(1) <= limit
        return torch.where(within.unsqueeze(1), self.last * reach.OUTWARD, torch.inf)


class Noisy(nn.Module):
    """A sequential net with ``allowance.noise`` after each layer that computes, except the last one.

    The noise of the last one is subtracted from the bound instead, so that auto_LiRPA still joins that layer with a
    specification.  If layers that only move values follow, noise comes after these.  Then the next relaxation is made
    on the bounds of the noisy values, and ``Noises.slack`` checks these bounds.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(reach.layers(model))
        computing = [i for i, layer in enumerate(self.layers) if FACTS[type(layer)].computes]
        self.noisy = {i: after - 1 for i, after in itertools.pairwise(computing)}  # layer → place of its noise
        self.last = max(computing, default=None)

    def noises(self, lower: Tensor, upper: Tensor) -> Noises:
        """Returns the noise for float32 inputs between lower and upper, (N, *) each.

        There is no bound where an activation may overflow.
        """
        noise = allowance.noise(nn.Sequential(*self.layers), lower, upper)
        finite = torch.ones(len(lower), dtype=torch.bool, device=lower.device)
        for a in noise:
            finite &= True if a is None else a.amount.flatten(1).isfinite().all(1)
        between = []
        for i, at in self.noisy.items():
            amount = torch.where(reach.samples(finite, noise[i].amount), noise[i].amount, 0)
            between.append(self._moved(amount, i + 1, at + 1))
        zero = lower.new_zeros(len(lower), 1)
        computing = [a for a in noise if a is not None] or [allowance.Noise(zero, zero[:, 0] + torch.inf)]
        last = zero if self.last is None else self._moved(computing[-1].amount, self.last + 1, len(self.layers))
        last = torch.where(finite.unsqueeze(1), last, torch.inf)
        return Noises(tuple(between), tuple(a.limit for a in computing), last)

    def _moved(self, amount: Tensor, first: int, end: int) -> Tensor:
        """Returns the amount behind layers that only move or negate values.  A change of sign does not change it."""
        for move in self.layers[first:end]:
            amount = move(amount).abs()
        return amount

    def forward(self, x: Tensor, *amounts: Tensor) -> Tensor:
        rest, places = iter(amounts), set(self.noisy.values())
        for i, layer in enumerate(self.layers):
            x = tanh(x) if isinstance(layer, nn.Tanh) else layer(x)
            x = within(x, next(rest)) if i in places else x
        return x
