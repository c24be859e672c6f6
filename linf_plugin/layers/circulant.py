"""Diagonal-circulant layers: linear maps of 3·n parameters that are applied in O(n·log n)."""

import copy
import math

import torch
from torch import Tensor, nn

from ..arguments import check_finite, check_tensors
from ..norms import check_norm
from ..spectral.structured import circulant, circulant_product
from ..state import Constants
from .base import Device, check_positive
from .reparametrised import Reparametrised, fitted


class DiagonalCirculant(Constants, Reparametrised):
    """The layer D·C·x + b for training, with D = diag(d) and the circulant matrix C_ij = c_{(i−j) mod n}.

    Araujo et al. (arXiv 1901.10255).  C is applied by real FFTs.  The layer becomes a linear layer after training,
    because no constant of the rounding of an FFT is proved.

    C has the singular values |FFT(c)|, and ‖c‖₁ is the absolute sum of each of its rows and columns.  So ‖D·C‖ is at
    most max |d|·max |FFT(c)| in ℓ2, exactly max |d|·‖c‖₁ in ℓ∞, and at most this number in ℓ1.

    Args:
        features: n, the size of the last dimension of the input.
        out_features: how many rows of C are used, the first ones; by default all.
        bias: whether b is learned.
        normalized: whether D·C is divided by max |d|·max |FFT(c)|, so that the layer is 1-Lipschitz in ℓ2.

    Shape: (..., features) → (..., out_features).
    In exact arithmetic the Lipschitz bound is that of ``stretch``, or 1 in ℓ2 if the layer is normalised.
    """

    compared = ("normalized",)
    bias: nn.Parameter | None

    def __init__(
        self,
        features: int,
        out_features: int | None = None,
        bias: bool = True,
        normalized: bool = False,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        out_features = features if out_features is None else out_features
        check_positive(features=features, out_features=out_features)
        if out_features > features:
            raise ValueError(f"out_features must be at most features={features}, got {out_features}")
        super().__init__()
        self.features, self.out_features, self.normalized = features, out_features, normalized
        self.column = nn.Parameter(torch.empty(features, device=device, dtype=dtype))
        self.diagonal = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws c from N(0, 2/n), d from {−1, 1}, and b from ±1/√n, uniformly.

        In a normalised layer the absolute values of FFT(c) are set to 1, so that D·C starts as an orthogonal matrix.
        """
        nn.init.normal_(self.column, std=math.sqrt(2 / self.features))
        if self.normalized:
            spectrum = torch.fft.rfft(self.column)
            self.column.copy_(torch.fft.irfft(spectrum / spectrum.abs(), n=self.features))
        self.diagonal.bernoulli_().mul_(2).sub_(1)
        if self.bias is not None:
            bound = 1 / math.sqrt(self.features)
            nn.init.uniform_(self.bias, -bound, bound)

    def stretch(self, norm: float | str = 2) -> Tensor:
        """Returns (): max |d|·‖C‖ in this norm, with gradient, in the dtype of c: a bound of ‖D·C‖ for a penalty.

        It is no certificate, because its own rounding is not covered.  The norm is as for ``lipschitz_bound``.
        """
        by_l2 = check_norm(norm) == 2
        size = torch.fft.rfft(self.column).abs().max() if by_l2 else self.column.abs().sum()
        return self.diagonal.abs().max() * size

    def scaled(self) -> Tensor:
        """Returns the diagonal that is used, (out,)."""
        if not self.normalized:
            return self.diagonal
        size = self.stretch()
        return self.diagonal / torch.where(size > 0, size, 1)  # zeros stay zeros

    def forward(self, x: Tensor) -> Tensor:
        check_tensors(x=x, column=self.column)
        if x.dim() == 0 or x.shape[-1] != self.features:
            raise ValueError(f"x must have shape (..., {self.features}), got {tuple(x.shape)}")
        x = x.to(self.column.dtype)  # under autocast it may have 16 bits, for which there are few FFTs
        y = self.scaled() * circulant_product(self.column, x)[..., : self.out_features]
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        check_finite(column=self.column, diagonal=self.diagonal)
        exact, dtype = copy.deepcopy(self).double(), self.column.dtype
        weight = exact.scaled().unsqueeze(1) * circulant(exact.column, self.out_features)
        made = nn.Linear(self.features, self.out_features, self.bias is not None, device="meta")
        if self.normalized:
            return fitted(made, weight, exact.bias, dtype)
        made.weight = nn.Parameter(weight.to(dtype))
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone())
        return made.eval()

    def extra_repr(self) -> str:
        return f"{self.features}, {self.out_features}, bias={self.bias is not None}, normalized={self.normalized}"
