"""What is known of each sample of a given net at one ε, and sentences about it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..certificates import failure_of
from ..results.schema import Step, VerificationResult
from .per_sample import PerSample

MOST_SHOWN = 10  # numbers of samples in a message


@dataclass(frozen=True)
class Verdicts:
    """What is known of N samples at one ε.

    correct: (N,) bool, classified correctly.  by: (N,) int64, the index in ``steps`` of the certificate that certified
    the sample; −1 if none did.  survives: (N,) bool, still correct under the attacks; None without an attack.
    """

    correct: Tensor
    by: Tensor
    survives: Tensor | None
    steps: tuple[Step, ...]

    @property
    def certified(self) -> Tensor:
        return self.by >= 0

    @property
    def undecided(self) -> Tensor:
        """(N,) bool: neither misclassified nor certified, and no attack broke the sample."""
        left = self.correct & ~self.certified
        return left if self.survives is None else left & self.survives

    def proved(self) -> Tensor:
        """Returns (N,) bool: the samples that a theorem certifies."""
        theorems = torch.tensor([failure_of(step.method) == 0 for step in self.steps] + [False])
        return theorems[self.by]  # −1 is the last entry

    def summary(self, eps: float) -> str:
        """Returns a sentence with the number of samples of each verdict."""
        counts = {
            "classified correctly": self.correct,
            "certified": self.certified,
            **({} if self.survives is None else {"broken by the attack": self.correct & ~self.survives}),
            "undecided": self.undecided,
        }
        text = ", ".join(f"{int(some.sum())} {words}" for words, some in counts.items())
        return f"ε = {eps:g}: of {len(self.correct)} samples {text}"


def verdicts_at(found: PerSample, eps: float, attacked: bool) -> Verdicts:
    """Returns the verdicts at one ε of samples that were measured by a cascade.

    The step of a certificate counts, besides the samples that it bounded at this ε, those that it had certified at a
    larger one.

    Args:
        attacked: whether there was an attack.
    """
    by = torch.full_like(found.labels, -1)
    for i, name in enumerate(found.proved):
        by[(by < 0) & found.certified(name, eps)] = i
    steps = []
    for i, (name, radii) in enumerate(found.proved.items()):
        tried, seconds = found.tried[eps][name]
        steps.append(Step(name, tried + int(((by == i) & (radii > eps)).sum()), int((by == i).sum()), seconds))
    return Verdicts(found.correct, by, found.survives(eps) if attacked else None, tuple(steps))


def said(found: VerificationResult) -> list[str]:
    """Returns a sentence for each complete verifier, with the samples that it decided, and one of contradictions."""
    lines = []
    for name, each in found.verifiers.items():
        kinds = {"verified": each.verified, "falsified": each.falsified}
        words = [f"{len(rows)} {word}" + f" ({shown(rows)})" * bool(rows) for word, rows in kinds.items()]
        counts = f"of {each.asked} samples {', '.join(words)}, {each.undecided} unknown"
        lines.append(f"ε = {found.eps:g}, {name}: {counts if each.refused is None else each.refused}")
    if rows := found.contradictions:
        lines.append(f"ε = {found.eps:g}: {len(rows)} are certified and falsified: {shown(rows)}")
    return lines


def shown(rows: Sequence[int]) -> str:
    """Returns the numbers of some samples, the first of them if they are many."""
    return ", ".join(map(str, rows[:MOST_SHOWN])) + ", …" * (len(rows) > MOST_SHOWN)
