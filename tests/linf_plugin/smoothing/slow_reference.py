"""A slow reference for two Gaussian noises: nested root finding, with integrals in polar coordinates.

The package integrates over x₁ and knows the integral over the other coordinates in closed form.  Here the integral over
‖z‖ is outside, and the one over the angle inside.
"""

import numpy as np
from scipy import optimize, special, stats

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)
INNER, INNER_WEIGHTS = np.polynomial.legendre.leggauss(60)
PANELS = 150


def _region(eps, sigma, d, k0, k1):
    """Nodes in u = ‖z‖² and their weights, and the largest cosine t = x₁/‖z‖ in {k0·f_0 + k1·f_1 ≥ f_δ} for σ_0 = 1."""
    c, ratio = (sigma**-2 - 1) / 2, -d * np.log(sigma)
    wide = max(1, sigma**2)
    edges = {*np.linspace(0, wide * stats.chi2.isf(1e-13, d), PANELS + 1)}
    if k0 * k1 < 0:  # where k0 + k1·f_1/f_0 changes its sign
        edges.add(float(np.clip((ratio + np.log(-k1 / k0)) / c, 0, max(edges))))
    edges = np.array(sorted(edges))
    half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
    u, w = (half * NODES + middle).ravel(), (half * WEIGHTS).ravel()
    level = k0 + k1 * np.exp(ratio - c * u)
    with np.errstate(divide="ignore", invalid="ignore"):
        x1 = np.where(level > 0, np.log(level) / eps + eps / 2, -np.inf)
    return u, w, np.clip(x1 / np.sqrt(u), -1, 1)


def under(eps, sigma, d, k0, k1):
    """P_0(A) and P_1(A)."""
    u, w, t = _region(eps, sigma, d, k0, k1)
    share = special.betainc((d - 1) / 2, (d - 1) / 2, (1 + t) / 2)
    return tuple(float(w @ (stats.chi2.pdf(u / s**2, d) / s**2 * share)) for s in (1.0, sigma))


def shifted(eps, sigma, d, k0, k1):
    """P_δ(A)."""
    u, w, t = _region(eps, sigma, d, k0, k1)
    # In the angle θ the density has no singular ends, for every d ≥ 2.
    first = np.arccos(t)[:, None]
    theta = (np.pi - first) / 2 * INNER + (np.pi + first) / 2
    log = np.log(np.sin(theta)) * (d - 2) + eps * np.sqrt(u)[:, None] * np.cos(theta) - eps**2 / 2
    inner = ((np.pi - first) / 2 * INNER_WEIGHTS * np.exp(log)).sum(axis=1) / special.beta((d - 1) / 2, 0.5)
    return float(w @ (stats.chi2.pdf(u, d) * inner))


def solve(p0, p1, sigma, d, low, high, least, most, k0_within):
    """(radius, k0, k1) in units of σ_0: nested roots of P_0(A) = p0 in k0, P_1(A) = p1 in k1, and P_δ(A) = ½ in ε.

    The roots lie in [low, high] for ε, in [least, most] for k1, and in ±k0_within for k0.
    """

    def inner(eps, k1):
        return optimize.brentq(lambda k0: under(eps, sigma, d, k0, k1)[0] - p0, -k0_within, k0_within, xtol=1e-9)

    def outer(eps):
        k1 = optimize.brentq(lambda k1: under(eps, sigma, d, inner(eps, k1), k1)[1] - p1, least, most, xtol=1e-8)
        return inner(eps, k1), k1

    eps = optimize.brentq(lambda eps: shifted(eps, sigma, d, *outer(eps)) - 0.5, low, high, xtol=1e-6)
    return eps, *outer(eps)
