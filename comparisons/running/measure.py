"""Certifies and attacks samples, several processes together.  The order avoids work whose result is known.

1. Cheap certificates bound all samples that are classified correctly, certified or not.
2. Attacks try these samples from the smallest ε to the largest, each until it is broken.  The first attack tries
   certified samples too: a theorem that an attack contradicts is wrong.  The others try only a random part of those.
3. Expensive theorems leave out what an attack broke, except for a random part of it, which checks them as well.

Samples are dealt out to the processes in blocks of a fixed size.  The random starts of attacks depend on the seed and
the number of the block.  So every sample is attacked in the same way whatever the number of processes.  Bounds of a
sample depend on the other samples in its batch only by the rounding of float64.
"""

import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.certificates import Curve, certify_curve
from linf_plugin.certificates.margin import margin
from linf_plugin.certificates.problem import Problem
from linf_plugin.progress import bar, hidden
from linf_plugin.training.parallel import Ranks

from ..attacks.attacked import attack_all
from ..certificates import failure_of
from .asked import Asked
from .exchange import exchanged, failing_together
from .per_sample import NOTHING, PerSample, joined, unbroken

BLOCK = 256  # samples that are attacked together
AUDIT = 20  # one in so many: broken samples that expensive theorems bound, and certified ones that later attacks try
SHOWN = 24  # broken samples whose adversarial points are kept


def measure(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    asked: Asked,
    *,
    first: int = 0,
    cascade: bool = False,
    ranks: Ranks = Ranks(),
    description: str = "",
    progress: bool = False,
    before: Problem | None = None,
) -> PerSample:
    """Certifies and attacks samples.

    All processes call it with the same arguments.  Each measures its blocks, and all get the whole result.

    Args:
        model: in evaluation mode, on the device of x.
        x: (N, *) float32 in [0, 1].
        y: (N,) int64 labels.
        asked: what is measured.
        first: the number of the first sample in the test set.
        cascade: as for ``certify_curve``.
        ranks: the processes.
        description: stands before progress bars.
        progress: whether to show progress bars.
        before: as for ``certify_curve``.

    Raises:
        TypeError, ValueError, RuntimeError, ImportError: as ``certify_curve`` and ``attack_all``, on all processes.
    """
    work = _Work(model, x, y, asked, first, ranks, description, progress and ranks.main, before)
    with failing_together(ranks):
        with extras.named("compare"):
            mine = work.measured(cascade)
        parts = exchanged(ranks, mine)
    return joined(parts, parallel=True)


