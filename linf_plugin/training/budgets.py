"""Fits a schedule to a time budget: measures how long its iterations take here, then chooses the number of epochs."""

import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .iteration import Iteration, seeded
from .schedule import Schedule

POINTS = 12  # points of the schedule at which iterations are timed, because the cost depends on p
MOST = 5  # iterations that are timed at each point
SHARE = 0.05  # part of the budget that timing may take, about: a slow net gets fewer iterations at each point
RESERVE = 0.05  # part of the budget that is kept in reserve
LEAST_EPOCHS = 5  # the least of a fitted schedule, unless it had fewer before: p must pass through its whole course


@dataclass(frozen=True)
class Fitted:
    """A schedule that fits a budget, the schedule before, the budget and the predicted time, both in seconds."""

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
    """Returns the seconds of a duration such as "90s", "20m", "1h30m" or "1h".

    Raises:
        ValueError: text is not such a duration, or is zero.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip())
    seconds = sum(int(n or 0) * unit for n, unit in zip(found.groups(), (3600, 60, 1))) if found else 0
    if not seconds:
        raise ValueError(f"{text!r} is not a duration such as 90s, 20m, 1h30m or 1h")
    return float(seconds)


def in_words(seconds: float) -> str:
    """Writes a duration as ``parse_duration`` reads it.  It is rounded up to seconds, and from ten minutes on to
    minutes."""
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
    """Returns the schedule of ``iterate``, scaled to the number of epochs for which the budget has time.

    It times iterations at points that are spread over the schedule, and then restores ``parts``.  With several ranks
    only the clock of the first one counts, and only the first one does the other actions.

    Args:
        parts: everything that ``iterate`` changes, by name, each with state_dict and load_state_dict.
        budget: seconds.
        seed: the seed for choosing samples.
        began: time.perf_counter() when the budget began.
        each_epoch: actions besides the iterations → how often each is done in an epoch.
        once: actions at the end → how often each is done.

    Raises:
        ValueError: the budget is too short for the least number of epochs; the message says how long these take.
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
    """Returns the mean over the schedule.  It spends about ``most`` seconds at each point."""
    iterate.model.train()
    rows, total = iterate.batches(generator)[0], 0.0
    for i in range(POINTS):
        step = iterate.schedule.at((i + 0.5) / POINTS * iterate.schedule.epochs)
        iterate(step, rows, generator)  # not timed: the first iteration may compile a kernel
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
    """Returns the seconds that an action takes the second time, because the first time it may import and compile."""
    action()
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
