"""One training iteration, and the random numbers that it draws."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..layers.base import set_p
from .parallel import Ranks
from .schedule import Schedule, Step

# The difference between the seeds of two ranks.  It exceeds the number of epochs of a run.  It lies in the lowest 32
# bits of a seed, because torch's generator for the CPU uses only these bits.
APART = 15_485_863


@contextlib.contextmanager
def seeded(number: int, rank: int = 0) -> Iterator[torch.Generator]:
    """Gives a generator for the order of samples and for augmentation; it is the same on every rank.

    While the context is open, torch's own generators, from which layers draw, are seeded too, with another number and
    differently on each rank.  Afterwards they have their former state again.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(-1 - number - rank * APART)
        yield torch.Generator().manual_seed(number)


@dataclass
class Iteration:
    """One step of training, done by a call.  The fields are as the arguments of ``fit``.

    lr: each group's initial learning rate.  averaged: follows the weights from the schedule's average_start on.
    """

    model: nn.Module
    loss: Callable
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    x: Tensor
    y: Tensor
    batch_size: int
    lr: list[float]
    augment: Callable | None = None
    after_backward: Callable | None = None
    averaged: AveragedModel | None = None
    ranks: Ranks = Ranks()

    @property
    def steps(self) -> int:
        """The number of steps of an epoch."""
        return math.ceil(len(self.x) / self.batch_size)

    def batches(self, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Returns the rows of each step of an epoch, on the device of x.  One transfer moves them all there."""
        return torch.randperm(len(self.x), generator=generator).to(self.x.device).split(self.batch_size)

    def __call__(self, step: Step, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Updates the weights once and returns the loss, a scalar tensor on the device.

        It does not wait for the device; reading the value does.  ``rows`` are the whole batch.  Each rank computes its
        part of it, and all ranks return the loss of the whole batch.
        """
        set_p(self.model, step.p)
        for group, lr in zip(self.optimizer.param_groups, self.lr):
            group["lr"] = lr * step.lr_factor
        batch = self.x[rows] if self.augment is None else self.augment(self.x[rows], generator)
        value = self.ranks.loss(self.loss, self.model, batch, self.y[rows], step)
        self.optimizer.zero_grad()
        value.backward()
        self.ranks.sum_gradients(p for group in self.optimizer.param_groups for p in group["params"])
        if self.after_backward is not None:
            self.after_backward(self.model, step, self.lr[0] * step.lr_factor)
        self.optimizer.step()
        if self.averaged is not None and step.epoch >= self.schedule.average_start:
            self.averaged.update_parameters(self.model)
        return self.ranks.sum(value)
