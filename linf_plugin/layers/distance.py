"""The ℓ∞-distance neuron, fully connected and convolutional."""

import math

import torch
from torch import Tensor

from .. import ops
from ..arguments import check_tensors
from ..kernels.geometry import Geometry
from .base import Device, Distance, DistanceLinear, check_positive, pair


class LinfDistLinear(DistanceLinear):
    """A fully connected layer: y_k = ‖x − w_k‖_p + b_k.  With p = ∞ each output is an ℓ∞-dist neuron.

    Zhang et al. (arXiv 2102.05363), equations 5 and 9.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether b_k is learned.
        p: exponent in [1, ∞].  Training starts with a small p and ends at ∞ (``set_p`` changes a whole model).
        identity_init: if in ≤ out, the layer starts as a copy of its input plus 10; a ``MeanShift`` should follow it.

    Shape: (..., in_features) → (..., out_features).
    The Lipschitz bound in ℓ∞ is 1 at p = ∞, else in_features^{1/p}.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = math.inf,
        *,
        identity_init: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(in_features, out_features, bias, p, identity_init, device, dtype)

    def _distances(self, x: Tensor) -> Tensor:
        return ops.dist_along(x, self.weight, self.p)


class LinfDistConv2d(Distance):
    """Slides the ℓ∞-distance neuron over an image: the outputs are the ℓp distances of each window to each kernel.

    The arguments are those of ``torch.nn.Conv2d``, and p and identity_init as ``LinfDistLinear``.  The layer pads with
    zeros, and these count as coordinates like any other.  Zhang et al. (arXiv 2102.05363), section 3.1.

    Shape: (N, in_channels, H, W) → (N, out_channels, H', W'), with the same sizes as ``torch.nn.Conv2d``.
    The Lipschitz bound in ℓ∞ is 1 at p = ∞, else (in_channels/groups · kh · kw)^{1/p}.
    """

    compared = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        p: float = math.inf,
        *,
        identity_init: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_positive(in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride = pair("stride", stride, 1)
        self.padding = pair("padding", padding, 0)
        self.dilation = pair("dilation", dilation, 1)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        super().__init__(shape, bias, p, identity_init, device, dtype)

    @property
    def geometry(self) -> Geometry:
        """Where the windows lie: what the operators on windows are given."""
        return Geometry(self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        check_tensors(x=x, weight=self.weight)
        if x.dim() != 4 or (not torch.jit.is_tracing() and x.shape[1] != self.in_channels):
            raise ValueError(f"x must have shape (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        geometry = self.geometry
        if not torch.jit.is_tracing() and min(geometry.output_shape(x.shape, self.weight.shape)[2:]) < 1:
            raise ValueError(f"x of {tuple(x.shape[2:])} pixels is smaller than the kernel {self.kernel_size}")
        y = ops.dist_conv2d(x, self.weight, self.p, geometry)
        return y if self.bias is None else ops.shift(y, self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, p={self.p}"
        )
