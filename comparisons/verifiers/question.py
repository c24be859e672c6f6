"""A question to a verifier, and its answer: what the modules of ``COMPLETE`` have in common."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from linf_plugin.norms import Ball
from onnx_export.verifiers.child import Ended

from .points import float32_box
from .verdict import FALSIFIED, REASONS, UNKNOWN, VERIFIED


@dataclass(frozen=True)
class Asked:
    """A question about one sample: does a point of the ball have a logit that is at least the label's?

    Attributes:
        x: (1, *) float32, on the CPU.
        label: its class.
        ball: in ℓ∞.
        seconds: the time limit.
    """

    x: Tensor
    label: int
    ball: Ball
    seconds: float

    @property
    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the float32 inputs in the ball, flat float64 arrays."""
        low, high = float32_box(self.x.numpy(), self.ball)
        return low.astype(float).ravel(), high.astype(float).ravel()


@dataclass(frozen=True)
class Answer:
    """What a verifier answered, before the model confirms it.

    Attributes:
        status: "verified", "falsified" or "unknown".
        point: of "falsified", a flat float64 array.
        reason, detail: of "unknown", as in ``Verdict``.
    """

    status: str
    point: np.ndarray | None = None
    reason: str = ""
    detail: str = ""


SOLVER_WORDS = {  # of SAT solvers → status, reason
    "unsat": (VERIFIED, ""),
    "sat": (FALSIFIED, ""),
    "timeout": (UNKNOWN, "time"),
}


def answer_of(word: str, point: np.ndarray | None) -> Answer:
    """Returns the answer that a word of a solver means.  An unknown word means that it gave up."""
    status, reason = SOLVER_WORDS.get(word, (UNKNOWN, "undecided"))
    return Answer(status, point if status == FALSIFIED else None, reason, word if reason == "undecided" else "")


def refused(ended: Ended) -> TypeError:
    """Returns the error for a net that the program could not read."""
    if ended.reason == "crash":
        return TypeError(ended.detail)
    return TypeError(f"while it read the model it reached {REASONS[ended.reason]}")
