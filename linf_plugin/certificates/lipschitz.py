"""Certificates from a Lipschitz bound, for the float32 program with its rounding."""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import arguments
from ..float32.euclid import InL2, error_in_l2, l2_bounds
from ..float32.reach import check_program, reach
from ..float32.rules import OUTWARD
from ..inference import outside_inference
from ..layers.lipschitz import lipschitz_bound
from ..norms import Ball, box, check_norm
from .margin import pairwise_radius
from .pairs import LEAST, MOST, SPARE, of_labels, pair_bounds
from .problem import Problem


class Known(NamedTuple):
    """What is known of a net for balls of one norm.  It is computed once, because spectral norms take time.

    Attributes:
        pairs: its ``pair_bounds``.
        layers: in ℓ2, what is known of its layers, if it is a sequence of layers with rules.
    """

    pairs: Tensor
    layers: list[InL2] | None


def known(exact: nn.Module, norm: float) -> Known:
    """Returns what is known of a net in this norm.  Raises as ``pair_bounds``.

    The bound of each layer is computed once.
    """
    layers = l2_bounds(exact) if norm == 2 else None
    bounds = None if layers is None else [one.bound for one in layers]
    return Known(pair_bounds(exact, norm, bounds), layers)


def _worst_logits(
    exact: nn.Module, of: Known, z: Tensor, labels: Tensor, x: Tensor, radius: Tensor, ends: tuple[Tensor, Tensor]
) -> Tensor:
    """Returns z with the label's logit lowered and the others raised, by the largest rounding error in a ball.

    Args:
        exact: the net, in float64.
        of: what is known of it in the norm of the balls.
        z: (N, classes), its float64 logits at x.
        labels: (N,).
        x, radius: (N, *) float64 and (N,), the centres and the radii.
        ends: (lower, upper) of boxes that contain the balls.
    """
    if of.layers is None:
        error = reach(exact, *ends).error * OUTWARD
    else:
        error = error_in_l2(exact, of.layers, x, radius).unsqueeze(1) * OUTWARD
    up = torch.nextafter(z + error, torch.full_like(z, math.inf))
    down = torch.nextafter(z - error, torch.full_like(z, -math.inf))
    return torch.where(F.one_hot(labels.long(), z.shape[1]).bool(), down, up)


def lipschitz_above(exact: nn.Module, norm: float = math.inf) -> float:
    """Returns a Lipschitz bound of a net in float64, rounded up, between 2^-900 and 2^900.

    The limits do no harm, because a radius above 2^127 or below 2^-149 is of no use.
    """
    return min(max(lipschitz_bound(exact, norm) * SPARE, LEAST), MOST)


