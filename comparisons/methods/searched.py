"""Searches adversarial inputs while a net trains, by projected gradient descent (Madry et al., arXiv 1706.06083)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.inside import inside
from .bounded import Box

TINY = 1e-30  # keeps 0/0 away where a gradient vanishes


def box_around(x: Tensor, eps: float) -> Box:
    """Returns the ends of the ball of radius eps around x in the pixel range."""
    return (x - eps).clamp(0, 1), (x + eps).clamp(0, 1)


def adversarial_in_ball(
    model: nn.Module, x: Tensor, labels: Tensor, eps: float, steps: int, size: float, norm: float = math.inf
) -> Tensor:
    """Returns inputs in the ball of a norm, and in [0, 1], at which the cross-entropy is large: (N, *).

    No input leaves the ball by rounding, as ``inside`` says.  The search in ℓ∞ is ``adversarial``.  That in ℓ2 starts
    at a random point of the ball, takes steps of length size·eps along the gradient, and projects.  The mode of the
    model is restored.

    Args:
        model, labels, steps: as ``adversarial``.
        x: (N, *), in [0, 1].
        eps: the radius.
        size: length of a step, where 1 is the radius.
        norm: exponent of the norm, ``math.inf`` or 2.
    """
    if norm == math.inf:
        return inside(x, adversarial(model, labels, box_around(x, eps), steps, size), eps)
    moved = (x + _in_ball(torch.randn_like(x), eps, torch.rand(len(x), device=x.device))).clamp(0, 1)
    training = model.training
    model.eval()
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels, reduction="sum"), moved)
        step = moved.detach() + size * eps * _scaled(gradient, _lengths(gradient).clamp_min(TINY)) - x
        moved = (x + _scaled(step, (_lengths(step) / eps).clamp_min(1.0))).clamp(0, 1)
    model.train(training)
    return inside(x, moved.detach(), eps, norm)


def _in_ball(directions: Tensor, eps: float, u: Tensor) -> Tensor:
    """Returns points that are uniform in the ball of radius eps around 0, from normal vectors and uniform numbers."""
    radii = eps * u ** (1 / max(1, directions[:1].numel()))
    return _scaled(directions, _lengths(directions).clamp_min(TINY) / radii.clamp_min(TINY))


def _lengths(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def _scaled(x: Tensor, by: Tensor) -> Tensor:
    return x / by.view(-1, *[1] * (x.dim() - 1))


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
