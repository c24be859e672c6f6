"""The largest radius that each certificate proves of each sample, among several radii.  Nothing is bounded twice."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import kind
from ..inference import outside_inference
from ..norms import Ball, check_norm
from .cascade import _bar, _prepare
from .problem import Problem, check_batch_size
from .result import Tally
from .table import CHEAP, Certificate, contained

NONE = -1.0  # the radius where nothing is proved; a certificate may prove radius 0
Broken = Tensor | Callable[["Curve"], Tensor]


@dataclass(frozen=True, eq=False)
class Curve:
    """The result of ``certify_curve`` for N samples.

    Attributes:
        eps_values: the radii, from the largest to the smallest.
        correct: (N,) bool, the samples that the model classifies correctly.
        proved: name → (N,) float64, the largest of the radii that this certificate, or one that it contains, proved;
            −1 where it proved none.  Balls are nested, so it also proves every smaller radius.
        bound: name → (N,) float64, the lower bound of the margin by which this certificate itself proved its radius;
            −∞ where it proved none itself.
        radius: name → (N,) float64, for the certificates that compute a radius themselves: that radius, 0 for a
            misclassified sample.
        tallies: radius → name → how many samples the certificate bounded at this radius, how many of these it
            certified, and its seconds.
    """

    eps_values: tuple[float, ...]
    correct: Tensor
    proved: dict[str, Tensor]
    bound: dict[str, Tensor]
    radius: dict[str, Tensor]
    tallies: dict[float, dict[str, Tally]]

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each certificate over all radii, by its name."""
        return {name: sum(tallies[name].seconds for tallies in self.tallies.values()) for name in self.proved}


@outside_inference
@torch.no_grad()
def certify_curve(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps_values: Iterable[float],
    methods: Iterable[str] | None = None,
    *,
    norm: float | str = math.inf,
    broken: Broken | None = None,
    cascade: bool = False,
    low: float = 0.0,
    high: float = 1.0,
    batch_size: int | None = None,
    progress: bool = False,
    sound: bool = True,
    before: Problem | None = None,
) -> Curve:
    """Finds, for each certificate and each sample, the largest of several radii that the certificate proves.

    The radii are tried from the largest to the smallest.  A certificate is not tried on a sample

    - that it, or a certificate that it contains (``Certificate.contains``), proved at this or a larger radius;
    - that an attack broke at this or a smaller radius, if it is an expensive theorem (of a cost above ``CHEAP``).
      Cheap certificates bound broken samples too, so that an attack can contradict them.  So do certificates that may
      fail, because their failures are counted;
    - that is misclassified.

    All certificates and radii share one copy of the net in float64 and one traced net.  Certificates of one batch size
    bound the same batches in turn, and share the bounds of the rounding in them.

    Args:
        model, x, labels, methods, norm, low, high, batch_size, progress, sound: as for ``certify``.
        eps_values: the radii, in units of x.
        broken: (N,) floating point, the smallest radius at which an attack broke each sample, and ∞ where none did; or
            a function that takes the curve of the cheap certificates and returns this.  It is called once, after them.
        cascade: whether a sample that any certificate proved is not bounded again by another one.  Then each radius has
            the same "best" as without, with less work.
        before: a problem about other samples of the same model.  Its Lipschitz bounds are not computed again, if the
            weights are the same (``Problem``).

    Raises:
        ValueError, TypeError, RuntimeError: as ``certify``; eps_values is empty; broken is not as described.
    """
    norm = check_norm(norm)
    balls = _balls(eps_values, norm, low, high)
    problem, rows, correct = _prepare(model, x, labels, balls[0], methods, None, sound, before)
    size = check_batch_size(batch_size)
    work = _Work(problem, rows, correct, balls, cascade, size)
    cheap = [row for row in rows if row.cost <= CHEAP or row.failure > 0]
    with _bar(progress) as bar:
        work.radii(cheap)
        work.prove(cheap, None, bar)
        if len(cheap) < len(rows):
            if callable(broken):
                with torch.enable_grad():  # an attack follows gradients
                    broken = broken(work.curve())
            work.prove([row for row in rows if row not in cheap], _check_broken(broken, x), bar)
    return work.curve()


