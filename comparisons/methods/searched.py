"""Searches adversarial inputs while a net trains, by projected gradient descent (Madry et al., arXiv 1706.06083)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bounded import Box


def adversarial(model: nn.Module, labels: Tensor, box: Box, steps: int, size: float) -> Tensor:
    """Returns inputs in the box at which the cross-entropy is large: (N, *).

    It starts at a random point of the box, and takes ``steps`` steps along the sign of the gradient.  Each step moves
    an input by ``size`` times the half-width of its box.  The search runs in evaluation mode, so that it leaves the
    statistics of normalisations.  The mode of the model is restored.

    Args:
        model: maps (N, *) to logits.
        labels: (N,).
        box: lower and upper ends, (N, *) each.
        steps: number of gradient steps.
        size: length of a step, where 1 is half the width of the box.
    """
    low, high = box
    point, half = low + torch.rand_like(low) * (high - low), (high - low) / 2
    training = model.training
    model.eval()
    for _ in range(steps):
        point.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(point), labels, reduction="sum"), point)
        point = torch.clamp(point.detach() + size * half * gradient.sign(), low, high)
    model.train(training)
    return point.detach()
