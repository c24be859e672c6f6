"""The methods: one row each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .geometry import Convolution, axes, fold
from .gram import SchattenNorm, gram_upper, schatten
from .lipbound import lipbound, lipbound_upper
from .matrix import matrix, matrix_upper
from .outward import Matrices, up
from .power import power
from .svd import svd_upper
from .symbol import Grid, blocks, error, grid, matrices, trimmed
from .toeplitz import affordable, norm2toep, norm2toep_upper


class Problem(NamedTuple):
    """A layer, made ready: ‖A‖₂ ≤ √copies·sup σ₁(F) for the symbol F of ``kernel``; see ``geometry.axes``.

    exact: equality holds, if the supremum is that over the grid.
    """

    map_: Convolution
    kernel: Tensor
    grid: Grid
    copies: int
    exact: bool

    @property
    def is_dense(self) -> bool:
        return self.kernel.shape[-2:] == (1, 1)


def prepare(map_: Convolution, trim: bool) -> Problem:
    """Returns the problem.  With ``trim`` borders of zeros are cut off, which costs a look at the values."""
    wanted = axes(map_)
    kernel = fold(map_, wanted)
    kernel = trimmed(kernel) if trim else kernel
    used = grid(wanted, tuple(kernel.shape[-2:]))
    pointwise = map_.reach == (0, 0) and map_.stride == (1, 1) and map_.padding_mode == "zeros"
    exact = pointwise or (all(axis.whole for axis in wanted) and used.factor == 1.0)
    return Problem(map_, kernel, used, wanted[0].copies * wanted[1].copies, exact)


def _none(problem: Problem) -> int:
    return 0


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        label: for tables.
        kind: "upper" or "lower": what it bounds ‖A‖₂ by, in exact arithmetic.
        estimate: (problem, steps) → the bound without allowance for rounding, differentiable, in the dtype of the
            weight.
        upper: (problem, steps) → an upper bound with all rounding, of a problem in float64 that ``outward.read``
            scaled; None if there is none.
        steps: problem → iterations of ``upper`` by default; ``training`` of ``estimate``.
        copies: whether its bound is one of sup σ₁(F), so that √copies is still missing.
        tight: on a grid it exceeds the norm only by rounding.
        source: the publication.
    """

    label: str
    kind: str
    estimate: Callable[[Problem, int], Tensor]
    upper: Callable[[Problem, int], float] | None
    steps: Callable[[Problem], int] = _none
    training: int = 0
    copies: bool = True
    tight: bool = False
    source: str = ""


def _over_grid(upper: Callable[[Matrices, int], Tensor]) -> Callable[[Problem, int], float]:
    """Returns the bound of sup ‖F‖₂ that is made of bounds of F on the grid, of its error and of the grid's factor."""

    def bound(problem: Problem, steps: int) -> float:
        kernel, used = problem.kernel, problem.grid
        largest = max(upper(matrices(kernel, used, chosen), steps).max().item() for chosen in blocks(kernel, used))
        return up(up(largest + error(kernel), 1) * used.factor, 1)

    return bound


def _peak(problem: Problem, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Returns the matrix F(ω) on the grid, of the group and frequency where the score is largest, differentiably.

    Only this matrix has a gradient.  Where several are largest, that is one of the subgradients.
    """
    kernel, used = problem.kernel, problem.grid
    best, at = -1.0, None
    with torch.no_grad():
        for chosen in blocks(kernel, used):
            scores = score(_complex(matrices(kernel, used, chosen)))
            if scores.max() > best:
                best, index = scores.max().item(), int(scores.argmax())
                at = index % len(kernel), chosen[index // len(kernel)][None]
    group, frequency = at
    return _complex(matrices(kernel[group : group + 1], used, frequency))[0]


def _complex(a: Matrices) -> Tensor:
    return a.re if a.im is None else torch.complex(a.re, a.im)


def _gram(problem: Problem, steps: int) -> Tensor:
    return SchattenNorm.apply(_peak(problem, lambda f: schatten(f, steps)), steps) * problem.grid.factor


def _svd(problem: Problem, steps: int) -> Tensor:
    found = _peak(problem, lambda f: torch.linalg.svdvals(f)[..., 0])
    return torch.linalg.svdvals(found)[0] * problem.grid.factor


def _matrix(problem: Problem, steps: int) -> Tensor:
    map_ = problem.map_
    norms = [torch.linalg.matrix_norm(matrix(map_, group), 2) for group in range(map_.groups)]
    return torch.stack(norms).max().to(map_.weight)


SPECTRAL_METHODS = {
    "gram": Method(
        "Gram iteration",
        "upper",
        _gram,
        _over_grid(gram_upper),
        lambda problem: 15 if problem.is_dense else 8,
        training=6,
        source="2305.16173",
    ),
    "svd": Method("SVD, proved", "upper", _svd, _over_grid(svd_upper), tight=True),
    "lipbound": Method(
        "LipBound",
        "upper",
        lambda problem, steps: lipbound(problem.kernel, problem.grid),
        lambda problem, steps: lipbound_upper(problem.kernel, problem.grid),
        source="2006.08391",
    ),
    "norm2toep": Method(
        "norm2toep",
        "upper",
        lambda problem, steps: norm2toep(problem.kernel, steps),
        lambda problem, steps: norm2toep_upper(problem.kernel, steps),
        lambda problem: affordable(problem.kernel),
        training=3,
        source="2402.00240",
    ),
    "power": Method(
        "power iteration",
        "lower",
        lambda problem, steps: power(problem.map_, steps),
        None,
        lambda problem: 100,
        training=1,
        copies=False,
    ),
    "matrix": Method(
        "matrix, SVD", "upper", _matrix, lambda problem, steps: matrix_upper(problem.map_), copies=False, tight=True
    ),
}
ON_DEVICE = {"cpu": "svd", "cuda": "gram"}  # what "auto" takes for a certificate


def with_weight(map_: Convolution, weight: Tensor) -> Convolution:
    """Returns the same layer with another weight."""
    return replace(map_, weight=weight)
