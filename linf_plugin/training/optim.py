"""Adam with the settings that distance nets need, and the weight decay that suits an ℓp distance."""

import math

import torch
from torch import nn

from ..arguments import check_model, check_not_negative
from ..layers.base import distance_layers


def adam(
    model: nn.Module,
    lr: float,
    loss: nn.Module | None = None,
    scalar_lr: float = 0.0,
    head_decay: float = 0.0,
    scalar_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-10,
    fused: bool = True,
) -> torch.optim.AdamW:
    """Returns Adam with an eps so small that the tiny gradients of a large p still move the weights.

    The weights of a linear head learn at lr/√fan_in.  This is as if they were N(0, 1) and were scaled in the forward
    pass.

    Args:
        model: the weights of ``nn.Linear`` learn at lr/√fan_in, all other parameters at lr.
        lr: initial learning rate.
        loss: a module whose parameters (a learned temperature) learn at ``scalar_lr``.
        scalar_lr: learning rate of the loss's parameters.
        head_decay: decoupled weight decay of the head's weights and biases.
        scalar_decay: decoupled weight decay of the loss's parameters.
        betas, eps: the parameters of Adam.
        fused: whether one kernel updates each group, instead of ten passes over its memory (docs/results/steps).

    Raises:
        TypeError, ValueError: model is not a module, or a rate or decay is negative or not finite.
    """
    check_model(model, evaluation=False)
    rates = {"lr": lr, "scalar_lr": scalar_lr, "head_decay": head_decay, "scalar_decay": scalar_decay, "eps": eps}
    for name, rate in rates.items():
        check_not_negative(name, rate)
    distances = [p for layer in distance_layers(model) for p in layer.parameters()]
    taken = {id(p) for p in distances}
    groups = [{"params": distances, "lr": lr, "weight_decay": 0.0}]
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            scale = 1 / math.sqrt(layer.in_features)
            groups.append({"params": [layer.weight], "lr": lr * scale, "weight_decay": head_decay / scale})
            taken.add(id(layer.weight))
            if layer.bias is not None:
                groups.append({"params": [layer.bias], "lr": lr, "weight_decay": head_decay})
                taken.add(id(layer.bias))
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups.append({"params": rest, "lr": lr, "weight_decay": 0.0})
    if loss is not None:
        groups.append({"params": list(loss.parameters()), "lr": scalar_lr, "weight_decay": scalar_decay})
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=betas, eps=eps, fused=fused)


@torch.no_grad()
def decay_distances(model: nn.Module, amount: float) -> None:
    """Updates w ← w − amount·(|w|/‖w‖_p)^{p−2}·w for each row w of every distance layer.

    Each entry of a bias counts as a row of one number.  The update follows the gradient of ‖w‖_p, scaled by the norm:
    p = 2 is plain decay, and at p = ∞ only the largest |w| of each row shrinks.  Zhang et al. (arXiv 2102.05363),
    appendix.
    """
    for layer in distance_layers(model):
        rows = layer.weight.view(len(layer.weight), -1)
        size = rows.abs()
        if layer.p == math.inf:
            share = torch.zeros_like(rows).scatter_(1, size.argmax(1, keepdim=True), 1.0)
        else:
            largest = size.amax(1, keepdim=True)
            largest = torch.where(largest == 0, 1, largest)
            norm = largest * ((size / largest) ** layer.p).sum(1, keepdim=True) ** (1 / layer.p)
            share = (size / torch.where(norm == 0, 1, norm)) ** (layer.p - 2)
        rows -= amount * torch.where(rows == 0, 0, share * rows)
        if layer.bias is not None:
            layer.bias -= amount * layer.bias
