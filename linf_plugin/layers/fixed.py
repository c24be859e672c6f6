"""Parts of 1-Lipschitz nets for training that become linear layers or convolutions with fixed or scaled weights."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..state import Constants
from .base import Device, check_positive
from .reparametrised import Reparametrised


class NormalizedRows(nn.Linear, Reparametrised):
    """A linear layer for training whose rows are divided by their ℓ2 norms: the last layer of a 1-Lipschitz net.

    The certificate of a net with a linear last layer divides by ‖w_y − w_j‖₂, so only the directions of rows matter.
    Singla et al. (arXiv 2108.04062).  A row of zeros stays.

    Args: as ``torch.nn.Linear``.

    Shape: (..., in_features) → (..., out_features).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_positive(in_features=in_features, out_features=out_features)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)

    def normalized(self) -> Tensor:
        """Returns the rows that are used, (out, in)."""
        return F.normalize(self.weight, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized(), self.bias)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        made = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        made.weight = nn.Parameter(copy.deepcopy(self).double().normalized().to(self.weight.dtype))
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone())
        return made.eval()


class PadChannels(Constants, Reparametrised):
    """Adds channels of zeros.  It becomes a convolution with 1×1 kernels.

    Shape: (N, in_channels, H, W) → (N, out_channels, H, W).  The Lipschitz bound is 1 in every norm.
    """

    compared = ("in_channels", "out_channels")

    def __init__(self, in_channels: int, out_channels: int):
        check_positive(in_channels=in_channels, out_channels=out_channels)
        if out_channels < in_channels:
            raise ValueError(f"out_channels must be at least in_channels={in_channels}, got {out_channels}")
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, 0, 0, 0, self.out_channels - self.in_channels))

    def plain(self) -> nn.Conv2d:
        made = nn.Conv2d(self.in_channels, self.out_channels, 1, bias=False, device="meta")
        made.weight = nn.Parameter(torch.eye(self.out_channels, self.in_channels)[:, :, None, None])
        return made.eval()

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}"


class UnshufflePixels(Constants, Reparametrised):
    """Moves the pixels of blocks that do not overlap to channels, as ``torch.nn.PixelUnshuffle``.

    It becomes a convolution whose weights are 0 and 1.

    Args:
        channels: of the input.
        size: the height and the width of a block.

    Shape: (N, channels, H, W) → (N, channels·size², H / size, W / size).  The Lipschitz bound is 1 in every norm.

    Raises:
        ValueError: an argument is not as described; from ``forward``, the input has other channels, or pixels that
            fill no block.
    """

    compared = ("channels", "size")

    def __init__(self, channels: int, size: int):
        check_positive(channels=channels, size=size)
        super().__init__()
        self.channels, self.size = channels, size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels or any(side % self.size for side in x.shape[2:]):
            wanted = f"(N, {self.channels}, H, W) with H and W multiples of {self.size}"
            raise ValueError(f"x must have shape {wanted}, got {tuple(x.shape)}")
        return F.pixel_unshuffle(x, self.size)

    def plain(self) -> nn.Conv2d:
        made = nn.Conv2d(self.channels, self.channels * self.size**2, self.size, self.size, bias=False, device="meta")
        made.weight = nn.Parameter(torch.eye(made.out_channels).view(made.out_channels, -1, self.size, self.size))
        return made.eval()

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.size}"


class AveragePool(Constants, Reparametrised):
    """Adds up the pixels of windows that do not overlap, and divides.  It becomes a convolution of single channels.

    Args:
        channels: of input and output.
        size: the height, the width and the stride of the windows.
        divisor: by default ``size``, with which the layer is 1-Lipschitz in ℓ2.  The mean has the divisor size².

    Shape: (N, channels, H, W) → (N, channels, H // size, W // size).
    The ℓ2 Lipschitz bound is size/divisor, because ‖Σ x‖ ≤ size·‖x‖₂ in each window.
    """

    compared = ("size", "divisor")

    def __init__(self, channels: int, size: int, divisor: float | None = None):
        check_positive(channels=channels, size=size)
        divisor = float(size if divisor is None else divisor)
        if not 0 < divisor < math.inf:
            raise ValueError(f"divisor must be positive and finite, got {divisor}")
        super().__init__()
        self.channels, self.size, self.divisor = channels, size, divisor

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.size) * (self.size**2 / self.divisor)

    def plain(self) -> nn.Conv2d:
        sizes = (self.channels, self.channels, self.size, self.size)
        made = nn.Conv2d(*sizes, groups=self.channels, bias=False, device="meta")
        made.weight = nn.Parameter(torch.full((self.channels, 1, self.size, self.size), 1 / self.divisor))
        return made.eval()

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.size}, divisor={self.divisor:g}"
