"""Linear programs whose rows hold for a net exactly, and the bounds that their dual values prove.

A solver computes in floating point, so its answer is not trusted.  A bound uses only the dual values of the answer, and
any values would prove some bound.  Take multipliers y ≥ 0 of the rows A·v ≤ b and multipliers λ of the rows E·v = d.
Every v with l ≤ v ≤ h that satisfies the rows then has

    c·v ≥ c·v + y·(A·v − b) + λ·(E·v − d) ≥ Σ_j min(g_j·l_j, g_j·h_j) − y·b − λ·d,    g = c + Aᵀy + Eᵀλ,

The right side is computed in integers (Neumaier and Shcherbina, Safe bounds in linear and mixed-integer linear
programming, 2004).  This is exact: all numbers of a program are float64, and a float64 is an integer times a power of
two.
"""

import math
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

PENALTY = 1e4  # cost of violating the rows by half of a variable's interval; half of the objective's interval costs 1
TOLERANCE = 1e-9  # of HiGHS, in these units


def rounded_up(exact: Fraction) -> float:
    """Returns a float64 that is not below ``exact``; ∞ if no finite one is."""
    try:
        value = float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -1.7976931348623157e308
    return value if Fraction(value) >= exact else math.nextafter(value, math.inf)


def rounded_down(exact: Fraction) -> float:
    return -rounded_up(-exact)


