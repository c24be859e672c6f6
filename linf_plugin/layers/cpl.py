"""Convex potential layers (CPL): 1-Lipschitz in ℓ2 by a step of 1/‖W‖₂²."""

import math

import torch
from torch import Tensor, nn

from ..arguments import check_count
from ..spectral.bounding import norm
from ..spectral.geometry import Convolution
from ..state import Constants
from .base import Device
from .steps import Steps, StepsConv2d, StepsLinear, inverse

UPPER_NORMS = ("gram", "norm2toep", "svd")  # methods of ``spectral.norm`` that are upper bounds in exact arithmetic


class _Divided(Constants, Steps):
    """What the dense and the convolutional layer share: d and the initialisation."""

    compared = ("method", "iterations")

    def _start(self, method: str, iterations: int | None) -> None:
        if method not in UPPER_NORMS:
            raise ValueError(
                f"method must be one of {', '.join(UPPER_NORMS)}, which bound the norm from above, got {method!r}"
            )
        if iterations is not None:
            check_count("iterations", iterations, 0)
        self.method, self.iterations = method, iterations
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights by ``kaiming_uniform_`` with a = √5, as the authors do."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.reset_bias()

    def scale(self) -> Tensor:
        """Returns 1/u² for each row, with an upper bound u of ‖W‖₂; 0 if W = 0.

        A lower bound of the norm, such as power iteration gives, would make the step too long: then the layer may
        stretch.
        """
        map_ = self.weight if self.weight.dim() == 2 else Convolution(self.weight)
        return inverse(norm(map_, self.method, iterations=self.iterations).square()).expand(len(self.weight))


class CPLLinear(StepsLinear, _Divided):
    """The dense CPL layer x − (2/‖W‖₂²)·Wᵀ·relu(W·x + b) for training.

    Meunier et al. (arXiv 2110.12690).  They divide by a lower bound of the norm; here it is an upper bound.

    Args:
        features: size of the last dimension of input and output.
        inner: the number of rows of W.
        bias: whether b is learned.
        method, iterations: of ``spectral.norm``: how ‖W‖₂ is bounded from above.

    Shape: (..., features) → the same.
    In exact arithmetic the ℓ2 Lipschitz bound is 1.
    """

    def __init__(
        self,
        features: int,
        inner: int,
        bias: bool = True,
        method: str = "gram",
        iterations: int | None = None,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(features, inner, bias, device, dtype)
        self._start(method, iterations)


class CPLConv2d(StepsConv2d, _Divided):
    """The convolutional CPL layer for training, at stride 1.

    The arguments are those of ``CPLLinear``, with channels for features, and the size of the kernels, which is odd.

    Shape: (N, channels, H, W) → the same.
    In exact arithmetic the ℓ2 Lipschitz bound is 1, on images of every size.
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        kernel_size: int | tuple[int, int] = 3,
        bias: bool = True,
        method: str = "gram",
        iterations: int | None = None,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(channels, inner, kernel_size, bias, device, dtype)
        self._start(method, iterations)
