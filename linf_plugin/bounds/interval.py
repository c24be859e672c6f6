"""Interval rules as pure functions: the exact range over a box of a distance, for every p, or of a sorted sum."""

import torch
from torch import Tensor


def dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Returns (near, far): near ≤ ‖x − w_k‖_p ≤ far for every x with lower ≤ x ≤ upper, and both are attained.

    Shapes: (B, in) twice, (out, in) → (B, out) twice.  Proof: ``kernels.reference.box_dist``.
    """
    return torch.ops.linf.box_dist(lower, upper, w, p)


def dist_conv2d(lower: Tensor, upper: Tensor, w: Tensor, p: float, *conv) -> tuple[Tensor, Tensor]:
    """Returns the same for every window: (B, C, H, W) twice → (B, out, H', W') twice."""
    return torch.ops.linf.box_conv2d(lower, upper, w, p, *conv)


def sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """Returns the same for sorted sums: (B, in) twice, (out, in) → (B, out) twice."""
    return torch.ops.linf.box_sorted_dist(lower, upper, w, rho, k)
