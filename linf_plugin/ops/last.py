"""``dist``, ``sorted_dist`` and ``shift`` over the last dimension of (N, *, in): auto_LiRPA's traces have this form.

Elsewhere a layer makes rows of (N, *, in), which joins the samples with the further dimensions.  Bound propagation
cannot follow that: it keeps the samples in the first dimension of every node.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..arguments import check_exponent, check_operands, check_pairs
from ..kernels import composed
from . import shifts
from .distance import dist, dist_operator
from .operator import define
from .sorted import check_coefficients, sorted_dist, sorted_dist_operator


def along_last(function: Callable[..., Tensor], x: Tensor, *rest) -> Tensor:
    """Applies a function of rows, (R, in) → (R, out), over the last dimension: (N, *, in) → (N, *, out)."""
    return function(x.flatten(0, -2), *rest).unflatten(0, x.shape[:-1])


def _check_rows(x: Tensor, w: Tensor) -> None:
    check_operands(x=x, w=w)
    if x.dim() < 2:
        raise ValueError(f"x must have shape (N, *, in), got {tuple(x.shape)}")
    check_pairs(x.flatten(0, -2), w)


def _empty(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], w.shape[0])


# ``dist_last``.


def _dist_last(x: Tensor, w: Tensor, p: float) -> Tensor:
    return along_last(dist_operator, x, w, p)


def _check_dist(x, w, p):
    _check_rows(x, w)
    check_exponent(p)


dist_last = define(
    _dist_last,
    tensors=2,
    check=_check_dist,
    shapes=lambda x, w, p: _empty(x, w),
    composed=lambda x, w, p: along_last(composed.dist, x, w, p),
    rows=1,
    float32=True,
)


def dist_along(x: Tensor, w: Tensor, p: float) -> Tensor:
    """Returns ``dist`` over the last dimension: (N, *, in), (out, in) → (N, *, out)."""
    return dist(x, w, p) if x.dim() == 2 else dist_last(x, w, p)


# ``sorted_dist_last``.


def _sorted_dist_last(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    return along_last(sorted_dist_operator, x, w, rho, k)


def _check_sorted(x, w, rho, k):
    _check_rows(x, w)
    check_coefficients(rho, k)


sorted_dist_last = define(
    _sorted_dist_last,
    tensors=2,
    check=_check_sorted,
    shapes=lambda x, w, rho, k: _empty(x, w),
    composed=lambda x, w, rho, k: along_last(composed.sorted_dist, x, w, rho, k),
    rows=1,
    float32=True,
)


def sorted_dist_along(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    """Returns ``sorted_dist`` over the last dimension: (N, *, in), (out, in) → (N, *, out)."""
    return sorted_dist(x, w, rho, k) if x.dim() == 2 else sorted_dist_last(x, w, rho, k)


# ``shift_last``: one offset for each index of the last dimension.


def _shift_last(x: Tensor, offset: Tensor, sign: float, scale: float) -> Tensor:
    return along_last(shifts.shift_operator, x, offset, sign, scale)


def _check_shift(x, offset, sign, scale):
    if x.dim() < 2:
        raise ValueError(f"x must have shape (N, *, C), got {tuple(x.shape)}")
    shifts.check_shift(x.flatten(0, -2) if x.layout is torch.strided else x, offset, sign, scale)


shift_last = define(
    _shift_last,
    tensors=2,
    check=_check_shift,
    shapes=lambda x, offset, sign, scale: x.new_empty(x.shape),
    composed=lambda x, offset, sign, scale: along_last(shifts.shifted, x, offset, sign, scale),
    rows=1,
)


def shift_along(x: Tensor, offset: Tensor) -> Tensor:
    """Returns x + offset, one offset for each index of the last dimension: (N, *, C), (C,) → (N, *, C)."""
    return shifts.shift(x, offset) if x.dim() == 2 else shift_last(x, offset, 1.0, 1.0)
