"""What a complete verifier says about a sample, and about all samples that it was asked about."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from linf_plugin.norms import Ball

VERIFIED, FALSIFIED, UNKNOWN = STATUSES = ("verified", "falsified", "unknown")

REASONS = {  # why a verdict is unknown → in words
    "time": "the time limit",
    "memory": "the memory limit",
    "crash": "the verifier failed",
    "unconfirmed": "float32 does not confirm the point",
    "undecided": "the verifier gave up",
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """What a verifier says about one sample.

    Attributes:
        status: "verified": the verifier excludes that another class reaches the label's logit in the ball; its row in
            ``COMPLETE`` says what this proves.  "falsified": the model itself, in float32, classifies ``point``
            otherwise.  "unknown": neither.
        seconds: the time that it took.
        reason: of "unknown", a key of ``REASONS``; otherwise empty.
        detail: more about the reason, in one line; it may be empty.
        point: of "falsified", (*) float32: an input in the ball and in the range; otherwise None.
    """

    status: str
    seconds: float
    reason: str = ""
    detail: str = ""
    point: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Verification:
    """The result of ``verify``.

    Attributes:
        ball: the ball around each sample.
        names: the verifiers in the order in which they were asked.
        samples: the number of samples; rows are numbered from 0.
        time_limit: seconds for each question.
        verdicts: verifier → row → verdict.  Each verifier was asked about the rows that those before it left unknown.
        refused: verifier → why it does not take the model.
    """

    ball: Ball
    names: tuple[str, ...]
    samples: int
    time_limit: float
    verdicts: dict[str, dict[int, Verdict]]
    refused: dict[str, str]

    @property
    def last(self) -> dict[int, Verdict]:
        """Row → the last verdict on it: the one that decides, if any does."""
        return {row: verdict for name in self.names for row, verdict in self.verdicts[name].items()}

    @property
    def verified(self) -> Tensor:
        """(N,) bool, the samples that a verifier verified."""
        return self._where(VERIFIED)

    @property
    def falsified(self) -> Tensor:
        """(N,) bool, the samples that a verifier falsified; their points are in ``last``."""
        return self._where(FALSIFIED)

    @property
    def unknown(self) -> Tensor:
        """(N,) bool, the samples that were asked about and that no verifier decided."""
        return self._where(UNKNOWN)

    def contradictions(self, certified: Tensor) -> list[int]:
        """Returns the rows that were falsified although a theorem certifies them.

        Args:
            certified: (N,) bool, certified by theorems about the float32 program, for the same balls.
        """
        return (self.falsified & certified.cpu()).nonzero().squeeze(1).tolist()

    def summary(self) -> str:
        """Returns a short text with a line for each verifier."""
        lines = [f"ε = {self.ball.eps:g}, {self.time_limit:g} s for each question"]
        lines.append(f"{'verifier':10} {'asked':>6} {'verified':>9} {'falsified':>10} {'unknown':>8} {'seconds':>9}")
        for name in self.names:
            if name in self.refused:
                lines.append(f"{name:10} {self.refused[name]}")
                continue
            found = self.verdicts[name].values()
            counts = Counter(verdict.status for verdict in found)
            seconds = sum(verdict.seconds for verdict in found)
            cells = f"{counts[VERIFIED]:9} {counts[FALSIFIED]:10} {counts[UNKNOWN]:8} {seconds:9.2f}"
            lines.append(f"{name:10} {len(found):6} {cells}  {why_unknown(v.reason for v in found)}".rstrip())
        return "\n".join(lines)

    def _where(self, status: str) -> Tensor:
        found = torch.zeros(self.samples, dtype=torch.bool)
        found[[row for row, verdict in self.last.items() if verdict.status == status]] = True
        return found


def why_unknown(reasons: Iterable[str]) -> str:
    """Returns reasons in words with their counts, such as "the time limit: 3"; empty reasons are left out."""
    counts = Counter(reason for reason in reasons if reason)
    return ", ".join(f"{REASONS.get(reason, reason)}: {n}" for reason, n in counts.items())
