"""Certificates from a Lipschitz bound, for the float32 program with its rounding."""

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import arguments
from ..float32.reach import check_program, reach
from ..float32.rules import OUTWARD
from ..inference import outside_inference
from ..layers.lipschitz import lipschitz_bound
from ..norms import Ball, apart, box, check_norm
from .margin import certified_radius, margin
from .problem import Problem


def _worst_logits(exact: nn.Module, z: Tensor, labels: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Returns z with the label's logit lowered and the others raised, by the largest rounding error in a box.

    Args:
        exact: the net, in float64.
        z: (N, classes), its float64 logits at a point of the box.
        labels: (N,).
        lower, upper: (N, *), the ends of the box.
    """
    error = reach(exact, lower, upper).error * OUTWARD
    up = torch.nextafter(z + error, torch.full_like(z, math.inf))
    down = torch.nextafter(z - error, torch.full_like(z, -math.inf))
    return torch.where(F.one_hot(labels.long(), z.shape[1]).bool(), down, up)


def lipschitz_above(exact: nn.Module, norm: float = math.inf) -> float:
    """Returns a Lipschitz bound of a net in float64, rounded up, between 2^-900 and 2^900.

    The limits do no harm, because a radius above 2^127 or below 2^-149 is of no use.
    """
    return min(max(lipschitz_bound(exact, norm) * (1 + 2.0**-30), 2.0**-900), 2.0**900)


@outside_inference
@torch.no_grad()
def sound_radius(
    model: nn.Module, x: Tensor, labels: Tensor | None = None, *, norm: float | str = math.inf, batch_size: int = 256
) -> Tensor:
    """Returns the radius within which the float32 program keeps its prediction: ``certified_radius`` minus rounding.

    For every float32 x′ with ‖x′ − x‖ < radius, the label's logit of float32 ``model(x′)`` is above all others.

    Args:
        model: float32, in evaluation mode; its program has rules (``check_program``).
        x: (N, *) float32.
        labels: (N,); a misclassified sample has radius 0.  By default the predicted classes.
        norm: of the perturbation: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.
        batch_size: how many samples are computed at a time.

    Returns:
        (N,) float32, in units of x, rounded down.

    Raises:
        TypeError, ValueError, RuntimeError: as ``check_program``, ``lipschitz_bound`` and ``certified_radius``; an
            argument is not as described; x or a weight is not finite; the model does not return (N, classes ≥ 2).
    """
    arguments.check_count("batch_size", batch_size)
    norm = check_norm(norm)
    model = arguments.unwrapped(model)
    program = check_program(model, x)
    arguments.check_weights(model)
    arguments.check_finite(x=x)
    if labels is not None:
        labels = arguments.check_labels(labels, x)
    exact = copy.deepcopy(model).double() if program is None else program
    lipschitz = lipschitz_above(exact, norm)
    radii = [x.new_zeros(0)]
    for i in range(0, len(x), int(batch_size)):
        y = None if labels is None else labels[i : i + batch_size]
        radii.append(_sound_radius(exact, x[i : i + batch_size], y, lipschitz, norm))
    return torch.cat(radii)


def _sound_radius(exact: nn.Module, x: Tensor, labels: Tensor | None, lipschitz: float, norm: float) -> Tensor:
    """Returns the radii of one batch."""
    z = exact(x.double())
    arguments.check_logits(z, len(x))
    y = z.argmax(1) if labels is None else labels
    # The error grows with the radius, so its bound for a larger radius holds too.
    around = box(x, certified_radius(z, y, lipschitz, norm))
    exact_radius = certified_radius(_worst_logits(exact, z, y, *around), y, lipschitz, norm)
    radius = exact_radius.float()
    return torch.where(radius > exact_radius, torch.nextafter(radius, torch.zeros_like(radius)), radius)


@outside_inference
@torch.no_grad()
def sound_margin(exact: nn.Module, x: Tensor, labels: Tensor, ball: Ball) -> Tensor:
    """Returns a lower bound of the margin of the float32 program in a ball, from the net's Lipschitz bound L.

    The bound is the least z_y − z_j − apart(norm)·L·radius, minus rounding.  ẑ(x′)_y − ẑ(x′)_j is at least the bound
    for every float32 x′ in the ball around x and every j ≠ y (docs/math.md, corollary of theorem 1).  The bound is
    never above the least ẑ(x)_y − ẑ(x)_j − apart(norm)·L·radius.

    Args:
        exact: a float64 copy of a float32 net that passes ``check_program``.
        x: (N, *) float32.
        labels: (N,).
        ball: its radius is in units of x; L is in its norm.

    Returns:
        (N,) float64, rounded down; −∞ where an activation may overflow.

    Raises:
        TypeError, ValueError: a layer has no known Lipschitz bound; an argument is not as described.
    """
    arguments.check_model(exact)
    arguments.check_samples(x, exact)
    arguments.check_finite(x=x)
    arguments.check_labels(labels, x)
    lower, upper = ball.box(x)
    at = x.double()
    # The box must hold x itself, also where an end of the pixel range lies between two float32 numbers.
    around = torch.minimum(lower, at), torch.maximum(upper, at)
    z = exact(at.clone())  # the first layer may work in place
    labels = arguments.check_labels(labels, x, arguments.check_logits(z, len(x)))
    lost = apart(ball.norm) * lipschitz_above(exact, ball.norm) * ball.eps
    lost = torch.tensor(lost, dtype=torch.float64, device=x.device)
    infinity = torch.full_like(z[:, 0], math.inf)
    least = torch.nextafter(margin(_worst_logits(exact, z, labels, *around), labels), -infinity)
    least = torch.nextafter(least - torch.nextafter(lost, infinity), -infinity)
    return torch.where(least.isfinite(), least, -infinity)


# What the row of ``CERTIFICATES`` calls.


def knows(exact: nn.Module, norm: float) -> None:
    """Raises TypeError or RuntimeError if no Lipschitz bound of the net in this norm is known."""
    lipschitz_bound(exact, norm)


def hopeful(problem: Problem, among: Tensor) -> Tensor:
    """Returns (N,) bool: the samples of ``among`` that the float32 logits at x do not already rule out."""
    if not problem.sound:  # only ``sound_margin`` is never above the margin of these logits minus what is lost
        return among
    ball = problem.ball
    lost = apart(ball.norm) * lipschitz_bound(problem.exact, ball.norm) * ball.eps
    return among & (margin(problem.logits, problem.labels) > lost)


def bound(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (samples, labels) → lower bounds of their margins."""
    exact, ball = problem.exact, problem.ball
    if problem.sound:
        return lambda x, labels: sound_margin(exact, x, labels, ball)
    lost = apart(ball.norm) * lipschitz_bound(exact, ball.norm) * ball.eps
    return lambda x, labels: margin(exact(x.to(torch.float64, copy=True)), labels) - lost


def radius(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (samples, labels) → the radii within which the prediction stays."""
    exact, norm = problem.exact, problem.ball.norm
    if problem.sound:
        lipschitz = lipschitz_above(exact, norm)
        return lambda x, labels: _sound_radius(exact, x, labels, lipschitz, norm)
    lipschitz = lipschitz_bound(exact, norm)
    return lambda x, labels: certified_radius(exact(x.to(torch.float64, copy=True)), labels, lipschitz, norm)