@dataclass
class Relaxation:
    """A linear program: variables with finite bounds, rows Σ coefficient·variable ≤ bound, and equations.

    A row may name a variable more than once.  Its coefficients then add up, so that none of them has to be rounded.
    """

    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    coefficients: list[float] = field(default_factory=list)
    starts: list[int] = field(default_factory=lambda: [0])
    bounds: list[float] = field(default_factory=list)
    equations: list[bool] = field(default_factory=list)

    def variables(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Adds variables with these bounds, and returns their numbers."""
        first = len(self.low)
        self.low += low.tolist()
        self.high += high.tolist()
        return np.arange(first, len(self.low))

    def at_most(self, columns: list[int], coefficients: list[float], bound: float) -> int:
        """Adds a row, and returns its number.  If the bound is rounded, it must be rounded up."""
        return self._row(columns, coefficients, bound, False)

    def equal(self, columns: list[int], coefficients: list[float], value: float) -> int:
        """Adds an equation, whose numbers must not be rounded, and returns its number."""
        return self._row(columns, coefficients, value, True)

    def _row(self, columns, coefficients, bound, equation) -> int:
        self.columns += columns
        self.coefficients += coefficients
        self.starts.append(len(self.columns))
        self.bounds.append(bound)
        self.equations.append(equation)
        return len(self.bounds) - 1

    def solve(self, variable: int | None, seconds: float) -> "Solution | None":
        """Returns HiGHS's solution for the least value of the variable; None if it fails, or beyond float64.

        HiGHS's tolerances are absolute.  So each variable is scaled to its interval, and each row to a largest
        coefficient of about 1.  A solution may violate the rows by ``left`` at a high cost, so there always is one.
        Without a variable HiGHS looks for the least ``left``.  A positive ``bound`` then proves that the program is
        empty.  HiGHS stops after ``seconds``.
        """
        low, high = np.array(self.low), np.array(self.high)
        columns, starts = np.array(self.columns, np.int32), np.array(self.starts, np.int32)
        coefficients, bounds = np.array(self.coefficients), np.array(self.bounds)
        equations = np.array(self.equations)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            middle = low / 2 + high / 2
            scale = np.maximum(high / 2 - low / 2, 2.0**-40 * abs(middle))
            scale = 2.0 ** np.frexp(np.where(scale > 0, scale, 1.0))[1]
            shift = np.add.reduceat(coefficients * middle[columns], starts[:-1])
            scaled = coefficients * scale[columns]
            largest = np.maximum.reduceat(abs(scaled), starts[:-1])
            size = 2.0 ** np.frexp(np.where(largest > 0, largest, 1.0))[1]
            scaled = scaled / np.repeat(size, np.diff(starts))
            most = (bounds - shift) / size
            ends = np.stack([(low - middle) / scale, (high - middle) / scale], 1)
        if not all(np.isfinite(a).all() for a in (scaled, most, ends, low, high)):
            return None
        rows = sparse.csr_array((scaled, columns, starts), shape=(len(bounds), len(low)))
        rows.sum_duplicates()
        ends = np.vstack([ends, [0.0, np.inf]])
        cost = np.zeros(len(low) + 1)
        cost[-1] = PENALTY
        if variable is not None:
            cost[variable] = 1.0
        price = sparse.csr_array(-np.ones((int((~equations).sum()), 1)))
        nothing = sparse.csr_array((int(equations.sum()), 1))
        result = linprog(
            cost,
            sparse.hstack([rows[~equations], price], "csr"),
            most[~equations],
            sparse.hstack([rows[equations], nothing], "csr"),
            most[equations],
            ends,
            "highs-ds",
            options={
                "time_limit": max(seconds, 0.0),
                "primal_feasibility_tolerance": TOLERANCE,
                "dual_feasibility_tolerance": TOLERANCE,
            },
        )
        if result.status != 0:
            return None
        duals = np.empty(len(bounds))
        duals[~equations] = np.maximum(-result.ineqlin.marginals, 0.0)
        duals[equations] = -result.eqlin.marginals
        if not np.isfinite(duals).all():
            return None
        # These turn the multipliers into those of the rows.  Without a variable any common factor is right.
        exponents = (0 if variable is None else np.frexp(scale[variable])[1]) - np.frexp(size)[1]
        bound = self._proved(variable, duals, exponents)
        return Solution(bound, middle + scale * result.x[:-1], float(result.x[-1]), duals)

    def _proved(self, variable: int | None, multipliers: np.ndarray, exponents: np.ndarray) -> Fraction:
        """Returns the right side of the inequality above, exactly.

        The multipliers are multipliers·2^exponents; c is 1 at the variable, and 0 elsewhere.
        """
        used = np.flatnonzero(multipliers)
        y, y_exponent = _integers(multipliers[used], exponents[used])
        a, a_exponent = _integers(np.array(self.coefficients))
        b, b_exponent = _integers(np.array(self.bounds)[used])
        low, low_exponent = _integers(np.array(self.low))
        high, high_exponent = _integers(np.array(self.high))
        g, g_exponent = [0] * len(low), y_exponent + a_exponent
        starts, columns = self.starts, self.columns
        for row, multiplier in zip(used.tolist(), y):
            for k in range(starts[row], starts[row + 1]):
                g[columns[k]] += multiplier * a[k]
        unit = Fraction(2) ** g_exponent
        least, most = Fraction(2) ** low_exponent, Fraction(2) ** high_exponent
        own = 0 if variable is None else g[variable] * unit + 1
        if variable is not None:
            g[variable] = 0
        at_low = sum(slope * end for slope, end in zip(g, low) if slope > 0)
        at_high = sum(slope * end for slope, end in zip(g, high) if slope < 0)
        bound = unit * (at_low * least + at_high * most)
        if own:
            bound += own * (low[variable] * least if own > 0 else high[variable] * most)
        return bound - sum(map(int.__mul__, y, b)) * Fraction(2) ** (y_exponent + b_exponent)


@dataclass(frozen=True)
class Solution:
    """An answer of HiGHS.

    bound: proved, of the value that was asked for.  The others are not proved.  values: of the variables.  left: by how
    much rows are violated.  duals: scaled, so they can only be compared with each other.
    """

    bound: Fraction
    values: np.ndarray
    left: float
    duals: np.ndarray


def _integers(values: np.ndarray, exponents: np.ndarray | int = 0) -> tuple[list[int], int]:
    """Returns integers and one exponent e with integers·2^e = values·2^exponents, exactly."""
    mantissas, own = np.frexp(values)
    mantissas = np.ldexp(mantissas, 53).astype(np.int64)
    exponents = np.where(mantissas != 0, own.astype(np.int64) - 53 + exponents, np.iinfo(np.int64).max)
    least = int(exponents.min(initial=np.iinfo(np.int64).max))
    if least == np.iinfo(np.int64).max:
        return [0] * len(mantissas), 0
    exponents = np.where(mantissas != 0, exponents - least, 0)
    return [m << e for m, e in zip(mantissas.tolist(), exponents.tolist())], least
