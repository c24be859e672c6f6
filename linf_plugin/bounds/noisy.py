"""A net with unknown but bounded noise after its layers, for auto_LiRPA: how bounds cover rounding."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import compat, rounding


@torch.library.custom_op("linf::within", mutates_args=())
def within(x: Tensor, amount: Tensor) -> Tensor:
    """Anything within amount of x, as far as bounds go; x, where it is computed.  Shapes (N, *) both."""
    return x.clone()


within.register_fake(lambda x, amount: x.new_empty(x.shape))


def _symbolic(g, x, amount):
    """linf::within → linf::Within(x, amount)."""
    return g.op("linf::Within", x, amount).setType(x.type())


def _magnitude(A):
    """|A| for any form in which auto_LiRPA keeps coefficients."""
    return A.abs() if isinstance(A, Tensor) else A.create_similar(A.patches.abs())


@functools.cache
def register() -> None:
    """Makes auto_LiRPA know ``linf::within``.  Calling it again does nothing."""
    package = compat.import_auto_lirpa()

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

    compat.register_symbolic("linf::within", _symbolic)
    package.register_custom_op("linf::Within", BoundWithin)


class Noises(NamedTuple):
    """``between``: the amounts that ``Noisy`` takes beside x, and ``limits`` (N,) of the bounds there.  ``last``
    (N, classes): the noise of the last layer, infinite where there is no bound."""

    between: tuple[Tensor, ...]
    limits: tuple[Tensor, ...]
    last: Tensor

    def slack(self, bounded) -> Tensor:
        """(N, classes): what to subtract from bounds of the logits that a BoundedModule has just computed.

        Infinite also where one of its intermediate bounds is beyond its limit.
        """
        nodes = [node for node in bounded._modules.values() if type(node).__name__ == "BoundWithin"]
        within = torch.ones_like(self.last[:, 0], dtype=torch.bool)
        for node, limit in zip(nodes, self.limits, strict=True):
            for end in (getattr(node, "lower", None), getattr(node, "upper", None)):
                if end is not None:
                    within &= end.abs().flatten(1).amax(1) <= limit
        return torch.where(within.unsqueeze(1), self.last * rounding.OUTWARD, torch.inf)


class Noisy(nn.Module):
    """A sequential net with ``rounding.noise`` after each layer, but for the last one that computes: there the
    noise is subtracted from the bound, so that auto_LiRPA still joins that layer with a specification."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList(rounding.layers(model))
        computing = [i for i, layer in enumerate(self.layers) if type(layer) not in rounding.MOVES]
        self.noisy = computing[:-1]

    def noises(self, lower: Tensor, upper: Tensor) -> Noises:
        """For float32 inputs between lower and upper (N, *); no bound where an activation may overflow."""
        noise = rounding.noise(nn.Sequential(*self.layers), lower, upper)
        finite = torch.ones(len(lower), dtype=torch.bool, device=lower.device)
        for a in noise:
            finite &= True if a is None else a.amount.flatten(1).isfinite().all(1)
        between = [noise[i] for i in self.noisy]
        zero = lower.new_zeros(len(lower), 1)
        last = next((a.amount.flatten(1) for a in reversed(noise) if a is not None), zero)
        return Noises(
            tuple(torch.where(rounding.samples(finite, a.amount), a.amount, 0) for a in between),
            tuple(a.limit for a in between), torch.where(finite.unsqueeze(1), last, torch.inf),
        )

    def forward(self, x: Tensor, *amounts: Tensor) -> Tensor:
        rest = iter(amounts)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = within(x, next(rest)) if i in self.noisy else x
        return x
