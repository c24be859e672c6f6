"""Norms of perturbations, and the balls in which they lie.

The code represents a norm by its exponent: ``math.inf``, 2 or 1.  Recipes and result files write its name, which is a
key of ``NORMS``.
"""

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor

from .arguments import check_not_negative, check_range
from .plain import fraction

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}
SYMBOLS = {math.inf: "ℓ∞", 2.0: "ℓ2", 1.0: "ℓ1"}
DOUBLE_UNITS = 32 * 2.0**-53  # relative error that float64 rounding can cause in one term of a linear bound


def check_norm(norm: float | str) -> float:
    """Returns the exponent of a norm that is given by its exponent or by its name.

    Raises:
        TypeError: it is neither a number nor a string.
        ValueError: it is not in ``NORMS``.
    """
    if isinstance(norm, bool) or not isinstance(norm, (Real, str)):
        raise TypeError(f"norm must be a number or one of {', '.join(NORMS)}, got {norm!r}")
    exponent = NORMS.get(norm) if isinstance(norm, str) else float(norm)
    if exponent not in SYMBOLS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)} (math.inf, 2, 1), got {norm!r}")
    return exponent


def as_radius(value: float | Real | str, name: str = "eps") -> float:
    """Returns a radius as a float.  It may be given as a number or as text, such as "0.1" or "8/255".

    Raises:
        TypeError: it is neither.
        ValueError: the text is no number or fraction; or the number is negative, infinite or NaN.
    """
    if isinstance(value, str):
        try:
            value = fraction(value)
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None
    check_not_negative(name, value)
    return float(value)


def name_of(norm: float) -> str:
    """Returns the name of a norm: its key in ``NORMS``."""
    return next(name for name, exponent in NORMS.items() if exponent == norm)


def apart(norm: float) -> float:
    """Returns the largest t_i − t_j over all t with ‖t‖ ≤ 1 and i ≠ j, rounded up.

    It is 2^(1 − 1/norm): 2 in ℓ∞, √2 in ℓ2, 1 in ℓ1.  If the logits change by at most ρ in this norm, the difference of
    two logits changes by at most apart(norm)·ρ.
    """
    exact = 2 ** (1 - 1 / check_norm(norm))
    return exact if exact in (1.0, 2.0) else math.nextafter(exact, math.inf)


def box(x: Tensor, radius: Tensor | float, low: float = -math.inf, high: float = math.inf) -> tuple[Tensor, Tensor]:
    """Returns a box that contains the ball around x, in any norm, within [low, high].

    |x′_i − x_i| ≤ ‖x′ − x‖ in every norm.  The box is in float64.  It is slightly larger than necessary, so that it
    also allows for the rounding of sums over x in float64.

    Args:
        x: (N, *).
        radius: one number, or (N,).
        low, high: the range of inputs.

    Returns:
        (lower, upper), (N, *) float64 each.
    """
    x = x.double()
    if isinstance(radius, Tensor):
        radius = radius.double().view(-1, *[1] * (x.dim() - 1))
    spare = DOUBLE_UNITS * (x[:1].numel() + 8) * (x.abs() + radius)
    return (x - radius).clamp(low, high) - spare, (x + radius).clamp(low, high) + spare


def largest_radius(norm: float, low: float, high: float) -> float:
    """Returns the largest radius of a ball that a request may name: high − low in ℓ∞, and ∞ in ℓ2 and ℓ1.

    A ball of this radius in ℓ∞ has all inputs, so a larger radius is in a wrong unit.  In ℓ2 and ℓ1 inputs of n
    coordinates are up to √n·(high − low) and n·(high − low) apart, and a ball does not know n.
    """
    return high - low if norm == math.inf else math.inf


@dataclass(frozen=True)
class Ball:
    """A kind of ball: around any x, the inputs x′ with ‖x′ − x‖ ≤ eps and low ≤ x′ ≤ high.

    Attributes:
        eps: the radius, ≥ 0 and at most ``largest_radius``, in units of x; also as text, such as "8/255".
        norm: the exponent of the norm: ``math.inf``, 2 or 1.  A name of ``NORMS`` is replaced by its exponent.
        low, high: the range of each coordinate.

    Raises:
        TypeError, ValueError: an attribute is not as described; the message names it.
    """

    eps: float
    norm: float = math.inf
    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self):
        object.__setattr__(self, "eps", as_radius(self.eps))
        check_range(self.low, self.high)
        object.__setattr__(self, "norm", check_norm(self.norm))
        largest = largest_radius(self.norm, self.low, self.high)
        if self.eps > largest * (1 + 2.0**-50):  # 0.2 fits into [0.1, 0.3], whose width rounds down
            raise ValueError(
                f"eps must be at most high − low = {largest:g}, the width of the range of the inputs, got "
                f"{self.eps:g}: it is in the same units, so 8 of 255 levels of a pixel in [0, 1] are 8/255"
            )

    def box(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns ``norms.box`` of this ball around x."""
        return box(x, self.eps, self.low, self.high)
