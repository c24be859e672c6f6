"""The result of a certificate by randomised smoothing."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..arguments import check_labels
from ..norms import name_of

CODES = ("abstained", "one noise", "several noises")


@dataclass(frozen=True, eq=False)
class Smoothed:
    """What ``certify`` found: for each sample, a statement that is false with a probability of at most ``failure``.

    The statement: the smoothed classifier, which answers the most probable class of the net at x′ + noise of the
    **first** scale, answers ``prediction`` at every x′ with ‖x′ − x‖ < ``radius``.

    Attributes:
        noise: the name of the noise in ``NOISES``.
        sigmas: the scales of the noise, in units of x; the first is that of the smoothed classifier.
        norm: the exponent of the norm of the radii.
        failure: alpha.
        n0, n: draws for the choice of the class, and draws of each noise for its probability.
        offset: the index of the first sample.
        prediction: (N,) int64, −1 where it abstained.
        radius: (N,) float64, in units of x; 0 where it abstained.
        selected: (N,) int64, the class that the first n0 draws chose.
        counts: (N, noises) int64, how many of n draws of each noise answered this class.
        lost: (N,) int64, draws of all kinds whose logits held NaN.  One such draw makes the certificate abstain.
        lower, upper: (N, noises) float64, simultaneous bounds of the probability of this class.
        method: (N,) int64, an index in ``CODES``: what gave the radius.
    """

    noise: str
    sigmas: tuple[float, ...]
    norm: float
    failure: float
    n0: int
    n: int
    offset: int
    prediction: Tensor
    radius: Tensor
    selected: Tensor
    counts: Tensor
    lost: Tensor
    lower: Tensor
    upper: Tensor
    method: Tensor

    @property
    def abstained(self) -> Tensor:
        """(N,) bool: nothing is stated about the sample."""
        return self.prediction < 0

    @property
    def draws(self) -> int:
        """The draws of one sample, of all kinds."""
        return self.n0 + self.n * len(self.sigmas)

    def certified(self, labels: Tensor, radius: float = 0.0) -> Tensor:
        """Returns (N,) bool: the prediction is the label, and the certified radius is larger than ``radius``.

        Raises TypeError or ValueError unless labels are N integers.
        """
        labels = check_labels(labels, self.prediction[:, None])
        return (self.prediction == labels) & (self.radius > radius)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row a sample, of plain numbers and strings."""
        return [
            {
                "sample": self.offset + i,
                "prediction": int(self.prediction[i]),
                "abstained": bool(self.abstained[i]),
                "norm": name_of(self.norm),
                "radius": float(self.radius[i]),
                "failure": self.failure,
                "draws": self.draws,
                "method": CODES[int(self.method[i])],
                "selected": int(self.selected[i]),
                "lost": int(self.lost[i]),
                **{
                    f"{what}_{sigma:g}": number(values[i, j])
                    for j, sigma in enumerate(self.sigmas)
                    for what, values, number in (
                        ("count", self.counts, int),
                        ("lower", self.lower, float),
                        ("upper", self.upper, float),
                    )
                },
            }
            for i in range(len(self.prediction))
        ]

    def __str__(self) -> str:
        held = ~self.abstained
        median = f", median radius {self.radius[held].median():.4g} in {name_of(self.norm)}" if held.any() else ""
        return (
            f"{int(held.sum())} of {len(held)} samples certified{median}; each statement fails with a probability of "
            f"at most {self.failure:g}, {self.draws} draws a sample of {self.noise} noise {self.sigmas}"
        )
