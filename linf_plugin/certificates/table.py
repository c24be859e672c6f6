"""All certificates of batches, each a row."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..norms import SYMBOLS
from . import lipschitz
from .problem import Problem

Bound = Callable[[Tensor, Tensor], Tensor]


def _known(exact: nn.Module, norm: float) -> None:
    """What is computed of any net."""


def _any(problem: Problem, among: Tensor) -> Tensor:
    return among


@dataclass(frozen=True)
class Certificate:
    """A way to prove that a prediction is the same everywhere in a ball.

    Attributes:
        name: by which it is asked for.
        label: in tables.
        norm: of the balls that it is about.
        cost: rank; the cascade tries a lower one first.
        failure: the probability with which a sample that it certifies may not be robust; 0 for a theorem.
        bound: problem → ((N, *) samples, (N,) labels) → (N,) float64, lower bounds of min_{j≠y} (z_y − z_j) over the
            ball: a positive one certifies.
        batch_size: samples at a time, where the request does not say.
        knows: (float64 copy of the net, norm); raises TypeError or RuntimeError where it can say nothing of such a net.
        hopeful: (problem, (N,) bool) → (N,) bool, those of the samples that it may certify.
    """

    name: str
    label: str
    norm: float
    cost: int
    failure: float
    bound: Callable[[Problem], Bound]
    batch_size: int = 32  # linear bounds keep coefficients of many outputs for each sample
    knows: Callable[[nn.Module, float], None] = _known
    hopeful: Callable[[Problem, Tensor], Tensor] = _any


# name → auto_LiRPA's method
LIRPA_METHODS = {"ibp": "IBP", "crown-ibp": "CROWN-IBP", "crown": "CROWN", "alpha-crown": "CROWN-Optimized"}


def _lirpa(name: str) -> Callable[[Problem], Bound]:
    def bound(problem: Problem) -> Bound:
        from . import linear  # auto_LiRPA takes seconds to import, and need not be installed for the others

        return linear.bound(problem, LIRPA_METHODS[name])

    return bound


CERTIFICATES: dict[str, Certificate] = {
    row.name: row
    for row in (
        Certificate(
            "lipschitz", "Lipschitz", math.inf, 0, 0.0, lipschitz.bound, 256, lipschitz.knows, lipschitz.hopeful
        ),
        Certificate("ibp", "interval", math.inf, 1, 0.0, _lirpa("ibp"), 256),
        Certificate("crown-ibp", "CROWN-IBP", math.inf, 2, 0.0, _lirpa("crown-ibp")),
        Certificate("crown", "CROWN", math.inf, 3, 0.0, _lirpa("crown")),
        Certificate("alpha-crown", "α-CROWN", math.inf, 4, 0.0, _lirpa("alpha-crown")),
    )
}


def in_order(names) -> tuple[str, ...]:
    """These certificates, each once, the cheapest first."""
    return tuple(sorted(set(names), key=lambda name: CERTIFICATES[name].cost))


def of_norm(norm: float) -> tuple[str, ...]:
    """The certificates of balls of this norm, the cheapest first."""
    return in_order(name for name, row in CERTIFICATES.items() if row.norm == norm)


def certificate_of(name: str, argument: str = "method") -> Certificate:
    """The row.  Raises ValueError for an unknown name; the message says ``argument``."""
    if not isinstance(name, str) or name not in CERTIFICATES:
        raise ValueError(f"{argument} must be one of {', '.join(CERTIFICATES)}, got {name!r}")
    return CERTIFICATES[name]


def check_norm_of(name: str, norm: float) -> None:
    """Raises ValueError where the certificate is about balls of another norm."""
    row = CERTIFICATES[name]
    if row.norm != norm:
        raise ValueError(f"{name} certifies {SYMBOLS[row.norm]} balls, and norm is {SYMBOLS[norm]}")