@outside_inference
@torch.no_grad()
def sound_radius(
    model: nn.Module, x: Tensor, labels: Tensor | None = None, *, norm: float | str = math.inf, batch_size: int = 256
) -> Tensor:
    """Returns the radius within which the float32 program keeps its prediction: ``pairwise_radius`` minus rounding.

    It divides by the bounds of ``pairs.pair_bounds``.  For every float32 x′ with ‖x′ − x‖ < radius, the label's logit
    of float32 ``model(x′)`` is above all others.

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
    of = known(exact, norm)
    radii = [x.new_zeros(0)]
    for i in range(0, len(x), int(batch_size)):
        y = None if labels is None else labels[i : i + batch_size]
        radii.append(_sound_radius(exact, x[i : i + batch_size], y, of))
    return torch.cat(radii)


def _sound_radius(exact: nn.Module, x: Tensor, labels: Tensor | None, of: Known) -> Tensor:
    """Returns the radii of one batch."""
    z = exact(x.double())
    arguments.check_logits(z, len(x))
    y = z.argmax(1) if labels is None else labels
    # The error grows with the radius, so its bound for a larger radius holds too.
    largest = pairwise_radius(z, of.pairs, y)
    worst = _worst_logits(exact, of, z, y, x.double(), largest, box(x, largest))
    exact_radius = pairwise_radius(worst, of.pairs, y)
    radius = exact_radius.float()
    return torch.where(radius > exact_radius, torch.nextafter(radius, torch.zeros_like(radius)), radius)


@outside_inference
@torch.no_grad()
def sound_margin(exact: nn.Module, x: Tensor, labels: Tensor, ball: Ball, of: Known | None = None) -> Tensor:
    """Returns a lower bound of the margin of the float32 program in a ball, from Lipschitz bounds K (``pair_bounds``).

    The bound is the least z_y − z_j − K_yj·radius, minus rounding.  ẑ(x′)_y − ẑ(x′)_j is at least the bound for every
    float32 x′ in the ball around x and every j ≠ y (docs/math.md, corollary of theorem 1).  The bound is never above
    the least ẑ(x)_y − ẑ(x)_j − K_yj·radius.

    Args:
        exact: a float64 copy of a float32 net that passes ``check_program``.
        x: (N, *) float32.
        labels: (N,).
        ball: its radius is in units of x; K is in its norm.
        of: what is known of the net in this norm, if it was computed already.

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
    of = known(exact, ball.norm) if of is None else of
    worst = _worst_logits(exact, of, z, labels, at, torch.full_like(z[:, 0], ball.eps), around)
    infinity = torch.full_like(z, math.inf)
    least = torch.nextafter(_ahead(worst, labels), -infinity)
    least = torch.nextafter(least - torch.nextafter(_lost(of, labels, ball.eps), infinity), -infinity)
    least = least.amin(1)
    return torch.where(least.isfinite(), least, -math.inf)


def _ahead(z: Tensor, labels: Tensor) -> Tensor:
    """Returns (N, classes): z_y − z_j, and ∞ for the label itself."""
    at = labels.long().unsqueeze(1)
    return (z.gather(1, at) - z).scatter(1, at, math.inf)


def _lost(of: Known, labels: Tensor, eps: float) -> Tensor:
    """Returns (N, classes) or (N, 1): by how much z_y − z_j may fall in a ball."""
    return of_labels(of.pairs, labels) * eps


# What the row of ``CERTIFICATES`` calls.


def knows(problem: Problem) -> None:
    """Raises TypeError or RuntimeError if no Lipschitz bound of the net in this norm is known."""
    _known(problem)


def hopeful(problem: Problem, among: Tensor) -> Tensor:
    """Returns (N,) bool: the samples of ``among`` that the float32 logits at x do not already rule out."""
    if not among.any():  # without samples the number of classes is not known
        return among
    if not problem.sound:  # only ``sound_margin`` is never above the margin of these logits minus what is lost
        return among
    ahead = _ahead(problem.logits.double(), problem.labels) - _lost(_known(problem), problem.labels, problem.ball.eps)
    return among & (ahead.amin(1) > 0)


def _table(exact: nn.Module) -> dict[float, Known]:
    """Norm → what is known of the net, as far as it was asked for."""
    return {}


def _known(problem: Problem) -> Known:
    """Returns what is known of the net in the norm of the ball.  It is computed once for a net and a norm."""
    table, norm = problem.of_net(_table), problem.ball.norm
    if norm not in table:
        table[norm] = known(problem.exact, norm)
    return table[norm]


def bound(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (samples, labels) → lower bounds of their margins."""
    exact, ball = problem.exact, problem.ball
    of = _known(problem)
    if problem.sound:
        return lambda x, labels: sound_margin(exact, x, labels, ball, of)

    def least(x: Tensor, labels: Tensor) -> Tensor:
        return (_ahead(exact(x.to(torch.float64, copy=True)), labels) - _lost(of, labels, ball.eps)).amin(1)

    return least


def radius(problem: Problem) -> Callable[[Tensor, Tensor], Tensor]:
    """Returns the function (samples, labels) → the radii within which the prediction stays."""
    exact, of = problem.exact, _known(problem)
    if problem.sound:
        return lambda x, labels: _sound_radius(exact, x, labels, of)
    return lambda x, labels: pairwise_radius(exact(x.to(torch.float64, copy=True)), of.pairs, labels)
