"""Finds ρ and k of a sorted sum from its coefficients: a file holds only these."""

import itertools
import math
from collections.abc import Iterator, Sequence

from linf_plugin.kernels import reference

NEAR = 2048  # candidates on each side of an estimate


def rho_and_k(c: Sequence[float], features: int) -> tuple[float, int]:
    """A ρ and a k for which ``reference.coefficients`` gives c to the bit.

    They are those of the exported net, or others that make the same function.

    Args:
        c: the coefficients in a file.
        features: how many numbers are sorted.

    Raises:
        ValueError: no ρ and k that were tried give c.
    """
    c, features = tuple(c), int(features)
    if c == (1.0,):
        return 1.0, 1
    if not 1 < len(c) <= features or not all(0 < b <= a < 1 for a, b in itertools.pairwise(c)):
        raise ValueError(f"its {len(c)} coefficients are not those of a sorted sum of {features} numbers")
    counts = dict.fromkeys((len(c), features))  # there are fewer than k where the last one would be subnormal
    most = max(1, 10**6 // len(c))
    for k in counts if len(c) < features else (len(c),):
        for _, rho in zip(range(most), _candidates(c)):
            if reference.coefficients.__wrapped__(rho, k, features) == c:
                return rho, k
    raise ValueError(f"its {len(c)} coefficients are not those of any ρ and k that were tried")


def _candidates(c: tuple[float, ...]) -> Iterator[float]:
    """Candidates for ρ from the first and the last coefficient, by c_n/c_1 = (1 − ρ)^(n−1).

    First come estimates that are rounded to few decimals, then numbers close to the estimate.
    """
    estimate = -math.expm1(math.log(c[-1] / c[0]) / (len(c) - 1))
    first = 1 - c[1] / c[0]
    for digits in range(1, 12):
        yield from (rho for rho in {round(estimate, digits), round(first, digits)} if 0 < rho < 1)
    width = 4e-7 * (1 - estimate) / (len(c) - 1)
    for i in range(NEAR):
        yield from (rho for rho in (estimate + i * width / NEAR, estimate - i * width / NEAR) if 0 < rho < 1)
