"""Facts about certificates and norms, by name.  No other file of the harness knows where they come from."""

import math
from fractions import Fraction

from linf_plugin import norms
from linf_plugin.certificates import table
from linf_plugin.certificates.cascade import applicable
from linf_plugin.certificates.problem import Problem

BEST = "best"  # the best of all computed theorems, for each image
SLOW = ("alpha-crown",)  # they run only if they are asked for by name


def names() -> tuple[str, ...]:
    """Returns the names of all certificates, in order of cost."""
    return table.in_order(table.CERTIFICATES)


def in_order(some) -> list[str]:
    """Sorts names of certificates by cost.  Unknown names follow in the given order, then ``BEST``."""
    known = (*names(), *(name for name in some if name not in names() and name != BEST), BEST)
    return [name for name in dict.fromkeys(known) if name in some]


def label_of(certificate: str) -> str:
    """Returns the label of a certificate in tables.  An unknown name is its own label."""
    if certificate == BEST:
        return "best of all"
    return table.CERTIFICATES[certificate].label if certificate in table.CERTIFICATES else certificate


def norm_of(certificate: str) -> float:
    """Returns the exponent of the norm in which a certificate bounds perturbations."""
    return table.CERTIFICATES[certificate].norm


def of_norm(some, norm: float) -> list[str]:
    """Returns those of some certificates that are about balls of this norm."""
    return [name for name in some if norm_of(name) == norm]


def failure_of(certificate: str) -> float:
    """Returns the probability that a certificate is wrong about an image: 0 for a theorem."""
    return table.CERTIFICATES[certificate].failure


def usual(problem: Problem) -> tuple[str, ...]:
    """Returns the theorems about balls of this norm that can bound a net, without the slow ones, in order of cost.

    Raises:
        ValueError: there is none.
    """
    found = tuple(name for name in applicable(problem) if name not in SLOW)
    if not found:
        raise ValueError(f"no certificate for {norms.SYMBOLS[problem.ball.norm]} balls can bound this net")
    return found


def check_norms(some, norm: float) -> None:
    """Raises ValueError if a certificate is about balls of another norm."""
    for name in some:
        table.check_norm_of(name, norm)


def norm_named(name: str) -> float:
    """Returns the exponent of a norm.  Raises ValueError if no norm has this name."""
    if name not in norms.NORMS:
        raise ValueError(f"norm must be one of {', '.join(norms.NORMS)}, got {name!r}")
    return norms.NORMS[name]


def largest_eps(norm) -> float:
    """Returns the largest ε for the name of a norm, for images in [0, 1]; of what is no name, that of ℓ∞."""
    exponent = norms.NORMS.get(norm, math.inf) if isinstance(norm, str) else math.inf
    return norms.largest_radius(exponent, 0.0, 1.0)


def in_norm(eps: float, norm: float, other: float, size: int | None) -> float | None:
    """Returns the radius of the largest ball of another norm inside a ball: eps / size^max(0, 1/norm − 1/other).

    ‖t‖_other ≤ ‖t‖_norm for other ≥ norm, but the ball of ``other`` sticks out: ‖t‖_norm ≤ size^(1/norm − 1/other) ·
    ‖t‖_other.  So an ℓ2 radius r gives the ℓ∞ radius r/√size, and an ℓ∞ radius ε gives the ℓ2 radius ε.  It is rounded
    down.

    Args:
        eps: radius of the ball.
        norm, other: exponents.
        size: how many numbers a sample has; None, if it is not known, gives None where it is needed.
    """
    power = max(0.0, 1 / norm - 1 / other)
    if power == 0:
        return eps
    if size is None:
        return None
    found, root = eps / size**power, round(1 / power)  # the power is 1/2 or 1, so that its test is exact
    while Fraction(found) ** root * size > Fraction(eps) ** root:
        found = math.nextafter(found, 0.0)
    return found


def name_of_norm(norm: float) -> str:
    """Returns the name of the norm with this exponent, as recipes and results write it."""
    return norms.name_of(norm)


def symbol_of_norm(norm: float) -> str:
    """Returns the symbol of a norm for readers, such as ℓ∞."""
    return norms.SYMBOLS[norm]
