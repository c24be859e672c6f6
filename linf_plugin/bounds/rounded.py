"""A net with unknown but bounded noise after its layers, for auto_LiRPA: how bounds cover rounding."""

import functools
import itertools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import tracing
from ..arguments import check_operands, check_shape
from ..float32 import allowance, reach
from ..ops.operator import define
from . import linear, versions
from .register import relaxed_class


def _within(x: Tensor, amount: Tensor) -> Tensor:
    return x.clone()


def _check_within(x, amount):
    check_operands(x=x)
    check_operands(amount=amount)  # which may be of another dtype: where x is computed, it plays no part
    check_shape("amount", amount, x.shape)
    if amount.device != x.device:
        raise ValueError(f"amount is on {amount.device} but x is on {x.device}")


# Anything within amount of x, as far as bounds go; x, where it is computed.  Shapes (N, *) both.
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


# tanh under another name, so that bounds of it come from ``lines.tanh``: in both versions of auto_LiRPA there are
# intervals on which its own lines are wrong (narrower than 1e-8, or beyond ±500).
tanh = define(
    _tanh, tensors=1, check=lambda x: check_operands(x=x), shapes=torch.empty_like, composed=torch.tanh, rows=1
)


def _symbolic(g, x, amount):
    """linf::within → linf::Within(x, amount)."""
    return g.op("linf::Within", x, amount).setType(x.type())


def _magnitude(A):
    """|A| for any form in which auto_LiRPA keeps coefficients."""
    return A.abs() if isinstance(A, Tensor) else A.create_similar(A.patches.abs())


@functools.cache
def register() -> None:
    """Makes auto_LiRPA know ``linf::within`` and ``linf::tanh``.  Calling it again does nothing."""
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
    """``between``: the amounts that ``Noisy`` takes beside x; ``limits``: (N,) of the bounds there, and of the logits.
    ``last`` (N, classes): the noise of the last layer, infinite where there is no bound."""

    between: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    last: Tensor

    def slack(self, bounded) -> Tensor:
        """(N, classes): what to subtract from bounds of the logits that ``compute_bounds`` has just found.

        Infinite also where an interval bound is beyond its limit.  Those of every method are cut to the interval
        bounds, and so within the limits where these are.
        """
        noisy = [name for name, node in bounded._modules.items() if type(node).__name__ == "BoundWithin"]
        within = torch.ones_like(self.last[:, 0], dtype=torch.bool)
        for name, limit in zip((*noisy, bounded.final_name), self.limits, strict=True):
            for end in bounded._linf_intervals.get(name, ()):  # logits of a last linear layer are not computed
                within &= end.abs().flatten(1).amax(1) <= limit
        return torch.where(within.unsqueeze(1), self.last * reach.OUTWARD, torch.inf)


class Noisy(nn.Module):
    """A sequential net with ``allowance.noise`` after each layer, but for the last one that computes: there the
    noise is subtracted from the bound, so that auto_LiRPA still joins that layer with a specification.

    Noise comes after the layers that only move values, so that the next relaxation is made on its bounds, which
    ``Noises.slack`` checks.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(reach.layers(model))
        computing = [i for i, layer in enumerate(self.layers) if type(layer) not in reach.MOVES]
        self.noisy = {i: after - 1 for i, after in itertools.pairwise(computing)}  # layer → where its noise comes
        self.last = max(computing, default=None)

    def noises(self, lower: Tensor, upper: Tensor) -> Noises:
        """For float32 inputs between lower and upper (N, *); no bound where an activation may overflow."""
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
        """The amount behind layers that only move values; a change of sign is none here."""
        for move in self.layers[first:end]:
            amount = move(amount).abs()
        return amount

    def forward(self, x: Tensor, *amounts: Tensor) -> Tensor:
        rest, places = iter(amounts), set(self.noisy.values())
        for i, layer in enumerate(self.layers):
            x = tanh(x) if isinstance(layer, nn.Tanh) else layer(x)
            x = within(x, next(rest)) if i in places else x
        return x
