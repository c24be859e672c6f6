"""The result of a cascade of certificates."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..norms import Ball
from .table import CERTIFICATES


class Tally(NamedTuple):
    """What one method did: how many samples it was tried on, how many it certified, and the seconds that it took."""

    tried: int
    certified: int
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Certified:
    """The result of ``certify``.  As text it is its summary.

    Attributes:
        ball: the ball around each sample; its radius is in units of the net's input.
        methods: the certificates that were asked for, in the order in which they ran.
        correct: (N,) bool, the samples that the model classifies correctly.
        skipped: (N,) bool, the samples that were left out on request.
        bound: (N,) float64, the largest lower bound of the margin that was computed; −∞ where none was computed.
        method: (N,) int64, the index in ``methods`` of the method that certified the sample; −1 if none did.
        tallies: one for each method.
    """

    ball: Ball
    methods: tuple[str, ...]
    correct: Tensor
    skipped: Tensor
    bound: Tensor
    method: Tensor
    tallies: tuple[Tally, ...]

    @property
    def eps(self) -> float:
        """The radius of the balls."""
        return self.ball.eps

    @property
    def failure(self) -> float:
        """An upper bound of the probability that a certified sample is not robust; 0 if all certificates are theorems.

        It is the sum over the certificates that were asked for, at most 1.
        """
        return min(1.0, sum(CERTIFICATES[name].failure for name in self.methods))

    @property
    def certified(self) -> Tensor:
        """(N,) bool: the sample is classified correctly, with the same prediction everywhere within eps."""
        return self.method >= 0

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"Certified(eps={self.eps:g}, {int(self.certified.sum())} of {len(self.method)} certified)"

    def certified_by(self, method: str) -> Tensor:
        """Returns (N,) bool: the samples that this method certified and no cheaper method did.

        Raises:
            ValueError: the method was not asked for.
        """
        if method not in self.methods:
            raise ValueError(f"method must be one of {', '.join(self.methods)}, got {method!r}")
        return self.method == self.methods.index(method)

    def summary(self) -> str:
        """Returns a short text: how many samples are certified, and what each method did."""
        total, certified = len(self.method), int(self.certified.sum())
        share = f" ({100 * certified / total:.2f} %)" if total else ""
        undecided = int((self.correct & ~self.skipped & ~self.certified).sum())
        lines = [
            f"ε = {self.eps:g}: {certified} of {total} certified{share}; {int((~self.correct).sum())} misclassified, "
            f"{int((self.correct & self.skipped).sum())} skipped, {undecided} undecided",
            f"{'method':12} {'tried':>8} {'certified':>10} {'seconds':>9}",
            *(f"{m:12} {t.tried:8} {t.certified:10} {t.seconds:9.2f}" for m, t in zip(self.methods, self.tallies)),
        ]
        if self.failure:
            lines.append(f"Each certified sample may be wrong with a probability of at most {self.failure:g}.")
        return "\n".join(lines)
