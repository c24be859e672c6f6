"""The float32 inputs of a ball, and whether the model itself classifies one of them otherwise."""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor, nn

from linf_plugin.norms import Ball

BEYOND = (1.0, 1.0001, 1.01, 1.1, 1.5, 3.0)  # times the distance of a point
CLIMB, CLIMB_STEP, HALVINGS = 40, 0.1, 20  # steps from a point; the first one as a part of ε; how often it is halved


def float32_box(x: np.ndarray, ball: Ball) -> tuple[np.ndarray, np.ndarray]:
    """Returns the least and the largest float32 number of each coordinate in an ℓ∞ ball, within its range.

    x ± eps is computed exactly and rounded towards x.  So the box holds every float32 input of the ball and no other.

    Args:
        x: (*) float32, in the range.
        ball: in ℓ∞.

    Returns:
        Two float32 arrays of the shape of x.
    """
    eps = Fraction(ball.eps)
    values, places = np.unique(x, return_inverse=True)  # exact arithmetic is slow; images have few grey levels
    low, high = [], []
    for value in values:
        exact = Fraction(float(value))
        # x was compared in float32 with the float32 numbers nearest to low and high, so it may lie beyond these.
        low.append(min(value, _inward(exact - eps, ball.low, np.float32(np.inf))))
        high.append(max(value, _inward(exact + eps, ball.high, np.float32(-np.inf))))
    return tuple(np.array(ends, np.float32)[places].reshape(x.shape) for ends in (low, high))


def _inward(end: Fraction, limit: float, towards: np.float32) -> np.float32:
    """Returns the float32 number that is nearest to the end of an interval, on its inner side."""
    up = towards > 0
    if np.isfinite(limit):
        end = max(end, Fraction(limit)) if up else min(end, Fraction(limit))
    with np.errstate(over="ignore"):
        nearest = np.float32(float(end))
    if not np.isfinite(nearest):  # beyond float32
        return np.nextafter(nearest, towards)
    outside = Fraction(float(nearest)) < end if up else Fraction(float(nearest)) > end
    return np.nextafter(nearest, towards) if outside else nearest


def confirmed(model: nn.Module, x: Tensor, label: int, ball: Ball, point: np.ndarray) -> Tensor | None:
    """Returns a float32 input in the ball that the model classifies otherwise, or None.

    Verifiers return points where two classes nearly tie.  So it looks at the point, then a little beyond it as seen
    from x, and then it climbs from the point along the gradient of the other classes.  Each input is moved into
    ``float32_box``, so it is in the ball and in the range exactly.

    Args:
        model: float32; it is run as it is, on one sample.
        x: (*) float32, the centre, on the model's device.
        label: the class of x.
        ball: in ℓ∞.
        point: float64 of the size of x, as a verifier found it; a coordinate that is NaN is unknown, and that of x is
            taken.
    """
    centre = x.cpu().numpy()
    low, high = float32_box(centre, ball)
    step = np.nan_to_num(point.reshape(centre.shape) - centre.astype(float)).clip(-2 * ball.eps, 2 * ball.eps)
    for factor in BEYOND:
        candidate = torch.from_numpy((centre + factor * step).clip(low, high).astype(np.float32)).to(x.device)
        if _class_of(model, candidate) != label:
            return candidate.cpu()
    low, high = torch.from_numpy(low).to(x.device), torch.from_numpy(high).to(x.device)
    candidate = torch.from_numpy((centre + step).astype(np.float32)).to(x.device)
    for i in range(CLIMB):
        candidate = _climbed(model, candidate, label, ball.eps * CLIMB_STEP / 2 ** (i * HALVINGS // CLIMB))
        candidate = torch.minimum(torch.maximum(candidate, low), high)
        if _class_of(model, candidate) != label:
            return candidate.cpu()
    return None


@torch.no_grad()
def _class_of(model: nn.Module, x: Tensor) -> int:
    return int(model(x[None].clone()).argmax(1))


def _climbed(model: nn.Module, x: Tensor, label: int, step: float) -> Tensor:
    """Returns x after a step along the signs of the gradient of the largest other logit minus the label's."""
    with torch.enable_grad():
        moving = x.detach().clone().requires_grad_()
        (logits,) = model(moving[None].clone())
        others = torch.cat([logits[:label], logits[label + 1 :]])
        gap = others.max() - logits[label]
        gradient = torch.autograd.grad(gap, moving, allow_unused=True)[0] if gap.requires_grad else None
    return x if gradient is None else (moving + step * gradient.sign()).detach()
