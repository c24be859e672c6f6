"""The Square attack, which needs no gradient."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import check_count

from .toolbox import Form, search

# norm → the smallest side of the images that ART takes: in ℓ∞ its first square must be smaller than the image; in ℓ2
# the image begins with 5 × 5 tiles, and a tile must have two rows
LEAST_SIDE = {math.inf: 5, 2.0: 10}
FIRST_PART = {math.inf: 0.8, 2.0: 0.1}  # norm → the part of the image that the first squares cover


def square(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    eps: float,
    *,
    queries: int = 200,
    restarts: int = 1,
    seed: int = 0,
    batch_size: int = 512,
    norm: float = math.inf,
) -> Tensor:
    """Moves random squares of pixels, in ℓ∞ by ±ε, and keeps each move that lowers the margin.

    Andriushchenko et al., arXiv 1912.00049.  The attack takes square images.  So other images get pixels at the right
    and at the bottom that the model does not see, and the numbers of a row fill an image line by line.  In ℓ2 the
    attack moves these pixels too, and is weak where they are many.

    Args:
        model, x, labels, eps, seed, batch_size: as ``toolbox.search``.
        queries: number of squares; each asks the model three times.
        restarts: number of random starts.
        norm: exponent of the norm of the ball, ``math.inf`` or 2.

    Returns:
        (N, *): points that the model misclassifies, and x where none was found.

    Raises:
        TypeError, ValueError: a number is not as described; the message names it.
    """
    check_count("queries", queries)
    check_count("restarts", restarts)
    with extras.named():
        from art.attacks.evasion import SquareAttack

    def attack(classifier):
        return SquareAttack(
            classifier,
            norm=norm,
            eps=eps,
            max_iter=queries,
            p_init=FIRST_PART[norm],
            nb_restarts=1,
            batch_size=batch_size,
            verbose=False,
        )

    form = _as_squares(tuple(x.shape[1:]), LEAST_SIDE[norm])
    options = {"tries": restarts, "seed": seed, "batch_size": batch_size, "form": form, "norm": norm}
    return search(model, x, labels, eps, attack, loss=nn.CrossEntropyLoss(), **options)


def _as_squares(shape: tuple[int, ...], least: int) -> Form:
    """Returns the form (C, side, side), side ≥ least, of samples of any shape: images, rows of numbers and others."""
    channels, height, width = shape if len(shape) == 3 else (1, 1, math.prod(shape))
    if len(shape) == 3:
        side = max(least, height, width)
        room = (0, side - width, 0, side - height)
        return Form((channels, side, side), lambda x: F.pad(x, room), lambda x: x[:, :, :height, :width])
    side = max(least, math.isqrt(width - 1) + 1)
    room = (0, side * side - width)
    return Form(
        (1, side, side),
        lambda x: F.pad(x.flatten(1), room).unflatten(1, (1, side, side)),
        lambda x: x.flatten(1)[:, :width].unflatten(1, shape),
    )
