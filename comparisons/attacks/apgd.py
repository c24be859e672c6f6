"""Auto-PGD, which chooses its steps by itself."""

import math

from torch import Tensor, nn

from linf_plugin import extras
from linf_plugin.arguments import check_count

from .toolbox import search


class _Doubled(nn.Module):
    """Twice the outputs of a net.  ART refuses outputs that look like probabilities, and these do not."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.net(x)


class _OfHalves(nn.CrossEntropyLoss):
    """The cross-entropy of half the logits, so that of the net's own ones."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return super().forward(logits / 2, labels)


def apgd(
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
    norm: float = math.inf,
) -> Tensor:
    """Climbs the cross-entropy with momentum, and halves the step, 2ε at first, where the loss no longer grows.

    Croce and Hein, arXiv 2003.01690.

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
    check_count("steps", steps)
    check_count("restarts", restarts)
    with extras.named():
        from art.attacks.evasion import AutoProjectedGradientDescent

    def attack(classifier):
        return AutoProjectedGradientDescent(
            classifier,
            norm=norm,
            eps=eps,
            eps_step=2 * eps,
            max_iter=steps,
            nb_random_init=1,
            batch_size=batch_size,
            loss_type=None,
            verbose=False,
        )

    doubled = _Doubled(model if climbed is None else climbed)
    options = {"tries": restarts, "seed": seed, "batch_size": batch_size, "norm": norm}
    return search(model, x, labels, eps, attack, climbed=doubled, loss=_OfHalves(), **options)
