"""A lower bound of a class's probability under a shifted Gaussian, from its probabilities under several Gaussians.

Units: the first noise has σ_0 = 1.  Let φ(z) in [0, 1] be the probability that the classifier answers the class at
x + z, f_i the density of N(0, σ_i²I), f_δ that of N(δ, σ_0²I), and l_i ≤ ∫φf_i ≤ h_i.  For **any** real numbers k_i,
with F = Σ k_i f_i, since 0 ≤ φ ≤ 1:

    ∫φf_δ = Σ k_i ∫φf_i − ∫φ(F − f_δ)  ≥  Σ_{k_i>0} k_i l_i + Σ_{k_i<0} k_i h_i − ∫(F − f_δ)₊  =:  D(k).

This is weak duality for the generalised Neyman–Pearson problem of arXiv 2206.01715.  A positive multiplier uses the
lower end of its interval and a negative one the upper end, because k_i·∫φf_i is least there.  D is concave, its
largest value solves the problem, and ∂D/∂k_i is that end minus P_i(A) for A = {F ≥ f_δ}.  The search for the best k
needs no proof, since D(k) bounds the probability for every k.  Only the integral must be bounded with its error:
``proved``.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from .regions import intervals

Array = NDArray[np.float64]
REACH = 8.5  # x₁ runs over ±REACH·max σ; N(0, 1) is outside of it with a probability below OUTSIDE
OUTSIDE = 2e-17
UNIT = 2.0**-50  # relative error of a logarithm after a few operations of float64
BEND = 2 * math.exp(-0.5) / math.sqrt(2 * math.pi)  # ∫(φ″)⁻ of the standard normal density φ is 2φ(1)


@dataclass(frozen=True, eq=False)
class Several:
    """The problem for one sample.

    Attributes:
        sigmas: (m,), standard deviations in units of the first, which is 1; no two are equal.
        lower, upper: (m,) each, the ends l and h.
        dim: the number of coordinates of z.
    """

    sigmas: Array
    lower: Array
    upper: Array
    dim: int

    @property
    def far(self) -> float:
        """A value that ‖z‖² exceeds with a probability below OUTSIDE, under each noise.

        P(χ²_d ≥ d + 2√(dt) + 2t) ≤ e^{−t} (Laurent and Massart, 2000), here with t = 40.
        """
        return float(self.sigmas.max()) ** 2 * (self.dim + 2 * math.sqrt(40.0 * self.dim) + 80.0)

    @property
    def exact(self) -> float:
        """How far a value of the distribution function of χ² can be off that float64 and SciPy compute.

        SciPy is within half of the first term of mpmath in the tests.  A relative error of 2⁻⁵¹ in the argument u
        moves the value by 2⁻⁵¹·u·density(u), and u·density(u) ≤ 0.3·√d + 0.2.
        """
        return (1e-15 if self.dim > 2 else 1e-14) + 2e-16 * math.sqrt(self.dim)


@dataclass(frozen=True, eq=False)
class Slices:
    """What is known on the grid of x₁: (M,) points, and the probabilities of the slice of a region at each point."""

    x: Array
    step: float
    density: Array  # (m, M): of x₁ under each noise
    moved: Array  # (M,): of x₁ under f_δ
    inside: Array  # (m, M): P(z in A | x₁) under each noise
    positive: Array  # (m, M): P(F ≥ 0 | x₁) under each noise
    eta: float  # bounds the error of the logarithms of the terms of F and f_δ
    loss: float  # what rounding may take from D, for each unit of Σ|k_i|


def estimate(problem: Several, eps: float, k: Array, step: float) -> tuple[float, Array, float]:
    """Returns ∫(F − f_δ)₊ for ‖δ‖ = eps, its gradient P_i(A), (m,), and ``loss``.

    It is the trapezoid rule, without a proof.
    """
    at = _slices(problem, eps, k, step, False)
    reached = (at.inside * at.density).sum(axis=1) * at.step
    return float(k @ reached - (at.inside[0] @ at.moved) * at.step), reached, at.loss


def proved(problem: Several, eps: float, k: Array, step: float) -> float:
    """Returns a number that is at most D(k) for ‖δ‖ = eps, by a rule of step ``step`` in x₁.

    Coordinates are z = (x₁, z_⊥) with δ along the first axis.  At fixed x₁ a region is a union of intervals of
    ‖z_⊥‖² ~ σ_i²χ²_{d−1} (``regions``), so the integral over z_⊥ has a closed form.  The integral over x₁ is bounded
    in one of two ways.

    If one multiplier is positive and belongs to the narrowest noise that is used (``concave``):
    ∫(F − f_δ)₊ = ∫F₊ − ∫min(F₊, f_δ).  The first integral is a sum of probabilities of a ball, Σ k_i P(σ_i²χ²_d ≤ u₀).
    F₊ = (k_n f_n·(1 − Σ_j c_j e^{β_j‖z‖²}))₊ with c_j, β_j ≥ 0 is log-concave, because the bracket is concave.  So
    min(F₊, f_δ) is log-concave, and so is its integral j over z_⊥, as a function of x₁ (Prékopa).  On a cell [a, b] j
    is then at least the exponential through j(a) and j(b), whose integral is (b − a) times the logarithmic mean of
    j(a) and j(b).

    Otherwise h(x₁) = ∫(F − f_δ)₊dz_⊥ is summed by the trapezoid rule with step s.  ∫h exceeds the sum by at most
    s²/8·2φ(1)·(1 + Σ|k_i|/σ_i²), φ the normal density.  Proof: let g = F − f_δ, and ψ smooth and convex with 0 ≤ ψ′ ≤
    1.  Along x₁, ψ(g)″ = ψ′(g)g″ + ψ″(g)g′² ≥ −(g″)⁻.  The error of the rule on a cell is −½∫(x − a)(b −
    x)(∫ψ(g)dz_⊥)″dx ≤ s²/8·∫∫(g″)⁻.  The sum over cells is at most s²/8·(∫(f_δ″)⁺ + Σ|k_i|∫(f_i″)^±), and ∫(f_i″)⁻ =
    ∫(f_i″)⁺ = 2φ(1)/σ_i².  Let ψ go to t₊.  Outside of the grid h ≤ Σ_{k_i>0} k_i f_i.

    Rounding.  A multiplier meets at most 4 values of a distribution function, 6m with m > 2 noises, each off by
    ``exact``.  The logarithms of the terms of F and f_δ are off by η.  In general this moves the boundaries of the
    two regions only through points where |g| ≤ 3η(f_δ + Σ|k_i|f_i), which takes at most 6η(1 + Σ|k_i|) from D.  With
    two noises or fewer in use the regions have a closed form, and more can be said.  A common factor 1 ± η of f_1/f_0
    at all x₁ only means other multipliers k′, |k_i′ − k_i| ≤ η|k_i|; D(k′) is as good a bound, and differs from the
    computed number by η·Σ|k_i|·|end_i − P_i(A)|, and by 2η·Σ|k_i|·P_i(F ≥ 0 outside of A) where j is summed.  A
    relative error of f_δ takes at most η.  What is left moves the boundary in u by at most 4η/|c|, where χ²_{d−1} has
    a density of at most ½ for d ≥ 3, so it takes at most 12η²/|c|·Σ|k_i|σ_i⁻².
    """
    at = _slices(problem, eps, k, step, True)
    size = 1.0 + float(np.abs(k).sum())
    ends = np.where(k > 0, problem.lower, problem.upper)
    reached, shell = ((share * at.density).sum(axis=1) * at.step for share in (at.inside, at.positive - at.inside))
    margin = at.loss * size + at.eta * (2 + float(np.abs(k) @ (np.abs(ends - reached) + 2 * np.abs(shell))))
    if concave(problem.sigmas, k):
        ball = _shares(problem, _positive(problem, k))
        j = np.maximum((k[:, None] * at.density * (at.positive - at.inside)).sum(axis=0) + at.moved * at.inside[0], 0.0)
        return float(k @ (ends - ball)) + at.step * float(_log_mean(j[:-1], j[1:]).sum()) - margin
    h = np.maximum((k[:, None] * at.density * at.inside).sum(axis=0) - at.moved * at.inside[0], 0.0)
    bend = at.step**2 / 8 * BEND * (1 + float(np.abs(k) @ problem.sigmas**-2))
    return float(k @ ends) - at.step * float(h.sum()) - bend - margin


def concave(sigmas: Array, k: Array) -> bool:
    """Returns whether F₊ is log-concave because one multiplier is positive, that of the narrowest noise in use."""
    used = np.flatnonzero(k)
    return bool(len(used)) and [*used[k[used] > 0]] == [used[sigmas[used].argmin()]]


def falls(sigmas: Array, k: Array) -> bool:
    """Returns whether D(k) for ‖δ‖ = ε is known to fall with ε, so that a bound at ε holds within the ball.

    It is so if, from the narrowest to the widest noise, the positive multipliers come before the negative ones.  Write
    F = e^{−γu}·(Σ₊ a_i e^{−(β_i−γ)u} − Σ₋ b_i e^{(γ−β_i)u}) with u = ‖z‖², a_i, b_i > 0 and a γ between the rates β of
    the two groups.  The bracket falls with u, so F falls where it is positive.  The sets {F₊ > t}, {f_δ > t} are then
    balls around 0 and δ, the volume of whose intersection falls with ‖δ‖, and ∫min(F₊, f_δ) is the integral of these
    volumes over t.
    """
    signs = np.sign(k[np.argsort(sigmas)])
    return bool((np.diff(signs[signs != 0]) <= 0).all())


def _slices(problem: Several, eps: float, k: Array, step: float, both: bool) -> Slices:
    sigmas = problem.sigmas
    reach = REACH * float(sigmas.max())
    count = math.ceil(2 * reach / step)
    x = np.linspace(-reach, reach, count + 1)
    levels = eps * x - eps * eps / 2  # ln f_δ/f_0
    logs, rates = _terms(problem, k)
    used = k != 0
    largest = np.abs(logs[used]).max(initial=0) + np.abs(rates).max() * problem.far + np.abs(levels).max()
    eta = UNIT * (1 + float(largest) + problem.dim * float(np.abs(np.log(sigmas)).max()))
    slowest = float(np.abs(rates[used & (rates != 0)]).min(initial=math.inf))
    closed = used.sum() <= 2 and problem.dim > 2
    again = min(6.0, 12 * eta / slowest * float(sigmas.min()) ** -2) if closed else 6.0
    loss = 3 * OUTSIDE + (4 if len(k) == 2 else 6 * len(k)) * problem.exact + eta * again
    inside = _shares(problem, intervals(logs, np.sign(k), rates, levels, problem.far), x * x)
    positive = _shares(problem, _positive(problem, k), x * x) if both else inside
    scaled = x / sigmas[:, None]
    normal = math.sqrt(2 * math.pi)
    density, moved = np.exp(-scaled * scaled / 2) / (sigmas[:, None] * normal), np.exp(-((x - eps) ** 2) / 2) / normal
    return Slices(x, 2 * reach / count, density, moved, inside, positive, eta, loss)


def _terms(problem: Several, k: Array) -> tuple[Array, Array]:
    """Returns ln(|k_i|σ_i^{−d}) and c_i = (σ_i⁻² − 1)/2: k_i f_i/f_0 = ±exp(ln(…) − c_i u)."""
    with np.errstate(divide="ignore"):
        logs = np.log(np.abs(k)) - problem.dim * np.log(problem.sigmas)
    return logs, (problem.sigmas**-2 - 1) / 2


def _positive(problem: Several, k: Array) -> list[tuple[Array, Array]]:
    """Returns the intervals of u where F ≥ 0."""
    logs, rates = _terms(problem, k)
    return intervals(logs, np.sign(k), rates, np.array([-np.inf]), problem.far)


def _shares(problem: Several, found: list[tuple[Array, Array]], square: Array | None = None) -> Array:
    """Returns P(u in the intervals) under each noise: for ‖z‖² = u, or for square + ‖z_⊥‖² = u."""
    freedom = problem.dim - (square is not None)
    total = np.zeros((len(problem.sigmas), 1 if square is None else len(square)))
    for low, high in found:
        high = np.where(high >= problem.far, np.inf, high)
        low, high = (u if square is None else u - square for u in (low, high))
        total = total + np.stack([_between(low, high, float(sigma), freedom) for sigma in problem.sigmas])
    return total if square is not None else total[:, 0]


def _between(low: Array, high: Array, sigma: float, freedom: int) -> Array:
    """Returns P(low ≤ σ²χ² ≤ high) for low ≤ high.  Without degrees of freedom χ² = 0."""
    if freedom == 0:
        return ((low <= 0) & (high >= 0)).astype(float)
    low, high = np.maximum(low, 0.0) / sigma**2, np.maximum(high, 0.0) / sigma**2
    found = np.zeros_like(low)
    left, right = (low <= freedom) & (high > low), (low > freedom) & (high > low)  # a short tail keeps its digits
    found[left] = special.chdtr(freedom, high[left])
    inner = left & (low > 0)
    found[inner] -= special.chdtr(freedom, low[inner])
    found[right] = special.chdtrc(freedom, low[right]) - special.chdtrc(freedom, high[right])
    return found


def _log_mean(a: Array, b: Array) -> Array:
    """Returns the logarithmic mean (b − a)/ln(b/a), rounded down a little; 0 where a or b is 0."""
    small, large = np.minimum(a, b), np.maximum(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(small / large)
        mean = np.where(ratio > -1e-4, np.sqrt(small) * np.sqrt(large), large * np.expm1(ratio) / ratio)
    return np.where(small > 0, mean * (1 - 1e-14), 0.0)
