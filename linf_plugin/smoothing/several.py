"""The radius that a class's probabilities under several Gaussian noises give together (arXiv 2206.01715).

The smoothed classifier has the **first** noise.  The other noises only tell more about the classifier: Cohen's radius
of another noise is about another smoothed classifier, so it is never used.  All radii are in units of σ_0 until the
end.
"""

import math
from collections.abc import Mapping

import numpy as np
from scipy import optimize

from ..arguments import check_count, check_number, check_positive
from .dual import Array, Several, concave, estimate, falls, proved
from .radii import quantile_below

SEARCH = (0.05, 0.02)  # steps in x₁ in units of the narrowest noise, first and last in the search of k
PROOF = 0.005  # the step for the proof
MOST_POINTS = 100_000  # of a rule in x₁
BENT = 1e-5  # the error of the trapezoid rule that is aimed at
NEAR = 1e-5  # gain of a radius below which the search ends
WORTH = 1e-4  # gain over Cohen's radius from which a bound that may not fall is worth proving sphere by sphere
ROUNDS, RESTARTS, PROOFS, MARCHES = 12, 4, 6, 40
FARTHEST = 50.0  # no radius is searched beyond


def several_radius(p: Mapping[float, tuple[float, float]], dim: int) -> float:
    """Returns a radius r in ℓ2, rounded down: the class keeps more than ½ under the first noise where ‖x′ − x‖ < r.

    It is at least Cohen's radius of the first noise, and 0 if the first lower end is at most ½.  It is Cohen's radius
    if no classifier has such probabilities: then some end is wrong, and any radius would follow from all of them.

    Method.  D_ε(k) of ``dual`` bounds the class's probability at ‖δ‖ = ε for every k.  Ascent finds a good k at some
    ε, the root of D_ε(k) = ½ gives a larger ε for this k, and both repeat.  None of this is trusted.  At the end
    ``proved`` gives q ≤ D_ε(k).  If D_ε(k) falls with ε (``falls``), q holds within the whole ball.  Beyond ε, where
    the probability is at least q, Cohen's theorem adds Φ⁻¹(q).  If D_ε(k) is not known to fall, then spheres are
    proved one after the other: if the class has at least q at ‖δ‖ = ε, it has at least ½ wherever |‖δ‖ − ε| ≤ Φ⁻¹(q),
    and the spheres must cover the ball without a gap.

    Args:
        p: standard deviation → (lower, upper), which hold the class's probability under this noise.  The first key is
            the noise of the smoothed classifier.
        dim: the number of coordinates of an input.

    Raises:
        TypeError, ValueError: a standard deviation is not positive and finite, an interval is not in [0, 1] or is
            empty, or dim is no positive integer.
    """
    sigmas = _checked(p, dim)
    first = sigmas[0]
    ends = np.array([[float(end) for end in p[sigma]] for sigma in p])
    if ends[0, 0] <= 0.5:
        return 0.0
    cohen = max(0.0, quantile_below(ends[0, 0]))
    best = cohen
    if len(sigmas) > 1 and math.isfinite(cohen) and cohen > 0:
        problem = Several(np.array(sigmas) / first, ends[:, 0], ends[:, 1], dim)
        eps, k = _search(problem, cohen)
        possible = not _contradicts(problem, k)
        if possible and falls(problem.sigmas, k):
            best = max(best, _within(problem, eps, k))
        elif possible and eps > cohen + WORTH:
            best = max(best, _march(problem, cohen))
    return max(0.0, math.nextafter(first * best * (1 - 2.0**-50), 0.0))


def _checked(p: Mapping[float, tuple[float, float]], dim: int) -> list[float]:
    check_count("dim", dim)
    if not p:
        raise ValueError("p must name at least one standard deviation")
    for sigma, ends in p.items():
        check_positive("sigma", sigma)
        for end in ends:
            check_number("p", end)
        low, high = ends
        if not 0 <= low <= high <= 1:
            raise ValueError(f"p[{sigma}] must be (lower, upper) with 0 ≤ lower ≤ upper ≤ 1, got {ends}")
    return [float(sigma) for sigma in p]


def _contradicts(problem: Several, k: Array) -> bool:
    """Returns whether the intervals prove more of the first noise, unmoved, than its own upper end allows."""
    return proved(problem, 0.0, k, _proof_step(problem, k)) > problem.upper[0]


