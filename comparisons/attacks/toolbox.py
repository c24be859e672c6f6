"""Runs attacks of the Adversarial Robustness Toolbox (ART), and keeps of their points those that break a net."""

import contextlib
import math
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import check_count, check_seed

from .inside import inside
from .surrogates import copied


@dataclass(frozen=True)
class Form:
    """The form in which ART sees samples.

    shape: of one sample.  seen: (N, *) samples → (N, *shape).  back: the inverse of ``seen``.
    """

    shape: tuple[int, ...]
    seen: Callable[[Tensor], Tensor] = lambda x: x
    back: Callable[[Tensor], Tensor] = lambda x: x


class Climbed(nn.Module):
    """A net as ART needs it.

    It does not change its input, also if the first layer works in place.  Its output always depends on its input.  So
    a net without a gradient has the gradient 0.
    """

    def __init__(self, net: nn.Module, dtype: torch.dtype, form: Form):
        super().__init__()
        self.net, self.dtype, self.form = copied(net), dtype, form

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.form.back(x.to(self.dtype, copy=True))) + 0 * x.flatten(1).sum(1, keepdim=True)


def logits_of(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Returns (N, classes), of copies of x: a first layer that works in place would change it."""
    with torch.no_grad():
        return torch.cat([model(part.clone()) for part in x.split(batch_size)])


def predicted(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    """Returns the classes (N,) int64."""
    return logits_of(model, x, batch_size).argmax(1) if len(x) else x.new_zeros(0, dtype=torch.int64)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators of Python, NumPy and PyTorch, from which ART draws, begin at a seed."""
    state, of_python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which ART does not use
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(state)
        random.setstate(of_python)


def search(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    attack: Callable,
    *,
    norm: float = math.inf,
    climbed: nn.Module | None = None,
    loss: nn.Module,
    tries: int,
    seed: int,
    batch_size: int,
    form: Form | None = None,
    toward: Callable[[int, Tensor], Tensor] | None = None,
) -> Tensor:
    """Looks for points that the model misclassifies, by an attack of ART.

    Args:
        model: in evaluation mode.
        x: (N, *), in [0, 1].
        labels: (N,) int64.
        eps: radius.
        attack: (an ART classifier, which maps (N, *) to logits) → an attack of ART.
        norm: exponent of the norm of the ball, ``math.inf`` or 2.
        climbed: the net that ART sees, with the inputs and the classes of the model; by default the model.
        loss: what ART's gradients climb.
        tries: how often the attack runs, each time on samples for which no point has been found yet.
        seed: of ART's generators.
        batch_size: number of samples at a time.
        form: how ART sees the samples; by default as they are.
        toward: (number of the try, numbers of samples) → what the loss gets as the labels of these samples, (n,) int64
            or (n, classes) float; by default their labels.

    Returns:
        (N, *): points in the ball and in [0, 1] that the model misclassifies, and x where none was found.
    """
    check_seed(seed)
    check_count("batch_size", batch_size)
    points = x.clone()
    if len(x) == 0 or eps == 0:
        return points
    with extras.named():
        from art.estimators.classification import PyTorchClassifier

    form = form or Form(tuple(x.shape[1:]))
    standing = predicted(model, x, batch_size) == labels
    classes = logits_of(model, x[:1], 1).shape[1]
    # ART divides by lengths that may be 0; a point that is NaN becomes x.
    silent = np.errstate(divide="ignore", invalid="ignore")
    with torch.enable_grad(), warnings.catch_warnings(), silent, seeded(seed):
        # ART's arrays predate NumPy 2's copy keyword.
        warnings.filterwarnings("ignore", "__array__ implementation doesn't accept a copy", DeprecationWarning)
        classifier = PyTorchClassifier(
            Climbed(model if climbed is None else climbed, x.dtype, form),
            loss=loss,
            input_shape=form.shape,
            nb_classes=classes,
            clip_values=(0.0, 1.0),
            device_type="cpu" if x.device.type == "cpu" else "gpu",
        )
        for number in range(tries):
            rows = standing.nonzero().squeeze(1)
            if len(rows) == 0:
                break
            aims = labels[rows] if toward is None else toward(number, rows)
            found = attack(classifier).generate(form.seen(x[rows]).float().cpu().numpy(), aims.cpu().numpy())
            moved = inside(x[rows], form.back(torch.from_numpy(found).to(x.device)), eps, norm)
            broken = predicted(model, moved, batch_size) != labels[rows]
            points[rows[broken]] = moved[broken]
            standing[rows[broken]] = False
    return points
