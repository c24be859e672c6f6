"""Residual layers that descend a convex potential: x − Wᵀ·relu(W·x + b), dense and convolutional."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Device, add_weight, check_positive, pair


class Potential(nn.Module):
    """The base of dense and convolutional layers of this form: it has the weight and the bias.

    The layer is a step down the gradient of the convex function ½·‖relu(W·x + b)‖².  For two inputs,
    f(x′) − f(x) = (I − WᵀJW)·(x′ − x) with a diagonal J whose entries lie in [0, 1].  This matrix is symmetric, and its
    eigenvalues lie in [1 − ‖W‖₂², 1].  So the ℓ2 Lipschitz bound is max(1, ‖W‖₂² − 1), which is 1 if ‖W‖₂² ≤ 2.
    Meunier et al. (arXiv 2110.12690); Araujo et al. (arXiv 2303.03169).
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, weight_shape: tuple[int, ...], bias: bool, device: Device, dtype: torch.dtype | None):
        super().__init__()
        add_weight(self, weight_shape, bias, device, dtype)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws a normal weight, makes its norm at most 1, and sets the bias to 0.

        ‖W‖₂² is at most the largest absolute row sum times the largest absolute column sum.
        """
        nn.init.normal_(self.weight)
        sizes = self.weight.abs().flatten(2).sum(2) if self.weight.dim() > 2 else self.weight.abs()
        self.weight /= (sizes.sum(0).max() * sizes.sum(1).max()).sqrt()
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def into(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Returns W·x + b, for this layer's geometry."""
        raise NotImplementedError

    def back(self, h: Tensor, weight: Tensor) -> Tensor:
        """Returns Wᵀ·h, for this layer's geometry."""
        raise NotImplementedError

    def branch(self) -> tuple[nn.Module, nn.Module]:
        """Returns W·x + b and Wᵀ·h as layers of PyTorch.  They have no gradient."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x - self.back(F.relu(self.into(x, self.weight, self.bias)), self.weight)


def holding(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Returns the layer, made on the device "meta", with these tensors as its parameters."""
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


class PotentialLinear(Potential):
    """The dense layer x − Wᵀ·relu(W·x + b).

    Args:
        features: size of the last dimension of input and output.
        inner: the number of rows of W.
        bias: whether b is learned.

    Shape: (..., features) → the same.
    The ℓ2 Lipschitz bound is max(1, ‖W‖₂² − 1).
    """

    def __init__(
        self, features: int, inner: int, bias: bool = True, *, device: Device = None, dtype: torch.dtype | None = None
    ):
        check_positive(features=features, inner=inner)
        self.features, self.inner = features, inner
        super().__init__((inner, features), bias, device, dtype)

    def into(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def back(self, h: Tensor, weight: Tensor) -> Tensor:
        return F.linear(h, weight.t())

    def branch(self) -> tuple[nn.Module, nn.Module]:
        inner, features = self.weight.shape
        first = nn.Linear(features, inner, self.bias is not None, device="meta")
        second = nn.Linear(inner, features, False, device="meta")
        return holding(first, self.weight, self.bias), holding(second, self.weight.t().contiguous(), None)

    def extra_repr(self) -> str:
        return f"{self.features}, {self.inner}, bias={self.bias is not None}"


class PotentialConv2d(Potential):
    """The convolutional layer x − Wᵀ·relu(W·x + b) at stride 1, padded with zeros so that images keep their size.

    Wᵀ is a convolution with the kernels turned by 180°.  With odd kernels and a padding of half of them this is exactly
    the adjoint map.

    Args:
        channels: of input and output.
        inner: the channels of W·x.
        kernel_size: odd numbers.
        bias: whether b is learned.

    Shape: (N, channels, H, W) → the same.
    The ℓ2 Lipschitz bound is max(1, ‖W‖₂² − 1) with the norm of the convolution on images of any size.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_positive(channels=channels, inner=inner)
        self.channels, self.inner, self.kernel_size = channels, inner, odd("kernel_size", kernel_size)
        super().__init__((inner, channels, *self.kernel_size), bias, device, dtype)

    @property
    def padding(self) -> tuple[int, int]:
        return same_size(self.kernel_size)

    def into(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=self.padding)

    def back(self, h: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(h, turned(weight), padding=self.padding)

    def branch(self) -> tuple[nn.Module, nn.Module]:
        geometry = {"kernel_size": self.kernel_size, "padding": self.padding, "device": "meta"}
        first = nn.Conv2d(self.channels, self.inner, bias=self.bias is not None, **geometry)
        second = nn.Conv2d(self.inner, self.channels, bias=False, **geometry)
        return holding(first, self.weight, self.bias), holding(second, turned(self.weight).contiguous(), None)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.inner}, kernel_size={self.kernel_size}, bias={self.bias is not None}"


def odd(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
    """Returns the size of a kernel as a pair.  Raises TypeError or ValueError if it is not one of odd numbers."""
    sizes = pair(name, value, 1)
    if not all(k % 2 for k in sizes):
        raise ValueError(f"{name} must be odd, so that images keep their size, got {value!r}")
    return sizes


def same_size(kernel_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the padding with which a convolution at stride 1 keeps the size of images."""
    return kernel_size[0] // 2, kernel_size[1] // 2


def turned(weight: Tensor) -> Tensor:
    """Returns the kernels (in, out, kh, kw) of the adjoint of a convolution with the kernels (out, in, kh, kw)."""
    return weight.transpose(0, 1).flip(2).flip(3)  # auto_LiRPA reads one dimension at a time