@dataclass
class _Work:
    """The part of the samples that this process measures.  ``rows``: their numbers among x."""

    model: nn.Module
    x: Tensor
    y: Tensor
    asked: Asked
    first: int
    ranks: Ranks
    description: str
    progress: bool
    before: Problem | None
    rows: Tensor = field(init=False)
    broken: Tensor = field(init=False)
    by: list[str] = field(init=False)
    points: Tensor = field(init=False)
    seconds: dict[str, float] = field(init=False)

    def __post_init__(self):
        blocks = torch.arange(len(self.x)).split(BLOCK) if len(self.x) else ()
        mine = [torch.arange(0), *blocks[self.ranks.rank :: self.ranks.world]]
        self.rows = torch.cat(mine)
        self.x, self.y = self.x[self.rows.to(self.x.device)], self.y[self.rows.to(self.x.device)]
        self.broken, self.by = unbroken(len(self.x)), [""] * len(self.x)
        self.points = self.x.cpu().clone()
        self.seconds = dict.fromkeys((table["name"] for table in self.asked.attacks), 0.0)

    def measured(self, cascade: bool) -> PerSample:
        prediction, margins = self._logits()
        correct, asked, attacked = prediction == self.y.cpu(), self.asked, []

        def broken(curve: Curve) -> Tensor:
            attacked.append(True)
            self._attack(correct, curve)
            return self._without_audited(correct)

        curve = certify_curve(
            self.model,
            self.x,
            self.y,
            asked.eps_values,
            asked.methods,
            norm=asked.norm,
            broken=broken,
            cascade=cascade,
            batch_size=asked.batch_size,
            progress=self.progress and not hidden(True),
            sound=asked.sound,
            before=self.before,
        )
        if not attacked:  # no certificate was expensive
            self._attack(correct, curve)
        proved = {name: torch.where(correct, radii.cpu(), NOTHING) for name, radii in curve.proved.items()}
        found = PerSample(
            sample=self.rows + self.first,
            labels=self.y.cpu(),
            prediction=prediction,
            margin=margins,
            proved=proved,
            bound={name: bound.cpu() for name, bound in curve.bound.items()},
            radius={name: torch.where(correct, radii.cpu(), 0.0) for name, radii in curve.radius.items()},
            broken=self.broken,
            by=self.by,
            points={},
            attack_seconds=self.seconds,
            tried={e: {name: (t.tried, t.seconds) for name, t in each.items()} for e, each in curve.tallies.items()},
        )
        headline = (correct & (self.broken <= asked.eps_values[0])).nonzero().squeeze(1)[:SHOWN].tolist()
        found.points.update({int(found.sample[i]): self.points[i] for i in (*headline, *found.contradicted())})
        return found

    @torch.no_grad()
    def _logits(self) -> tuple[Tensor, Tensor]:
        """Returns the predictions and the margins, block by block."""
        z = torch.cat([self.model(part.clone()) for part in self.x.split(BLOCK)]) if len(self.x) else None
        if z is None:
            return torch.zeros(0, dtype=torch.long), torch.zeros(0)
        return z.argmax(1).cpu(), margin(z, self.y).float().cpu()

    def _blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yields (the number of a block in the test set, its rows here)."""
        for at in torch.arange(len(self.x)).split(BLOCK) if len(self.x) else ():
            yield (self.first + int(self.rows[at[0]])) // BLOCK, at

    def _attack(self, correct: Tensor, curve: Curve) -> None:
        """Attacks samples, given what cheap certificates prove."""
        if not self.asked.attacks:
            return
        certified, first, later = self._proved(curve), self.asked.attacks[:1], self.asked.attacks[1:]
        audit = torch.tensor([_draw(self.asked.seed, self.first + int(row)) for row in self.rows], dtype=torch.bool)
        eps_values = sorted(self.asked.eps_values)
        todo = [(number, at, eps) for number, at in self._blocks() for eps in eps_values]
        shown = {"desc": f"{self.description} attack".strip(), "unit": "block", "leave": False}
        for number, at, eps in bar(todo, disable=hidden(self.progress), **shown):
            seed = (self.asked.seed + number) % 2**32
            self._try(first, at, eps, correct[at] & (self.broken[at] > eps), seed)
            doubtful = (certified[at] < eps) | audit[at]
            self._try(later, at, eps, correct[at] & (self.broken[at] > eps) & doubtful, seed)

    def _try(self, attacks: tuple[dict, ...], at: Tensor, eps: float, left: Tensor, seed: int) -> None:
        """Tries attacks on the samples of one block that are left."""
        if not attacks or not left.any():
            return
        began, where = time.perf_counter(), at.to(self.x.device)
        among = left.to(self.x.device)
        found = attack_all(self.model, self.x[where], self.y[where], eps, attacks, seed=seed, among=among)
        self._keep(at, eps, left, found)
        rest = time.perf_counter() - began - sum(found.seconds.values())
        for name, seconds in found.seconds.items():  # what all share is divided among them
            self.seconds[name] += seconds + rest / len(found.seconds)

    def _proved(self, curve: Curve) -> Tensor:
        """Returns (N,) float64: the largest ε that theorems have proved for each sample."""
        theorems = [radii.cpu() for name, radii in curve.proved.items() if failure_of(name) == 0]
        return torch.stack([torch.full((len(self.x),), NOTHING, dtype=torch.float64), *theorems]).amax(0)

    def _keep(self, at: Tensor, eps: float, left: Tensor, found) -> None:
        by = found.by.cpu()
        broken = left & (by >= 0)
        for i in broken.nonzero().squeeze(1).tolist():
            self.by[int(at[i])] = found.names[by[i]]
        self.broken[at[broken]] = eps
        self.points[at[broken]] = found.points.detach().cpu()[broken]

    def _without_audited(self, correct: Tensor) -> Tensor:
        """Returns where samples are broken, and ∞ for a random part of the broken samples of all processes."""
        mine = self.rows[correct & (self.broken < math.inf)]
        there = torch.cat(exchanged(self.ranks, mine)).sort().values
        order = torch.randperm(len(there), generator=torch.Generator().manual_seed(self.asked.seed))
        audited = there[order[: math.ceil(len(there) / AUDIT)]]
        return torch.where(torch.isin(self.rows, audited), math.inf, self.broken)


def _draw(seed: int, sample: int) -> bool:
    """Returns whether a sample is one of the ``AUDIT``-th part.  It depends on nothing else."""
    return random.Random(f"{seed} {sample}").random() < 1 / AUDIT
