"""Measures a model while it is trained, to choose one: on a part of the training set, by a cheap certificate."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from linf_plugin import Net, lipschitz_bound
from linf_plugin.certificates.cascade import margin_bound
from linf_plugin.certificates.margin import margin
from linf_plugin.certificates.pairs import of_labels, pair_bounds
from linf_plugin.layers.facts import TRAINED
from linf_plugin.training.boxes import propagate, worst_margins
from linf_plugin.training.losses import head_margins

BATCH = 512
HEAD = [nn.Linear, nn.Tanh, nn.Linear]


def validation(x: Tensor, y: Tensor, eps: float, norm: float = math.inf) -> Callable[[Net], dict[str, float]]:
    """Returns the function ``validate`` for ``linf_plugin.training.fit``.

    That function returns fractions in [0, 1]: {"certified": at eps, "clean": …}.  They choose a model, and are no
    certificate: they leave out the rounding of float32.  Its effect is far smaller than the luck in the choice of the
    best of many models.

    Args:
        x: (N, C, H, W) or (N, F), in [0, 1], of the training set but not trained on.
        y: (N,) labels.
        eps: radius in the pixel range.
        norm: exponent of its norm, ``math.inf`` or 2.
    """

    @torch.no_grad()
    def validate(model: Net) -> dict[str, float]:
        clean = torch.cat([model(part).argmax(1) for part in x.split(BATCH)]) == y
        worst = torch.cat([margins(model, *part, eps, norm) for part in zip(x.split(BATCH), y.split(BATCH))])
        return {"certified": (clean & (worst > 0)).double().mean().item(), "clean": clean.double().mean().item()}

    return validate


def margins(model: Net, x: Tensor, y: Tensor, eps: float, norm: float = math.inf) -> Tensor:
    """Returns (N,): lower bounds of the margins within eps in a norm, ``math.inf`` or 2.

    In ℓ2 they come from the Lipschitz bound.  In ℓ∞ they come from the Lipschitz bound for a net of distance layers,
    and from intervals of all layers for other nets.  A net with layers that are 1-Lipschitz in ℓ2 has the margins in
    the ℓ2 ball around the ℓ∞ ball.
    """
    if norm == 2:
        return _in_l2(model, x, y, eps)
    if not isinstance(model, Net):
        return margin_bound(model, x, y, eps, "ibp", batch_size=BATCH, sound=False)
    if any(isinstance(layer, TRAINED) for layer in model):
        return _in_l2(model, x, y, eps * math.sqrt(x[:1].numel()))
    features, head = model.split_head()
    if len(head) == 0 and not any(isinstance(layer, nn.ReLU) for layer in model):
        return margin(model(x), y) - 2 * lipschitz_bound(model, math.inf) * eps
    if len(head) == 0:  # clipped pixels
        return -worst_margins(model, x, y, eps)[1].scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    if [type(layer) for layer in head] == HEAD:  # auto_LiRPA would first make tables for the linear bounds of tanh
        _, low, high = propagate(features, x, eps)
        above = head_margins(head, (low + high) / 2, (high - low) / 2, y)
        return -above.scatter(1, y.unsqueeze(1), -torch.inf).amax(1)
    return margin_bound(model, x, y, eps, "ibp", batch_size=BATCH, sound=False)


def _in_l2(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    z, at = model(x).double(), y.long().unsqueeze(1)
    lost = of_labels(pair_bounds(model, 2), y) * eps
    return (z.gather(1, at) - z - lost).scatter(1, at, torch.inf).amin(1)
