"""SortNet's neuron: a weighted sum of sorted distances."""

import math

import torch
from torch import Tensor

from .. import ops
from ..arguments import check_k, check_rho, check_rows
from .base import Device, DistanceLinear, check_positive


class SortDistLinear(DistanceLinear):
    """SortNet's neuron: at evaluation y_k = Σ_j c_j·|x − w_k|_(j) + b_k, |t| in descending order; in training the
    ℓp distance on a random subset of the inputs, whose mean at p = ∞ that is, but for coordinates beyond the k-th.

    c as in ``linf_plugin.sorted_dist``.  Zhang et al. (arXiv 2210.01787), section 4.  Inputs that must not be
    dropped, such as pixels, want a ``LinfDistLinear``.

    Args:
        in_features, out_features, bias, p, identity_init: as ``LinfDistLinear``; p is that of training.
        rho: probability ρ in (0, 1] that an input is kept; 1 is the ℓ∞-dist neuron.
        k: how many coordinates count at evaluation.
        group: samples that share a subset, which all outputs have in common.

    A subset keeps at least one input.  On every device subsets come from torch's generator for the CPU.  Training
    at finite p holds the kept columns of the weight once a group until the backward pass.

    Shape: (..., in_features) → (..., out_features).
    ``lipschitz`` with respect to ℓ∞: 1 at evaluation, whatever p is: c descends, so y_k is the largest
    Σ_j c_j·|t_π(j)| over permutations π, and Σ c ≤ 1.  In training, for any one subset, 1 at p = ∞, else
    in_features^{1/p}.
    """

    compared = ("rho", "k")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = math.inf,
        *,
        rho: float,
        k: int = 10,
        group: int = 32,
        identity_init: bool = False,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ):
        check_positive(group=group)
        self.rho, self.k, self.group = check_rho(rho), check_k(k), group
        super().__init__(in_features, out_features, bias, p, identity_init, device, dtype)

    @property
    def lipschitz(self) -> float:
        return super().lipschitz if self.training else 1.0

    def _distances(self, x: Tensor) -> Tensor:
        if self.rho == 1:
            return ops.dist(x, self.weight, self.p if self.training else math.inf)
        if not self.training:
            return ops.sorted_dist(x, self.weight, self.rho, self.k)
        check_rows(x, self.weight)
        groups = x.split(self.group)
        keep = random_subsets(len(groups), self.in_features, self.rho)
        return torch.cat(
            [
                ops.dist(rows.index_select(1, kept), self.weight.index_select(1, kept), self.p)
                for rows, kept in zip(groups, (a.nonzero().squeeze(1).to(x.device) for a in keep))
            ]
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rho={self.rho}, k={self.k}, group={self.group}"


def random_subsets(count: int, features: int, rho: float) -> Tensor:
    """``count`` subsets of the features, each keeping a feature with probability ρ, given that it keeps one.

    Exact without drawing again: the first kept feature is i with a probability proportional to (1 − ρ)^i, and
    those after it are independent.  Returns (count, features) bool on the CPU.
    """
    position = torch.arange(features, device="cpu")
    first = torch.multinomial((1 - rho) ** position.double(), count, replacement=True).unsqueeze(1)
    kept = torch.rand(count, features, device="cpu") < rho
    return (position == first) | (position > first) & kept
