"""``shift``: (x + sign·offset)·scale, one offset a channel.  Bound propagation sees biases and means in this form."""

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor

from .operator import Reverse, define, run


def _per_channel(a: Tensor, x: Tensor) -> Tensor:
    """Returns a (C,) in the shape that broadcasts over (N, C, *)."""
    return a.view((-1,) + (1,) * (x.dim() - 2))


def shifted(x: Tensor, offset: Tensor, sign: float, scale: float) -> Tensor:
    return (x + sign * _per_channel(offset, x)) * scale


def _shift(x: Tensor, offset: Tensor, sign: float, scale: float) -> Tensor:
    return shifted(x, offset, sign, scale).contiguous()


def check_shift(x, offset, sign, scale):
    for name, a in (("x", x), ("offset", offset)):
        if not a.is_floating_point() or a.layout is not torch.strided:
            raise TypeError(f"{name} must be a dense tensor of floating-point numbers, got {a.dtype}, {a.layout}")
    if offset.dtype is not x.dtype:
        raise TypeError(f"offset is {offset.dtype} but x is {x.dtype}: they must agree")
    if offset.device != x.device:
        raise ValueError(f"offset is on {offset.device} but x is on {x.device}")
    if x.dim() < 2:
        raise ValueError(f"x must have shape (N, C, *), got {tuple(x.shape)}")
    if offset.dim() != 1 or offset.shape[0] not in (1, x.shape[1]):
        raise ValueError(f"offset must have one number for each of {x.shape[1]} channels, got {tuple(offset.shape)}")
    if sign not in (1, -1):
        raise ValueError(f"sign must be 1 or −1, got {sign}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}")


class _Shift(Reverse):
    @staticmethod
    def forward(ctx, below, op, x, offset, sign, scale):
        ctx.constants, ctx.one = (sign, scale), offset.shape[0] == 1
        return run(below, op, x, offset, sign, scale)

    @staticmethod
    def backward(ctx, grad):
        sign, scale = ctx.constants
        grad = grad * scale
        to_offset = grad.sum().view(1) if ctx.one else grad.sum([d for d in range(grad.dim()) if d != 1])
        return None, None, grad, sign * to_offset, None, None


shift_operator = define(
    _shift,
    tensors=2,
    check=check_shift,
    shapes=lambda x, offset, sign, scale: x.new_empty(x.shape),
    composed=shifted,
    reverse=_Shift,
    rows=1,
)

_as_one_operator = contextvars.ContextVar("linf_shift_as_one_operator", default=False)


@contextlib.contextmanager
def shift_as_one_operator() -> Iterator[None]:
    """Until the context closes, ``shift`` is traced as ``linf::shift``, not as an addition and a product.

    auto_LiRPA adds up constants of several channels wrongly if it keeps coefficients as image patches.  Version 0.3
    also mistakes the sum of a vector and a bias for an image.  One operator with its own rule has neither fault.

    Layers that take (N, *, in) then keep these dimensions and use the operators of ``last``.
    """
    token = _as_one_operator.set(True)
    try:
        yield
    finally:
        _as_one_operator.reset(token)


def is_one_operator() -> bool:
    """Whether ``shift_as_one_operator`` is open."""
    return not torch.compiler.is_compiling() and _as_one_operator.get()  # Dynamo cannot trace the variable


def shift(x: Tensor, offset: Tensor, sign: float = 1.0, scale: float = 1.0) -> Tensor:
    """Returns (x + sign·offset)·scale, one offset a channel: (N, C, *), (C,) → (N, C, *).  sign is ±1, scale > 0."""
    if is_one_operator():
        return shift_operator(x, offset, sign, scale)
    offset = _per_channel(offset, x)
    y = x + offset if sign > 0 else x - offset
    return y if scale == 1 else y * scale
