"""SortNet's neuron: a weighted sum of sorted distances."""

import math

import torch
from torch import Tensor

from .. import ops
from ..arguments import check_k, check_rho, check_rows
from .base import Device, DistanceLinear, check_positive


class SortDistLinear(DistanceLinear):
    """SortNet's neuron.  In evaluation mode y_k = Σ_j c_j·|x − w_k|_(j) + b_k, with |t|_(j) in descending order.

    In training mode it is the ℓp distance on a random subset of the inputs.  At p = ∞ the mean of that is the sum
    above, except that the sum leaves out coordinates beyond the k-th.  ``linf_plugin.sorted_dist`` defines c.  Use a
    ``LinfDistLinear`` for inputs that must not be dropped, such as pixels.  Zhang et al. (arXiv 2210.01787), section 4.

    Args:
        in_features, out_features, bias, p, identity_init: as ``LinfDistLinear``; p is used only in training.
        rho: probability ρ in (0, 1] that an input is kept; 1 gives the ℓ∞-dist neuron.
        k: the number of coordinates that count in evaluation.
        group: the number of samples that share a subset; all outputs use the same subset.

    A subset keeps at least one input.  On every device the subsets come from torch's generator for the CPU.  Training
    at finite p keeps the selected columns of the weight in memory until the backward pass, once for each group.

    Shape: (..., in_features) → (..., out_features).
    In evaluation the Lipschitz bound in ℓ∞ is 1 for every p: c descends, so y_k is the largest Σ_j c_j·|t_π(j)| over
    permutations π, and Σ c ≤ 1.  In training, for each fixed subset, it is 1 at p = ∞, else in_features^{1/p}.
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

    def _distances(self, x: Tensor) -> Tensor:
        if self.rho == 1:
            return ops.dist_along(x, self.weight, self.p if self.training else math.inf)
        if not self.training:
            return ops.sorted_dist_along(x, self.weight, self.rho, self.k)
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
    """Draws ``count`` subsets that keep each feature with probability ρ, on the condition that they are not empty.

    The draw is exact and never repeated: the first kept feature is i with a probability proportional to (1 − ρ)^i, and
    the features after it are independent.

    Returns:
        (count, features) bool on the CPU.
    """
    position = torch.arange(features, device="cpu")
    first = torch.multinomial((1 - rho) ** position.double(), count, replacement=True).unsqueeze(1)
    kept = torch.rand(count, features, device="cpu") < rho
    return (position == first) | (position > first) & kept