def _search(problem: Several, cohen: float) -> tuple[float, Array]:
    """Returns (ε, k) with D_ε(k) about ½, and ε as large as the search finds."""
    k = np.zeros(len(problem.sigmas))
    k[0] = math.exp(min(cohen * cohen / 2, 100.0))  # with these multipliers D is Cohen's bound at ε = cohen
    eps = cohen
    for part in SEARCH:
        step = _step(problem, part)
        for _ in range(ROUNDS):
            k = _ascend(problem, eps, k, step)
            further = _root(problem, eps, k, step)
            gain, eps = further - eps, further
            if gain < NEAR:
                break
    return eps, k


def _root(problem: Several, eps: float, k: Array, step: float) -> float:
    """Returns an ε near the first root of D_ε(k) = ½ that is larger than eps; eps itself if D is at most ½ there."""

    def over(at: float) -> float:
        return _bound(problem, at, k, step) - 0.5

    if over(eps) <= 0:
        return eps
    near, far = eps, eps + 0.01
    while over(far) > 0:
        near, far = far, far + 2 * (far - eps)
        if far > FARTHEST:
            return near
    return float(optimize.brentq(over, near, far, xtol=NEAR / 10))


def _bound(problem: Several, eps: float, k: Array, step: float) -> float:
    """Returns D(k), less what rounding may take from it, without a proof."""
    integral, _, loss = estimate(problem, eps, k, step)
    return float(k @ np.where(k > 0, problem.lower - loss, problem.upper + loss)) - integral


def _ascend(problem: Several, eps: float, k: Array, step: float, restarts: int = RESTARTS) -> Array:
    """Returns multipliers with a larger D.

    With k = a − b for a, b ≥ 0, D is smooth in a and b: Σ a_i l_i − Σ b_i h_i − ∫(F − f_δ)₊.
    """
    m = len(k)
    for _ in range(restarts):
        scale = np.tile(np.maximum(1.0, np.abs(k)), 2)  # the best multipliers can be 1e9

        def descend(v: Array, scale: Array = scale) -> tuple[float, Array]:
            a, b = (v * scale).reshape(2, m)
            integral, reached, loss = estimate(problem, eps, a - b, step)
            lower, upper = problem.lower - loss, problem.upper + loss
            return integral - float(a @ lower - b @ upper), np.concatenate([reached - lower, upper - reached]) * scale

        start = np.concatenate([np.maximum(k, 0.0), np.maximum(-k, 0.0)]) / scale
        options = {"maxiter": 100, "ftol": 1e-10, "gtol": 1e-9, "maxcor": 20}
        found = optimize.minimize(
            descend, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * (2 * m), options=options
        )
        a, b = (found.x * scale).reshape(2, m)
        k = a - b
        if found.nit < 3:
            break
    return k


def _within(problem: Several, eps: float, k: Array) -> float:
    """Returns a proved radius near ε for multipliers whose bound falls with ε; 0 if none is found."""
    step = _proof_step(problem, k)
    for _ in range(PROOFS):
        q = proved(problem, eps, k, step)
        if q >= 0.5:
            return eps + quantile_below(q) if q < 1 else 0.0
        below = 0.99 * eps
        slope = (_bound(problem, below, k, step) - _bound(problem, eps, k, step)) / (eps - below)
        eps -= max(1e-7, 1.1 * (0.5 - q) / max(slope, 1e-3))
        if eps <= 0:
            break
    return 0.0


def _march(problem: Several, cohen: float) -> float:
    """Returns a radius that proved spheres cover without a gap."""
    covered = ahead = cohen
    k = np.zeros(len(problem.sigmas))
    k[0] = math.exp(min(cohen * cohen / 2, 100.0))
    for _ in range(MARCHES):
        eps = covered + 0.9 * ahead
        k = _ascend(problem, eps, k, _step(problem, SEARCH[0]), 1)
        q = proved(problem, eps, k, _proof_step(problem, k))
        reach = quantile_below(q) if 0.5 < q < 1 else 0.0
        if reach > 0 and eps - reach <= covered:
            covered, ahead = eps + reach, reach
        else:
            ahead /= 3
        if ahead < NEAR or covered > FARTHEST:
            break
    return covered


def _proof_step(problem: Several, k: Array) -> float:
    if concave(problem.sigmas, k):
        return _step(problem, PROOF)
    # The error of the trapezoid rule is about 0.06·step²·(1 + Σ|k_i|/σ_i²).
    wanted = math.sqrt(BENT / (0.0605 * (1 + float(np.abs(k) @ problem.sigmas**-2))))
    return _step(problem, min(wanted / float(problem.sigmas.min()), 2 * PROOF))


def _step(problem: Several, part: float) -> float:
    """Returns a step in x₁ that is a part of the narrowest noise and does not make too many points."""
    return max(part * float(problem.sigmas.min()), 17 * float(problem.sigmas.max()) / MOST_POINTS)
