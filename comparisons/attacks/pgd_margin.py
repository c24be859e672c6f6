"""Projected gradient descent (PGD) on margins, towards one class after the other."""

import math

import torch
from torch import Tensor, nn

from linf_plugin.arguments import check_count

from .pgd import climb
from .toolbox import logits_of


class _Margin(nn.modules.loss._Loss):
    """z_j − z_y of logits z, (N, classes), summed over samples.  ``aims`` is 1 at j, −1 at y, and 0 elsewhere."""

    def forward(self, logits: Tensor, aims: Tensor) -> Tensor:
        return (aims * logits).sum()


def pgd_margin(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 1,
    targets: int = 3,
    seed: int = 0,
    batch_size: int = 512,
    climbed: nn.Module | None = None,
    norm: float = math.inf,
) -> Tensor:
    """Climbs z_j − z_y towards one class j after the other, from random starts, with step ε/4.

    The classes j are those that have the largest logits at x.  Such a climb finds points that the cross-entropy misses:
    that goes towards all classes at once, and its gradient vanishes where z_y is far larger than the others.  Gowal et
    al., arXiv 1910.09338.

    Args:
        model, x, labels, eps, seed, batch_size: as ``toolbox.search``.
        steps: number of gradient steps from each start.
        restarts: number of random starts for each class j.
        targets: number of classes j.
        climbed: the net whose gradients are followed; by default the model.
        norm: exponent of the norm of the ball, ``math.inf`` or 2.

    Returns:
        (N, *): points that the model misclassifies, and x where none was found.

    Raises:
        TypeError, ValueError: a number is not as described; the message names it.
    """
    for name, value in {"restarts": restarts, "targets": targets, "batch_size": batch_size}.items():
        check_count(name, value)
    logits = logits_of(model, x, batch_size) if len(x) else x.new_zeros(0, 2)
    classes = logits.shape[1]
    ranks = logits.scatter(1, labels[:, None], -math.inf).argsort(1, descending=True)
    targets = min(targets, classes - 1)

    def toward(number: int, rows: Tensor) -> Tensor:
        aims = torch.zeros(len(rows), classes, device=x.device)
        aims.scatter_(1, ranks[rows, number % targets][:, None], 1.0)
        return aims.scatter_(1, labels[rows][:, None], -1.0)

    options = {"tries": restarts * targets, "seed": seed, "batch_size": batch_size, "climbed": climbed, "norm": norm}
    return climb(model, x, labels, eps, steps=steps, loss=_Margin(), toward=toward, **options)
