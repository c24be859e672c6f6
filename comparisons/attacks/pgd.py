"""Projected gradient descent (PGD), with the cross-entropy or with the margin as its loss."""

import math

from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import check_count

from .toolbox import Margin, search


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
) -> Tensor:
    """Climbs the cross-entropy from random starts, with step ε/4, inside the pixel range.

    Madry et al., arXiv 1706.06083.

    Args:
        model, x, labels, eps, seed, batch_size: as ``toolbox.search``.
        steps: number of gradient steps from each start.
        restarts: number of random starts.
        climbed: the net whose gradients are followed; by default the model.

    Returns:
        (N, *): points that the model misclassifies, and x where none was found.

    Raises:
        TypeError, ValueError: a number is not as described; the message names it.
    """
    return _climb(model, x, labels, eps, nn.CrossEntropyLoss(), steps, restarts, seed, batch_size, climbed)


def pgd_margin(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 512,
    climbed: nn.Module | None = None,
) -> Tensor:
    """Does what ``pgd`` does, but climbs the margin max_{j ≠ y} z_j − z_y (Carlini and Wagner, arXiv 1608.04644).

    The margin has a gradient where the cross-entropy is so small that float32 rounds its gradient to 0.
    """
    return _climb(model, x, labels, eps, Margin(), steps, restarts, seed, batch_size, climbed)


def _climb(model, x, labels, eps, loss, steps, restarts, seed, batch_size, climbed) -> Tensor:
    check_count("steps", steps)
    check_count("restarts", restarts)
    with extras.named():
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

    def attack(classifier):
        return ProjectedGradientDescentPyTorch(
            classifier,
            norm=math.inf,
            eps=eps,
            eps_step=eps / 4,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch_size,
            verbose=False,
        )

    options = {"tries": restarts, "seed": seed, "batch_size": batch_size}
    return search(model, x, labels, eps, attack, climbed=climbed, loss=loss, **options)
