"""Fits a schedule to a time: how long its iterations take here is measured, then its epochs are chosen."""

import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .iteration import Iteration, seeded
from .schedule import Schedule

POINTS = 12  # of the schedule at which iterations are timed: what one costs depends on p
MOST = 5  # iterations timed at each
SHARE = 0.05  # of the budget that timing may take, about: a slow net gets fewer iterations a point
RESERVE = 0.05  # of the budget that is not planned for
LEAST_EPOCHS = 5  # of a fitted schedule, unless it had fewer to begin with: p has to pass through its course


@dataclass(frozen=True)
class Fitted:
    """A schedule for a budget, and how long it should take, in seconds."""

    schedule: Schedule
    before: Schedule
    budget: float
    predicted: float

    def __str__(self) -> str:
        return (
            f"{self.schedule.epochs} epochs (instead of {self.before.epochs}) fit into {in_words(self.budget)}; "
            f"predicted: {in_words(self.predicted)}"
        )


def parse_duration(text: str) -> float:
    """Seconds of "90s", "20m", "1h30m" or "1h".

    Raises:
        ValueError: text is no such duration, or zero.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1))) if found else 0
    if not seconds:
        raise ValueError(f"{text!r} is not a duration such as 90s, 20m, 1h30m or 1h")
    return float(seconds)


def in_words(seconds: float) -> str:
    """A duration as ``parse_duration`` reads it: seconds below ten minutes, else minutes, rounded up."""
    whole = -int(-seconds // 1) if seconds < 600 else -int(-seconds // 60) * 60
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return "".join(f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n) or "0s"


def fit_schedule(
    iterate: Iteration,
    parts: dict,
    budget: float,
    seed: int,
    *,
    began: float,
    each_epoch: dict[Callable, float],
    once: dict[Callable, float],
) -> Fitted:
    """The schedule of ``iterate``, scaled to the epochs that a budget has room for.

    Iterations are timed at points spread over the schedule; what they change of ``parts`` is put back.  Of several
    ranks it is the first one's clock that counts, and the first one alone that does the other actions.

    Args:
        parts: whatever ``iterate`` changes, by name, each with state_dict and load_state_dict.
        budget: seconds.
        seed: of the samples taken.
        began: time.perf_counter() when the budget began.
        each_epoch: what is done besides iterations, and how often an epoch.
        once: what is done at the end, and how often.

    Raises:
        ValueError: the budget has no room for a minimum of epochs; the message says what it would take.
    """
    schedule, ranks = iterate.schedule, iterate.ranks
    with _put_back(iterate, parts), seeded(seed, ranks.rank) as generator:
        iteration = _seconds_an_iteration(iterate, generator, SHARE * budget / POINTS)
    epoch = rest = 0.0
    if ranks.main:
        epoch = iterate.steps * iteration + sum(_seconds(action) * times for action, times in each_epoch.items())
        rest = sum(_seconds(action) * times for action, times in once.items())
    epoch, rest, spent = ranks.agree((epoch, rest, time.perf_counter() - began))
    epochs = int(((1 - RESERVE) * budget - spent - rest) / epoch)
    least = min(LEAST_EPOCHS, schedule.epochs)
    if epochs < least:
        needed = (least * epoch + spent + rest) / (1 - RESERVE)
        raise ValueError(
            f"a budget of {in_words(budget)} is too short: an epoch takes about {in_words(epoch)} here, and "
            f"{least} epochs are the least, which take {in_words(needed)}"
        )
    return Fitted(schedule.scaled(epochs), schedule, budget, spent + rest + epochs * epoch)


@contextlib.contextmanager
def _put_back(iterate: Iteration, parts: dict) -> Iterator[None]:
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    try:
        yield
    finally:
        for name, part in parts.items():
            part.load_state_dict(before[name])
        iterate.optimizer.zero_grad()


def _seconds_an_iteration(iterate: Iteration, generator: torch.Generator, most: float) -> float:
    """The mean over the schedule; about ``most`` seconds are spent at each point."""
    iterate.model.train()
    rows, total = iterate.batches(generator)[0], 0.0
    for i in range(POINTS):
        step = iterate.schedule.at((i + 0.5) / POINTS * iterate.schedule.epochs)
        iterate(step, rows, generator)  # the first one may compile a kernel
        _wait(iterate)
        taken = []
        while iterate.ranks.agree(not taken or (len(taken) < MOST and sum(taken) < most)):
            began = time.perf_counter()
            iterate(step, rows, generator)
            _wait(iterate)
            taken.append(time.perf_counter() - began)
        total += sum(taken) / len(taken)
    return total / POINTS


def _wait(iterate: Iteration) -> None:
    if iterate.x.device.type == "cuda":
        torch.cuda.synchronize(iterate.x.device)


def _seconds(action: Callable) -> float:
    """Of the second time: the first one may import and compile."""
    action()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
