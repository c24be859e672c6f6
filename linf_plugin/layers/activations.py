"""Activations of the baselines that PyTorch lacks: a ramp with learned tops, and MaxMin."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import ops
from .base import Device, check_positive


class ParamRamp(nn.Module):
    """Computes min(max(x, 0), r) with a learned top r for each channel.

    Above r as well as below 0 a change of x has no effect, which intervals use.  Lyu et al. (arXiv 2104.00447).

    In training mode both ends leak: below 0 the slope is ``leak``, and above r as well.  So they pass a gradient.
    ``leak`` is a buffer in [0, 1], 0 at first, which training may change in place.  Evaluation does not read it.

    Args:
        num_features: number of channels, the second dimension of the input.
        top: the first value of each r, positive.

    Shape: (N, num_features, *) → the same.  In evaluation mode the Lipschitz bound is 1 in every norm.
    """

    leak: Tensor

    def __init__(self, num_features: int, top: float = 1.0, *, device: Device = None, dtype: torch.dtype | None = None):
        check_positive(num_features=num_features)
        if not (top > 0 and math.isfinite(top)):
            raise ValueError(f"top must be positive and finite, got {top}")
        super().__init__()
        self.num_features = num_features
        self.top = nn.Parameter(torch.full((num_features,), float(top), device=device, dtype=dtype))
        self.register_buffer("leak", torch.zeros((), device=device, dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or (not torch.jit.is_tracing() and x.shape[1] != self.num_features):
            raise ValueError(f"x must have shape (N, {self.num_features}, *), got {tuple(x.shape)}")
        if self.training:
            return self._below_top(self._leaky(self._below_top(self._leaky(x))))
        if torch.jit.is_tracing():  # the same function, made of operators that auto_LiRPA bounds tightly
            return self._below_top(F.relu(self._below_top(F.relu(x))))
        return torch.minimum(F.relu(x), self.top.view(-1, *[1] * (x.dim() - 2)))

    def _below_top(self, x: Tensor) -> Tensor:
        """Returns r − x."""
        return -ops.shift(x, self.top, sign=-1.0)

    def _leaky(self, x: Tensor) -> Tensor:
        """Returns max(x, 0) + leak·min(x, 0).  The intervals of the two terms add up to that of the sum."""
        if not torch.jit.is_tracing():
            return F.relu(x) - self.leak * F.relu(-x)
        leak = self.leak.item()  # a trace holds buffers as numbers anyway
        if not 0 <= leak <= 1:
            raise ValueError(f"leak must lie in [0, 1], got {leak}")
        # auto_LiRPA 0.3 multiplies image patches by a constant wrongly; ``shift`` has a rule of its own.  The shortcuts
        # of 0.3 are wrong where two ReLUs take x and −x, so the form is another one.  Both of its terms rise with x.
        zero = self.top.new_tensor([0.0])
        if leak in (0, 1):
            return x if leak else F.relu(x)
        return ops.shift(x, zero, scale=leak) + ops.shift(F.relu(x), zero, scale=1 - leak)

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
        return ops.max_min(x)
