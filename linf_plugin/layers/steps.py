"""The base of residual layers for training: x − 2·Wᵀ·diag(d)·relu(W·x + b), where d ≥ 0 is computed from W."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Device, add_weight, check_positive
from .potential import PotentialConv2d, PotentialLinear, odd, same_size, turned
from .reparametrised import Reparametrised, fitted


class Steps(nn.Module, Reparametrised):
    """The base of dense and convolutional layers of this form: it has the weight W and the bias b.

    If diag(1/d) ⪰ WWᵀ, the layer is 1-Lipschitz in ℓ2: with A = diag(d)^½·W its Jacobian is I − 2·AᵀJA with a diagonal
    J in [0, 1], and ‖A‖₂ ≤ 1 (see ``Potential``).  relu(c·t) = c·relu(t) for c ≥ 0, so the layer is the same function
    as a ``Potential`` layer with the weight √2·A and the bias √(2d)·b, which replaces it.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight_shape: tuple[int, ...], bias: bool, device: Device, dtype: torch.dtype | None):
        super().__init__()
        add_weight(self, weight_shape, bias, device, dtype)

    def reset_bias(self) -> None:
        """Draws the bias from ±1/√(the numbers in a row of the weight), uniformly."""
        if self.bias is not None:
            bound = 1 / math.sqrt(math.prod(self.weight.shape[1:]))
            nn.init.uniform_(self.bias, -bound, bound)

    def scale(self) -> Tensor:
        """Returns d, (inner,), with gradient, in the dtype of the weight."""
        raise NotImplementedError

    @torch.no_grad()
    def _rescaled(self, made: nn.Module) -> nn.Module:
        exact = copy.deepcopy(self).double()
        root = (2 * exact.scale()).sqrt()
        weight = exact.weight * root.view(-1, *[1] * (exact.weight.dim() - 1))
        return fitted(made, weight, None if exact.bias is None else exact.bias * root, self.weight.dtype)


class StepsLinear(Steps):
    """The base of dense layers of this form.

    Shape: (..., features) → the same.
    """

    def __init__(self, features: int, inner: int, bias: bool, device: Device, dtype: torch.dtype | None):
        check_positive(features=features, inner=inner)
        self.features, self.inner = features, inner
        super().__init__((inner, features), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = self.scale() * F.relu(F.linear(x, self.weight, self.bias))
        return x - 2 * F.linear(h, self.weight.t())

    def plain(self) -> PotentialLinear:
        return self._rescaled(PotentialLinear(self.features, self.inner, self.bias is not None, device="meta"))

    def extra_repr(self) -> str:
        return f"{self.features}, {self.inner}, bias={self.bias is not None}"


class StepsConv2d(Steps):
    """The base of convolutional layers of this form, at stride 1, padded with zeros so that images keep their size.

    Shape: (N, channels, H, W) → the same.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        kernel_size: int | tuple[int, int],
        bias: bool,
        device: Device,
        dtype: torch.dtype | None,
    ):
        check_positive(channels=channels, inner=inner)
        self.channels, self.inner, self.kernel_size = channels, inner, odd("kernel_size", kernel_size)
        super().__init__((inner, channels, *self.kernel_size), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        padding = same_size(self.kernel_size)
        h = F.relu(F.conv2d(x, self.weight, self.bias, padding=padding))
        return x - 2 * F.conv2d(self.scale().view(-1, 1, 1) * h, turned(self.weight), padding=padding)

    def plain(self) -> PotentialConv2d:
        made = PotentialConv2d(self.channels, self.inner, self.kernel_size, self.bias is not None, device="meta")
        return self._rescaled(made)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.inner}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


def inverse(sizes: Tensor) -> Tensor:
    """Returns 1/sizes, and 0 where a size is 0; the gradient is finite in both cases."""
    some = sizes > 0
    return torch.where(some, 1 / torch.where(some, sizes, 1), 0)
