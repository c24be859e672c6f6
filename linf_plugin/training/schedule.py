"""Schedules: how p, ε and the learning rate change with time.  A schedule is data; ``at`` reads it at any epoch."""

import math
from dataclasses import dataclass, fields, replace

from ..arguments import check_count, check_number
from ..norms import as_radius


@dataclass(frozen=True)
class Step:
    """The settings of one training iteration.

    p: exponent of the distance layers.  eps: ε, in the pixel range.  progress: progress of the p schedule, from 0 to 1.
    lr_factor: factor for each group's initial learning rate.
    """

    epoch: float
    p: float
    eps: float
    progress: float
    lr_factor: float


@dataclass(frozen=True)
class Schedule:
    """The course of p, ε and the learning rate.  Times are in epochs, and ε is in the pixel range.

    p rises geometrically from p_first to p_last between epochs p_start and p_end, and is ∞ from then on.  With ``snap``
    it takes only the exponents of ``snapped``, which are cheaper and train equally well (docs/results/snap).

    ε rises from 0 to ``eps`` between eps_start and eps_end.  With ``eps_smooth`` = R > 0 the first part R of the rise
    is quartic, so that it starts slowly; the rest is linear.

    The learning rate falls as a cosine from lr_start to the end.  If ``lr_drops`` are given, it is instead multiplied
    by ``lr_drop_factor`` at each of these epochs.  If weights are averaged, the average begins at epoch average_start.

    Zhang et al. (arXiv 2102.05363), section 4, and (arXiv 2110.06850), appendix.

    Raises:
        TypeError: a value is not a number, or epochs is not an integer.
        ValueError: a value is not finite, epochs is below 1, ε lies outside [0, 1], a range ends before it starts, R
            is not in [0, 1), or average_start is not in [0, epochs).
    """

    epochs: int
    eps: float
    p_first: float = 8.0
    p_last: float = 1000.0
    p_start: float = 0.0
    p_end: float = 0.0
    snap: bool = True
    eps_start: float = 0.0
    eps_end: float = 0.0
    eps_smooth: float = 0.0
    lr_start: float = 0.0
    lr_drops: tuple[float, ...] = ()
    lr_drop_factor: float = 0.1
    average_start: float = 0.0

    def __post_init__(self):
        check_count("epochs", self.epochs)
        if isinstance(self.eps, str):
            object.__setattr__(self, "eps", as_radius(self.eps))
        for field in fields(self):
            if field.type is float:
                _check_finite(field.name, getattr(self, field.name))
        for drop in self.lr_drops:
            _check_finite("each of lr_drops", drop)
        if not 0 <= self.eps <= 1:
            raise ValueError(f"eps must lie in the pixel range [0, 1], got {self.eps}; 8 of 255 levels are 8/255")
        if not 1 <= self.p_first <= self.p_last:
            raise ValueError(f"p_first={self.p_first} and p_last={self.p_last} must satisfy 1 ≤ p_first ≤ p_last")
        if self.p_end < self.p_start:
            raise ValueError(f"p_end={self.p_end} lies before p_start={self.p_start}")
        if self.eps_end < self.eps_start:
            raise ValueError(f"eps_end={self.eps_end} lies before eps_start={self.eps_start}")
        if not 0 <= self.eps_smooth < 1:
            raise ValueError(f"eps_smooth must lie in [0, 1), got {self.eps_smooth}")
        if not 0 <= self.average_start < self.epochs:
            raise ValueError(f"average_start must lie in [0, epochs = {self.epochs}), got {self.average_start}")

    def scaled(self, epochs: int) -> "Schedule":
        """Returns the same course for another number of epochs.  All its times change in proportion."""
        if epochs == self.epochs:
            return self
        times = ("p_start", "p_end", "eps_start", "eps_end", "lr_start", "average_start")
        return replace(
            self,
            epochs=epochs,
            lr_drops=tuple(drop * epochs / self.epochs for drop in self.lr_drops),
            **{name: getattr(self, name) * epochs / self.epochs for name in times},
        )

    def at(self, epoch: float) -> Step:
        """Returns the settings at an epoch, which need not be a whole number."""
        progress = _ramp(epoch, self.p_start, self.p_end)
        return Step(epoch, self._p(progress), self._eps(epoch), progress, self._lr_factor(epoch))

    def _p(self, progress: float) -> float:
        if progress >= 1:
            return math.inf
        p = self.p_first * (self.p_last / self.p_first) ** progress
        return snapped(p) if self.snap else p

    def _eps(self, epoch: float) -> float:
        ratio, smooth = _ramp(epoch, self.eps_start, self.eps_end), self.eps_smooth
        if smooth == 0:
            return self.eps * ratio
        if ratio < smooth:
            return self.eps * ratio**4 / ((4 - 3 * smooth) * smooth**3)
        joint = smooth / (4 - 3 * smooth)  # where value and slope of the quartic meet the line
        return self.eps * (joint + (1 - joint) * (ratio - smooth) / (1 - smooth))

    def _lr_factor(self, epoch: float) -> float:
        if self.lr_drops:
            return self.lr_drop_factor ** sum(epoch >= drop for drop in self.lr_drops)
        return (1 + math.cos(math.pi * _ramp(epoch, self.lr_start, self.epochs))) / 2


def _check_finite(name: str, value) -> None:
    check_number(name, value)
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")


def snapped(p: float) -> float:
    """Returns the exponent whose ratio to p ≥ 1 is nearest to 1, among the whole numbers 2^k, 1.25·2^k and 1.5·2^k.

    These are 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, …  Their powers need few multiplications and no logarithm.
    """
    octave = 2.0 ** math.floor(math.log2(p))
    near = [octave * step for step in (1, 1.25, 1.5, 2) if octave * step == int(octave * step)]
    return min(near, key=lambda candidate: abs(math.log(candidate / p)))


def _ramp(epoch: float, start: float, end: float) -> float:
    """Returns 0 before start, 1 from end on, and linear values between them."""
    return min(1.0, max(0.0, (epoch - start) / (end - start))) if end > start else float(epoch >= start)
