"""Two operators for nets with noise: ``within``, which is the noise, and ``tanh`` with lines of its own."""

import functools

import torch
from torch import Tensor

from .. import tracing
from ..arguments import check_operands, check_shape
from ..ops.operator import define
from . import linear, versions
from .pieces import BUFFER
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


def _weighted(A: Tensor, amount: Tensor) -> Tensor:
    """Returns Σ|A|·amount, (S, B), of A (S, B, *) and amount (B, *).  A few samples at a time stay in the cache."""
    count = max(1, BUFFER // max(1, A[:, :1].numel()))
    parts = zip(A.split(count, 1), amount.split(count))
    return torch.cat([torch.einsum("sb...,b...->sb", a.abs(), n) for a, n in parts], 1)


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
                if isinstance(A, Tensor) and not A.requires_grad:
                    return _weighted(A, amount.forward_value)
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
