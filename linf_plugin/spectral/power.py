"""Power iteration: lower bounds of the norm, and the linear map of a layer on images of one size."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import Convolution, Pair

WIDE, WIDEST = 8, 64  # images for a layer of any size: times the reach of the kernel, and pixels


def image_size(map_: Convolution) -> Pair:
    """Returns the size of the images; for a layer of any size, one of several times the kernel."""
    if map_.size is not None:
        return map_.size
    sides = [max(pair) if map_.padding_mode == "circular" else 0 for pair in map_.padding]
    return tuple(
        max(min(WIDE * reach, WIDEST), reach + 1, s, side) for reach, s, side in zip(map_.reach, map_.stride, sides)
    )


def apply(map_: Convolution, x: Tensor, weight: Tensor) -> Tensor:
    """Returns what the layer without its bias makes of images x (N, in, h, w)."""
    vertical, horizontal = map_.padding[0], map_.padding[1]
    pads = [horizontal[0], horizontal[1], vertical[0], vertical[1]]
    mode = "circular" if map_.padding_mode == "circular" else "constant"
    x = F.pad(x, pads, mode=mode)
    return F.conv2d(x, weight, stride=map_.stride, dilation=map_.dilation, groups=map_.groups)


def power(map_: Convolution, steps: int) -> Tensor:
    """Returns ‖Av‖ for a unit vector v that has been through so many steps of v ← AᵀAv, differentiable in the weight.

    This is at most ‖A‖₂, except for rounding.  So it is a lower bound, and nothing can be certified with it: from a
    start that is nearly orthogonal to the first singular vector, it stays far below for many steps.
    """
    weight = map_.weight
    shape = (1, weight.shape[1] * map_.groups, *image_size(map_))
    generator = torch.Generator("cpu").manual_seed(0)
    v = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(weight)
    v = v / v.norm()
    with torch.enable_grad():
        for _ in range(steps):
            v = v.detach().requires_grad_()
            y = apply(map_, v, weight.detach())
            size = y.detach().norm()
            (v,) = torch.autograd.grad(y, v, y.detach() / torch.where(size > 0, size, 1))
            size = v.norm()
            v = v / torch.where(size > 0, size, 1)
    return torch.linalg.vector_norm(apply(map_, v.detach(), weight))
