"""SDP-based Lipschitz layers (SLL): 1-Lipschitz in ℓ2 by a diagonal matrix that is not less than WWᵀ."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Device
from .steps import Steps, StepsConv2d, StepsLinear, inverse


def absolute_gram(weight: Tensor) -> Tensor:
    """Returns (out, out): |WWᵀ|; for a convolution the sums of |WWᵀ| over all shifts of two kernels.

    An image that is padded with zeros is a part of the infinite image, where WWᵀ depends on the shift only.
    """
    if weight.dim() == 2:
        return (weight @ weight.t()).abs()
    kh, kw = weight.shape[2:]
    return F.conv2d(weight, weight, padding=(kh - 1, kw - 1)).abs().sum((2, 3))


class _Balanced(Steps):
    """What the dense and the convolutional layer share: d and the initialisation."""

    def _start(self) -> None:
        self.q = nn.Parameter(self.weight.new_empty(len(self.weight)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws weights by ``xavier_normal_`` and q from N(0, 1), as the authors do."""
        nn.init.xavier_normal_(self.weight)
        nn.init.normal_(self.q)
        self.reset_bias()

    def scale(self) -> Tensor:
        """Returns 1/T with T_i = Σ_j |WWᵀ|_ij·exp(q_j − q_i), and 0 where T_i = 0.

        T ⪰ WWᵀ, because diag(e^−q)·(T − WWᵀ)·diag(e^q) has a dominant diagonal, and is similar to T − WWᵀ.
        """
        with torch.no_grad():
            highest = self.q.max()
        v = (self.q - highest).exp()  # at most 1; only quotients of these numbers matter
        return v * inverse(absolute_gram(self.weight) @ v)


class SLLLinear(StepsLinear, _Balanced):
    """The dense SLL layer x − 2·Wᵀ·T⁻¹·relu(W·x + b) for training.

    Araujo et al. (arXiv 2303.03169).

    Args:
        features: size of the last dimension of input and output.
        inner: the number of rows of W.
        bias: whether b is learned.

    Shape: (..., features) → the same.
    In exact arithmetic the ℓ2 Lipschitz bound is 1.
    """

    def __init__(
        self, features: int, inner: int, bias: bool = True, *, device: Device = None, dtype: torch.dtype | None = None
    ):
        super().__init__(features, inner, bias, device, dtype)
        self._start()


class SLLConv2d(StepsConv2d, _Balanced):
    """The convolutional SLL layer for training, at stride 1.

    The arguments are those of ``SLLLinear``, with channels for features, and the size of the kernels, which is odd.

    Shape: (N, channels, H, W) → the same.
    In exact arithmetic the ℓ2 Lipschitz bound is 1, on images of every size.
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
        super().__init__(channels, inner, kernel_size, bias, device, dtype)
        self._start()
