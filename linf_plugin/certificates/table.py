"""The table of all certificates for batches, one row for each."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..norms import SYMBOLS
from . import lipschitz
from .problem import Problem

Bound = Callable[[Tensor, Tensor], Tensor]


def _known(problem: Problem) -> None:
    """Accepts every net."""


def _any(problem: Problem, among: Tensor) -> Tensor:
    return among


@dataclass(frozen=True)
class Certificate:
    """A way to prove that a prediction is the same everywhere in a ball.

    Attributes:
        name: the name by which it is asked for.
        label: its name in tables.
        norm: of the balls that it is about.
        cost: its rank; the cascade tries lower ranks first.
        failure: the probability that a sample that it certifies is not robust; 0 for a theorem.
        bound: problem → ((N, *) samples, (N,) labels) → (N,) float64, lower bounds of min_{j≠y} (z_y − z_j) over the
            ball.  A positive bound certifies.
        batch_size: how many samples are bounded at a time, unless the request says it.
        knows: problem → None; raises TypeError or RuntimeError if it cannot bound such a net.  What it computes is kept
            by the problem.
        hopeful: (problem, (N,) bool) → (N,) bool, those of the given samples that it may certify.
        contains: names of other certificates whose bounds it is never looser than, whatever the net and the ball.  In
            a comparison it also counts what they prove, and is not tried on that.
        radius: problem → ((N, *) samples, (N,) labels) → (N,) radii that it certifies, 0 where it certifies none, if it
            computes radii and not only bounds for a given radius.
    """

    name: str
    label: str
    norm: float
    cost: int
    failure: float
    bound: Callable[[Problem], Bound]
    batch_size: int = 32  # linear bounds keep coefficients of many outputs for each sample
    knows: Callable[[Problem], None] = _known
    hopeful: Callable[[Problem, Tensor], Tensor] = _any
    contains: tuple[str, ...] = ()
    radius: Callable[[Problem], Bound] | None = None


# name → auto_LiRPA's name of the method
LIRPA_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "CROWN-Optimized"}


def _lirpa(name: str) -> Callable[[Problem], Bound]:
    def bound(problem: Problem) -> Bound:
        from . import linear  # auto_LiRPA takes seconds to import, and the other certificates do not need it

        return linear.bound(problem, LIRPA_METHODS[name])

    return bound


CHEAP = 2  # certificates up to this cost take about as long as forward passes

# Why one contains another: ``bounds.compute.compute_bounds`` returns the better one of a linear bound and the interval
# bound.  α-CROWN, as these rows ask for it, takes its intermediate bounds from a pass of CROWN, and returns no looser
# bound than that pass.  CROWN's own intermediate bounds are tighter than those of CROWN-IBP, but the lines that it
# chooses on them may suit the output less, so neither of these contains the other.
CERTIFICATES: dict[str, Certificate] = {
    row.name: row
    for row in (
        Certificate(
            "lipschitz",
            "Lipschitz",
            math.inf,
            0,
            0.0,
            lipschitz.bound,
            256,
            lipschitz.knows,
            lipschitz.hopeful,
            radius=lipschitz.radius,
        ),
        Certificate(
            "lipschitz-l2",
            "Lipschitz, ℓ2",
            2.0,
            1,
            0.0,
            lipschitz.bound,
            256,
            lipschitz.knows,
            lipschitz.hopeful,
            radius=lipschitz.radius,
        ),
        Certificate("ibp", "interval", math.inf, 2, 0.0, _lirpa("ibp"), 256),
        Certificate("crown-ibp", "CROWN-IBP", math.inf, 3, 0.0, _lirpa("crown-ibp"), contains=("ibp",)),
        Certificate("crown", "CROWN", math.inf, 4, 0.0, _lirpa("crown"), contains=("ibp",)),
        Certificate("alpha-crown", "α-CROWN", math.inf, 5, 0.0, _lirpa("alpha-crown"), contains=("crown",)),
    )
}


def contained(name: str) -> set[str]:
    """Returns the names of the certificates that a certificate contains, also through others."""
    found: set[str] = set()
    for other in CERTIFICATES[name].contains:
        found |= {other, *contained(other)}
    return found


def in_order(names) -> tuple[str, ...]:
    """Returns these names of certificates, each once, the cheapest first."""
    return tuple(sorted(set(names), key=lambda name: CERTIFICATES[name].cost))


def theorems(norm: float) -> tuple[str, ...]:
    """Returns the names of the certificates for balls of this norm that cannot fail, the cheapest first."""
    return in_order(name for name, row in CERTIFICATES.items() if row.norm == norm and row.failure == 0)


def certificate_of(name: str, argument: str = "method") -> Certificate:
    """Returns the row of a name.  Raises ValueError for an unknown name; the message names ``argument``."""
    if not isinstance(name, str) or name not in CERTIFICATES:
        raise ValueError(f"{argument} must be one of {', '.join(CERTIFICATES)}, got {name!r}")
    return CERTIFICATES[name]


def check_norm_of(name: str, norm: float) -> None:
    """Raises ValueError if the certificate is about balls of another norm."""
    row = CERTIFICATES[name]
    if row.norm != norm:
        raise ValueError(f"{name} certifies {SYMBOLS[row.norm]} balls, and norm is {SYMBOLS[norm]}")
