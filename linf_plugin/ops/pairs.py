"""``max_min``: the larger and the smaller number of each pair of channels."""

import torch
from torch import Tensor

from ..arguments import check_operands
from .operator import define
from .shifts import is_one_operator


def of_pairs(x: Tensor) -> Tensor:
    first, second = x[:, ::2], x[:, 1::2]
    return torch.stack([torch.maximum(first, second), torch.minimum(first, second)], 2).flatten(1, 2)


def _max_min(x: Tensor) -> Tensor:
    return of_pairs(x)


def _check(x):
    check_operands(x=x)
    if x.dim() < 2 or x.shape[1] % 2:
        raise ValueError(f"x must have shape (N, C, *) with an even C, got {tuple(x.shape)}")


max_min_operator = define(
    _max_min, tensors=1, check=_check, shapes=lambda x: x.new_empty(x.shape), composed=of_pairs, rows=1
)


def max_min(x: Tensor) -> Tensor:
    """Returns x with the larger and the smaller number of channels 2i and 2i + 1 in their places: (N, C, *) → the same.

    Inside ``shift_as_one_operator`` it is one operator, which auto_LiRPA bounds by lines of this package.
    """
    return max_min_operator(x) if is_one_operator() else of_pairs(x)
