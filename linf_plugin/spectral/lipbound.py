"""LipBound (Araujo et al., 2021, arXiv 2006.08391): the norm of a vector of sup norms of rows."""

import torch
from torch import Tensor

from .outward import up
from .symbol import Grid, blocks, error, matrices


def lipbound_upper(kernel: Tensor, grid: Grid, steps: int = 0) -> float:
    """Returns an upper bound of sup ‖F(ω)‖₂ on the grid, times ``grid.factor``, with all rounding.

    ‖F(ω)‖₂² ≤ ‖F(ω)‖_F² = Σ_i ‖f_i(ω)‖² ≤ Σ_i sup_ω ‖f_i(ω)‖² for the rows f_i of F.  Each supremum is at most
    ``factor`` times that on the grid, by the proof of ``circle_factor`` for the matrix f_i.  The same holds for
    columns, and the smaller bound counts.  Computed rows are off by vectors whose norms together are at most ``error``.
    """
    groups, out, inputs = kernel.shape[:3]
    rows, columns = kernel.new_zeros(groups, out), kernel.new_zeros(groups, inputs)
    for chosen in blocks(kernel, grid):
        squares = sum(part.square() for part in matrices(kernel, grid, chosen) if part is not None)
        squares = squares.view(-1, groups, out, inputs)
        rows = torch.maximum(rows, squares.sum(3).amax(0))
        columns = torch.maximum(columns, squares.sum(2).amax(0))
    terms = 2 * max(out, inputs) + 2
    norms = torch.minimum(*(up(up(sums, terms).sum(1), len(sums[0])).sqrt() for sums in (rows, columns)))
    return up(up(up(norms.max().item(), 4) + error(kernel), 1) * grid.factor, 1)


def lipbound(kernel: Tensor, grid: Grid, steps: int = 0) -> Tensor:
    """The same bound, differentiable and in the dtype of the kernel, without allowance for rounding."""
    groups, out, inputs = kernel.shape[:3]
    f = matrices(kernel, grid, grid.indices)
    squares = sum(part.square() for part in f if part is not None).view(-1, groups, out, inputs)
    sums = [squares.sum(dim).amax(0).sum(1) for dim in (3, 2)]
    largest = torch.minimum(*sums).max()
    return torch.where(largest > 0, torch.where(largest > 0, largest, 1).sqrt(), 0) * grid.factor
