"""Activations of the baselines that PyTorch lacks: a ramp with learned tops, and MaxMin."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Device, check_positive


class ParamRamp(nn.Module):
    """Computes min(max(x, 0), r) with a learned top r for each channel.

    Above r as well as below 0 a change of x has no effect, which intervals use.  Lyu et al. (arXiv 2104.00447).

    In training mode both ends leak: below 0 the slope is ``leak``, and above r as well.  So they pass a gradient.
    ``leak`` is 0 at first, and training may change it in place.  It is a parameter without a gradient, because
    auto_LiRPA shares parameters but copies buffers.  Evaluation does not read it, unless the attribute ``leaks`` is
    true, which is for tracing a net that trains.

    Args:
        num_features: number of channels, the second dimension of the input.
        top: the first value of each r.

    Shape: (N, num_features, *) → the same.  In evaluation mode the Lipschitz bound is 1 in every norm.
    """

    def __init__(self, num_features: int, top: float = 1.0, *, device: Device = None, dtype: torch.dtype | None = None):
        check_positive(num_features=num_features)
        if not (top > 0 and math.isfinite(top)):
            raise ValueError(f"top must be positive and finite, got {top}")
        super().__init__()
        self.num_features, self.leaks = num_features, False
        self.top = nn.Parameter(torch.full((num_features,), float(top), device=device, dtype=dtype))
        self.leak = nn.Parameter(torch.zeros((), device=device, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or (not torch.jit.is_tracing() and x.shape[1] != self.num_features):
            raise ValueError(f"x must have shape (N, {self.num_features}, *), got {tuple(x.shape)}")
        top = self.top.view(-1, *[1] * (x.dim() - 2))
        if self.training or self.leaks:
            return top - self._leaky(top - self._leaky(x))
        if torch.jit.is_tracing():  # the same function, made of operators that auto_LiRPA bounds tightly
            return top - F.relu(top - F.relu(x))
        return torch.minimum(F.relu(x), top)

    def _leaky(self, x: Tensor) -> Tensor:
        """Returns max(x, 0) + leak·min(x, 0).  The intervals of the two terms add up to that of the sum."""
        return F.relu(x) - self.leak * F.relu(-x)

    def extra_repr(self) -> str:
        return f"{self.num_features}"


class MaxMin(nn.Module):
    """Sorts pairs of channels: channels 2i and 2i + 1 become the larger and the smaller of the two.

    It is GroupSort with groups of two: Anil et al. (arXiv 1811.05381), section 4.  It keeps every norm of a gradient.

    Shape: (N, C, *) with an even C → the same.  The Lipschitz bound is 1 in every norm.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or (not torch.jit.is_tracing() and x.shape[1] % 2):
            raise ValueError(f"x must have shape (N, C, *) with an even C, got {tuple(x.shape)}")
        first, second = x[:, ::2], x[:, 1::2]
        both = torch.stack([torch.maximum(first, second), torch.minimum(first, second)], 2)
        return both.flatten(1, 2)
