"""What is known of each sample at one ε: measured by a cascade of certificates and an attack, part by part."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linf_plugin.certificates import certify

from ..certificates import failure_of
from ..methods.parts import ATTACKING
from ..results.schema import Step, VerificationResult
from ..verifiers.request import Request

MOST_SHOWN = 10  # numbers of samples in a message


@dataclass(frozen=True)
class Asked:
    """What is measured of a given net.

    eps_values: the headline first.  norm: exponent.  methods: certificates; empty for the usual ones.  sound: whether
    they cover rounding.  attack: table {"name": …, arguments…}, or None.  batch_size: as ``certify`` takes it.  verify:
    what complete verifiers are asked at the headline ε, or None; its samples are those that are measured.
    """

    eps_values: tuple[float, ...]
    norm: float
    methods: tuple[str, ...]
    sound: bool
    attack: dict | None
    seed: int
    batch_size: int | None = None
    verify: Request | None = None


@dataclass(frozen=True)
class Verdicts:
    """What is known of N samples at one ε.

    correct: (N,) bool, classified correctly.  by: (N,) int64, the index in ``steps`` of the certificate that certified
    the sample; −1 if none did.  survives: (N,) bool, still correct under the attack; None without an attack.
    """

    correct: Tensor
    by: Tensor
    survives: Tensor | None
    steps: tuple[Step, ...]
    attack_seconds: float

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
        return theorems.to(self.by.device)[self.by]  # −1 is the last entry

    def contradicted(self) -> Tensor:
        """Returns (N,) bool: a theorem certifies the sample, and the attack broke it."""
        return self.proved() & ~self.survives if self.survives is not None else torch.zeros_like(self.correct)

    def broken(self) -> dict[str, int]:
        """Returns, for each certificate that may fail, how many of its samples the attack broke."""
        if self.survives is None:
            return {}
        may_fail = {i: step.method for i, step in enumerate(self.steps) if failure_of(step.method) > 0}
        return {name: int(((self.by == i) & ~self.survives).sum()) for i, name in may_fail.items()}

    def summary(self, eps: float) -> str:
        """Returns a sentence with the number of samples of each verdict, and one that names contradicted samples."""
        counts = {
            "classified correctly": self.correct,
            "certified": self.certified,
            **({} if self.survives is None else {"broken by the attack": self.correct & ~self.survives}),
            "undecided": self.undecided,
        }
        text = ", ".join(f"{int(some.sum())} {words}" for words, some in counts.items())
        rows = self.contradicted().nonzero().squeeze(1).tolist()
        wrong = f"; {len(rows)} are certified and broken: {shown(rows)}" if rows else ""
        return f"ε = {eps:g}: of {len(self.correct)} samples {text}{wrong}"

    def plain(self) -> dict:
        """Returns tensors and plain data, for a checkpoint; ``from_plain`` reads them."""
        return {**vars(self), "steps": [vars(step) for step in self.steps]}


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


def from_plain(content: dict) -> Verdicts:
    return Verdicts(**content | {"steps": tuple(Step(**step) for step in content["steps"])})


def joined(parts: list[Verdicts]) -> Verdicts:
    """Returns the verdicts on all samples of these parts, which were measured by the same certificates."""
    steps = tuple(
        Step(some[0].method, sum(s.tried for s in some), sum(s.certified for s in some), sum(s.seconds for s in some))
        for some in zip(*(part.steps for part in parts))
    )
    return Verdicts(
        torch.cat([part.correct for part in parts]),
        torch.cat([part.by for part in parts]),
        None if parts[0].survives is None else torch.cat([part.survives for part in parts]),
        steps,
        sum(part.attack_seconds for part in parts),
    )


def verdicts(model: nn.Module, x: Tensor, y: Tensor, eps: float, asked: Asked, *, progress: bool) -> Verdicts:
    """Certifies samples by a cascade, and attacks them.

    The attack also runs on certified samples: a certificate that it breaks is wrong.

    Raises:
        TypeError, ValueError, RuntimeError: as ``certify``.
    """
    how = {"norm": asked.norm, "batch_size": asked.batch_size, "progress": progress, "sound": asked.sound}
    try:
        found = certify(model, x, y, eps, asked.methods, **how)
    except (LookupError, AttributeError, AssertionError, NotImplementedError) as error:
        if asked.sound:
            raise
        # Without a bound of the rounding, auto_LiRPA gets operators about which it may raise anything.
        names = ", ".join(asked.methods)
        raise ValueError(f"{names} cannot bound this net: {type(error).__name__}: {error}") from error
    began, survives = time.perf_counter(), None
    if asked.attack is not None:
        survives = ATTACKING.resolve(asked.attack, model, x, y, eps, seed=asked.seed).cpu()
    seconds = time.perf_counter() - began
    steps = tuple(Step(name, *tally) for name, tally in zip(found.methods, found.tallies))
    return Verdicts(found.correct.cpu(), found.method.cpu(), survives, steps, seconds)