class _Work:
    """What is known so far."""

    def __init__(
        self,
        problem: Problem,
        rows: list[Certificate],
        correct: Tensor,
        balls: list[Ball],
        cascade: bool,
        size: int | None,
    ):
        self.problem, self.rows, self.correct, self.balls, self.size = problem, rows, correct, balls, size
        self.names = [row.name for row in rows]
        nothing = torch.full((len(correct),), NONE, dtype=torch.float64, device=correct.device)
        self.proved = {name: nothing.clone() for name in self.names}
        self.bound = {name: torch.full_like(nothing, -math.inf) for name in self.names}
        self.radius: dict[str, Tensor] = {}
        self.tallies = {ball.eps: dict.fromkeys(self.names, Tally(0, 0, 0.0)) for ball in balls}
        # name → the largest radius at which the sample needs no bound by this certificate
        self.settled = dict.fromkeys(self.names, nothing.clone()) if cascade else self.proved

    def curve(self) -> Curve:
        return Curve(
            tuple(ball.eps for ball in self.balls), self.correct, self.proved, self.bound, self.radius, self.tallies
        )

    def radii(self, rows: list[Certificate]) -> None:
        """Computes the radii of the certificates that know them."""
        some = self.correct.nonzero().squeeze(1)
        for row in rows:
            if row.radius is not None:
                began, first = time.perf_counter(), self.tallies[self.balls[0].eps]
                radius, of = torch.zeros_like(self.proved[row.name]), row.radius(self.problem)
                for part in some.split(self.size or row.batch_size):
                    radius[part] = of(self.problem.x[part], self.problem.labels[part]).double()
                self.radius[row.name] = radius
                first[row.name] = Tally(0, 0, time.perf_counter() - began)

    def prove(self, rows: list[Certificate], broken: Tensor | None, bar: Any) -> None:
        """Tries these certificates at all radii on the samples that are not broken there."""
        for ball in self.balls:
            problem = self.problem.at(ball)
            among = self.correct if broken is None else self.correct & (broken > ball.eps)
            for size, together in groupby(rows, lambda row: self.size or row.batch_size):
                self._prove_at(problem, list(together), among, size, bar)

    def _prove_at(self, problem: Problem, rows: list[Certificate], among: Tensor, size: int, bar: Any) -> None:
        eps, bounds = problem.ball.eps, {}
        asked = {row.name: self._open(row.name, among, eps) for row in rows}
        hopeful = {row.name: row.hopeful(problem, asked[row.name]) for row in rows}
        some = torch.stack(list(hopeful.values())).any(0).nonzero().squeeze(1)
        bar.set_description(f"{', '.join(hopeful)} ε={eps:g}", refresh=False)
        bar.reset(total=len(some))
        for part in some.split(size) if len(some) else ():
            for row in rows:
                mine = part[self._open(row.name, hopeful[row.name][part], eps, part)]
                if len(mine) == 0:
                    continue
                began = time.perf_counter()
                if row.name not in bounds:
                    bounds[row.name] = row.bound(problem)
                self._keep(row, eps, mine, bounds[row.name](problem.x[mine], problem.labels[mine]), began)
            bar.update(len(part))
        for name in asked.keys() & self.radius.keys():
            self._agree(name, asked[name], eps)

    def _open(self, name: str, among: Tensor, eps: float, part: Tensor | None = None) -> Tensor:
        settled = self.settled[name] if part is None else self.settled[name][part]
        return among & (settled < eps)

    def _keep(self, row: Certificate, eps: float, tried: Tensor, found: Tensor, began: float) -> None:
        by, bounds = tried[found > 0], found[found > 0]
        for name in self.names:
            if name == row.name or row.name in contained(name):
                self.proved[name][by] = self.proved[name][by].clamp_min(eps)
        if self.settled is not self.proved:
            self.settled[row.name][by] = eps  # one tensor for all names
        self.bound[row.name][by] = bounds
        before = self.tallies[eps][row.name]
        seconds = before.seconds + time.perf_counter() - began
        self.tallies[eps][row.name] = Tally(before.tried + len(tried), before.certified + len(by), seconds)

    def _agree(self, name: str, asked: Tensor, eps: float) -> None:
        """Makes a computed radius reach this ε exactly where the bound at ε proves it: both may differ by rounding."""
        radius, below = self.radius[name], math.nextafter(eps, 0.0)
        radius = torch.where(asked & self._open(name, asked, eps), radius.clamp_max(below), radius)
        self.radius[name] = torch.where(asked & (self.proved[name] >= eps), radius.clamp_min(eps), radius)


# Checks of arguments.


def _balls(eps_values: Iterable[float], norm: float, low: float, high: float) -> list[Ball]:
    """Returns a ball for each radius, the largest first, each once."""
    if isinstance(eps_values, str) or not isinstance(eps_values, Iterable):
        raise TypeError(f"eps_values must be radii, got {eps_values!r}")
    balls = {ball.eps: ball for ball in (Ball(eps, norm, low, high) for eps in eps_values)}
    if not balls:
        raise ValueError("eps_values must have at least one radius")
    return [balls[eps] for eps in sorted(balls, reverse=True)]


def _check_broken(broken: Tensor | None, x: Tensor) -> Tensor | None:
    if broken is None:
        return None
    if not isinstance(broken, Tensor) or not broken.is_floating_point():
        raise TypeError(f"broken must be a floating-point tensor, got {kind(broken)}")
    if broken.shape != x.shape[:1]:
        raise ValueError(f"broken must have shape ({len(x)},), got {tuple(broken.shape)}")
    return broken.to(x.device, torch.float64)
