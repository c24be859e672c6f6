"""Almost-orthogonal layers (AOL): linear maps whose columns are scaled so that they are 1-Lipschitz in ℓ2."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..state import Constants
from .base import Device, add_weight, check_positive, pair
from .reparametrised import Reparametrised, fitted
from .sll import absolute_gram


class _Scaled(nn.Module, Reparametrised):
    """What the dense and the convolutional layer share."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def _start(self, weight_shape: tuple[int, ...], bias: bool, device: Device, dtype: torch.dtype | None) -> None:
        add_weight(self, weight_shape, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws an orthogonal matrix (for kernels, at their middle), and sets the bias to 0."""
        with torch.no_grad():
            middle = (..., *(k // 2 for k in self.weight.shape[2:])) if self.weight.dim() > 2 else ...
            start = nn.init.orthogonal_(self.weight.new_empty(self.weight.shape[:2]))
            self.weight.zero_()[middle] = start
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def scaled(self) -> Tensor:
        """Returns W·diag(t)^−½ with t_j = Σ_k |WᵀW|_jk; a column of zeros stays.

        It has at most the norm 1: D = diag(t)^½ gives (D⁻¹·|WᵀW|·D⁻¹)·D·1 = D·1, so a similar matrix has the absolute
        row sums 1.
        """
        sums = absolute_gram(self.weight.transpose(0, 1)).sum(1)
        some = sums > 0  # elsewhere the root has no gradient
        scale = torch.where(some, torch.where(some, sums, 1).rsqrt(), 0)
        return self.weight * scale.view(1, -1, *[1] * (self.weight.dim() - 2))

    @torch.no_grad()
    def _fitted(self, made: nn.Module) -> nn.Module:
        exact = copy.deepcopy(self).double()
        return fitted(made, exact.scaled(), exact.bias, self.weight.dtype)


class AOLLinear(_Scaled):
    """The dense AOL layer for training.  Prach and Lampert (arXiv 2208.03160).

    Args: as ``torch.nn.Linear``.

    Shape: (..., in_features) → (..., out_features).
    In exact arithmetic the ℓ2 Lipschitz bound is 1.
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
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._start((out_features, in_features), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled(), self.bias)

    def plain(self) -> nn.Linear:
        return self._fitted(nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta"))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class AOLConv2d(Constants, _Scaled):
    """The convolutional AOL layer for training, padded with zeros.  Prach and Lampert (arXiv 2208.03160).

    Args: as ``torch.nn.Conv2d``.

    Shape: (N, in_channels, H, W) → (N, out_channels, H', W'), with the same sizes as ``torch.nn.Conv2d``.
    In exact arithmetic the ℓ2 Lipschitz bound is 1, on images of every size.
    """

    compared = ("stride", "padding")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_positive(in_channels=in_channels, out_channels=out_channels)
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = pair("kernel_size", kernel_size, 1)
        self.stride, self.padding = pair("stride", stride, 1), pair("padding", padding, 0)
        self._start((out_channels, in_channels, *self.kernel_size), bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scaled(), self.bias, self.stride, self.padding)

    def plain(self) -> nn.Conv2d:
        sizes = (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding)
        return self._fitted(nn.Conv2d(*sizes, bias=self.bias is not None, device="meta"))

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, bias={self.bias is not None}"
        )
