"""Projected gradient descent (PGD) on the cross-entropy."""

import math

from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import check_count

from .toolbox import search


def pgd(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 2,
    seed: int = 0,
    batch_size: int = 512,
    climbed: nn.Module | None = None,
    norm: float = math.inf,
) -> Tensor:
    """Climbs the cross-entropy from random starts, with step ε/4, inside the pixel range.

    Madry et al., arXiv 1706.06083.

    Args:
        model, x, labels, eps, seed, batch_size: as ``toolbox.search``.
        steps: number of gradient steps from each start.
        restarts: number of random starts.
        climbed: the net whose gradients are followed; by default the model.
        norm: exponent of the norm of the ball, ``math.inf`` or 2.

    Returns:
        (N, *): points that the model misclassifies, and x where none was found.

    Raises:
        TypeError, ValueError: a number is not as described; the message names it.
    """
    check_count("restarts", restarts)
    options = {"tries": restarts, "seed": seed, "batch_size": batch_size, "climbed": climbed, "norm": norm}
    return climb(model, x, labels, eps, steps=steps, loss=nn.CrossEntropyLoss(), **options)


def climb(
    model: nn.Module, x: Tensor, labels: Tensor, eps: float, *, steps: int, batch_size: int, norm: float, **options
) -> Tensor:
    """Runs PGD of ART.  options: as ``toolbox.search``, such as the loss."""
    check_count("steps", steps)
    with extras.named():
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

    def attack(classifier):
        return ProjectedGradientDescentPyTorch(
            classifier,
            norm=norm,
            eps=eps,
            eps_step=eps / 4,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )

    return search(model, x, labels, eps, attack, batch_size=batch_size, norm=norm, **options)
