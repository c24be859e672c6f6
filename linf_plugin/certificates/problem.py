"""The question that certificates answer: a net, samples, and a ball around each sample."""

import copy
import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..arguments import (
    check_count,
    check_labels,
    check_logits,
    check_model,
    check_pixels,
    check_samples,
    check_weights,
    unwrapped,
)
from ..float32.reach import check_program, is_sequence
from ..norms import Ball

T = TypeVar("T")
BATCH = 256  # how many samples are classified at a time


class Problem:
    """One request.  Its arguments are checked here, and what several certificates need is made once.

    Attributes:
        model, x, labels: as given; labels are int64.  Of ``nn.DataParallel`` the net inside.
        ball: the ball around each sample.
        sound: True for the float32 program with its rounding, False for the exact function of the weights.
        exact: the model in float64: a copy of it, or the graph of its program.
        classes: the number of logits; 2 if there is no sample to find it from.

    Args:
        before: another problem of the same request, about other samples of the model.  Both share ``of_net``, if the
            nets are sequences of layers with rules, and no weight has changed since.

    Raises:
        TypeError, ValueError, RuntimeError: as ``margin_bound`` says.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, labels: Tensor, ball: Ball, sound: bool, before: "Problem | None" = None
    ):
        check_model(model)
        model = unwrapped(model)
        check_samples(x, model)
        check_pixels(x, ball.low, ball.high)
        program = check_program(model, x) if sound else None
        check_weights(model)
        self.model, self.x, self.ball, self.sound = model, x, ball, sound
        self.exact = copy.deepcopy(model).double().requires_grad_(False) if program is None else program
        # Copies go into a net: its first layer may work in place, and the ball is around x as it was given.
        self.classes = check_logits(self._of_one_sample(x), 1) if len(x) else 2
        self.labels = check_labels(labels, x, self.classes)
        self._made: dict[Callable, object] = {}
        shared = before is not None and _same(self.exact, before.exact)
        self._of_net: dict[Callable, object] = before._of_net if shared else {}

    def _of_one_sample(self, x: Tensor) -> Tensor:
        """Returns the logits of the first sample in float64.  Raises TypeError if the model mixes it with float32."""
        try:
            return self.exact(x[:1].to(torch.float64, copy=True))
        except RuntimeError as error:
            if "dtype" not in str(error):
                raise
            raise TypeError(
                f"model cannot run in float64, in which its certificates are computed: {error}. Does its forward make "
                "float32 tensors? Make them like others, as by x.new_zeros"
            ) from error

    def at(self, ball: Ball) -> "Problem":
        """Returns the same problem with another ball.  Both share all that is made once, and the logits."""
        _ = self.correct  # computed before the copy, so that both have it
        other = copy.copy(self)
        other.ball = ball
        return other

    def once(self, make: Callable[["Problem"], T]) -> T:
        """Returns ``make(problem)``.  It is made once and kept, so that certificates of one family share it.

        Problems that differ only in their ball share it too, so ``make`` may not use the ball.
        """
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    def of_net(self, make: Callable[[nn.Module], T]) -> T:
        """Returns ``make(exact)``, which depends on the net only.  It is made once, also for problems that share it."""
        if make not in self._of_net:
            self._of_net[make] = make(self.exact)
        return self._of_net[make]

    @functools.cached_property
    def logits(self) -> Tensor:
        """(N, classes), the logits of the model itself."""
        parts = [self.model(part.clone()) for part in self.x.split(BATCH)] if len(self.x) else []
        return torch.cat([self.x.new_zeros(0, self.classes), *parts])

    @functools.cached_property
    def correct(self) -> Tensor:
        """(N,) bool, the samples that the model classifies correctly."""
        return self.logits.argmax(1) == self.labels


def _same(net: nn.Module, other: nn.Module) -> bool:
    """Returns whether two nets are the same sequences of layers with rules, with the same numbers in their states.

    What such a layer computes depends on its type, on what ``repr`` shows, and on its state.
    """
    if net is other:
        return True
    if not (is_sequence(net) and is_sequence(other)) or repr(net) != repr(other):
        return False
    ours, theirs = net.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(
        a.dtype == theirs[key].dtype and a.device == theirs[key].device and torch.equal(a, theirs[key])
        for key, a in ours.items()
    )


def check_batch_size(batch_size: int | None) -> int | None:
    """Returns it as an int, or None.  Raises TypeError or ValueError if it is no count."""
    if batch_size is None:
        return None
    check_count("batch_size", batch_size)
    return int(batch_size)
