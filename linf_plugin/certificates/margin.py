"""Margins and certified radii: what a Lipschitz bound proves about a prediction of the exact function."""

import math

import torch
from torch import Tensor

from ..arguments import INTEGERS, check_positive, kind
from ..norms import apart
from .pairs import of_labels


def _checked(logits: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the logits in float64 and the labels (N, 1) in int64, or None.  Raises as ``margin``."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"logits must be a floating-point tensor, got {kind(logits)}")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, classes ≥ 2), got {tuple(logits.shape)}")
    z = logits.double()
    if labels is None:
        return z, None
    if not isinstance(labels, Tensor) or labels.dtype not in INTEGERS:
        raise TypeError(f"labels must be a tensor of integers, got {kind(labels)}")
    if labels.device != logits.device:
        raise ValueError(f"labels is on {labels.device} but logits is on {logits.device}")
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels must have shape ({len(z)},), got {tuple(labels.shape)}")
    labels = labels.long().unsqueeze(1)
    if labels.numel() and not (0 <= labels.min() and labels.max() < z.shape[1]):
        raise ValueError(f"labels must lie in [0, {z.shape[1] - 1}]")
    return z, labels


def _leading(logits: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns the logit of a class and the largest of all others, both (N,) float64.  Raises as ``margin``."""
    z, labels = _checked(logits, labels)
    if labels is None:
        return z.topk(2, dim=1).values.unbind(1)
    return z.gather(1, labels).squeeze(1), z.scatter(1, labels, -torch.inf).amax(1)


def margin(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns how far the logit of a class is above all others.

    Args:
        logits: (N, classes) with at least two classes.
        labels: (N,) integers; by default the predicted classes.

    Returns:
        (N,) float64: z_y − max_{j≠y} z_j, negative where a sample is misclassified.  NaN logits give NaN.

    Raises:
        TypeError: logits are not floating point, or labels are not integers.
        ValueError: shapes or devices do not fit, or a label is not a class.
    """
    first, second = _leading(logits, labels)
    return first - second


TINY = 2.0**-900  # below it the error terms of float64 may underflow


def _difference_down(a: Tensor, b: Tensor) -> Tensor:
    """Returns a − b in float64, not above the exact difference if that is positive.

    Knuth's two-sum gives the rounding error.
    """
    d = a - b
    back = d - a
    error = (a - (d - back)) - (b + back)
    return torch.where(error >= 0, d, _towards_zero(d))


def _quotient_down(a: Tensor, c: float | Tensor) -> Tensor:
    """Returns a/c in float64 for a ≥ 0 and c > 0, not above the exact quotient.

    Dekker's product gives the remainder.
    """
    q = a / c
    split = 2.0**27 + 1
    c = torch.as_tensor(c, dtype=torch.float64, device=a.device)
    q_high, c_high = (split * v - (split * v - v) for v in (q, c))
    q_low, c_low = q - q_high, c - c_high
    product = q * c
    rest = q_low * c_low - (((product - q_high * c_high) - q_low * c_high) - q_high * c_low)
    exact = ((a - product) - rest >= 0) & (a > TINY) & (q > TINY)
    return torch.where(exact | (q == 0), q, _towards_zero(q))


def _towards_zero(a: Tensor) -> Tensor:
    return torch.nextafter(a, torch.zeros_like(a))


def _factor(lipschitz: float, norm: float | str) -> float:
    """Returns apart(norm)·lipschitz, not below the exact product."""
    product = apart(norm) * lipschitz
    return product if apart(norm) in (1.0, 2.0) else math.nextafter(product, math.inf)


@torch.no_grad()
def certified_radius(
    logits: Tensor, labels: Tensor | None = None, lipschitz: float = 1.0, norm: float | str = math.inf
) -> Tensor:
    """Returns the radius that a net's Lipschitz bound L certifies.

    It is margin / (2·L) in ℓ∞, margin / (√2·L) in ℓ2 and margin / L in ℓ1.

    Suppose that the logits change by at most L·‖δ‖ in this norm.  Then for ‖δ‖ < radius the difference of two logits
    changes by less than the margin (``norms.apart``), so the prediction stays.  Source: Zhang et al. (arXiv
    2102.05363), section 3.1.

    The radius is about the exact function, as if ``logits`` were its exact values.  How far rounding moves the logits,
    here and at other inputs, depends on the net; ``sound_radius`` takes the net and subtracts that.  The result has no
    gradient.

    Args:
        logits: (N, classes ≥ 2).
        labels: (N,); a misclassified sample has radius 0.  By default the predicted classes.
        lipschitz: L, a Lipschitz bound of the net in this norm, in logits per unit of its input.
        norm: of the perturbation: ``math.inf``, 2 or 1, or a key of ``norms.NORMS``.

    Returns:
        (N,) radii ≥ 0 in units of the net's input, in the dtype of ``logits``, rounded down.  A sample with a tie, or
        with NaN or infinite logits, has radius 0.

    Raises:
        TypeError, ValueError: as ``margin``; also if lipschitz is not positive and finite, or norm is unknown.
    """
    check_positive("lipschitz", lipschitz)
    first, second = _leading(logits, labels)
    exact = _quotient_down(_difference_down(first, second).clamp_min(0), _factor(lipschitz, norm))
    return _as_radius(exact, logits)


def _as_radius(exact: Tensor, logits: Tensor) -> Tensor:
    """Returns the radii in the dtype of the logits, rounded down, and 0 where a logit is not finite."""
    exact = exact.clamp_max(torch.finfo(logits.dtype).max)
    radius = exact.to(logits.dtype)
    radius = torch.where(radius > exact, _towards_zero(radius), radius)
    return torch.where(logits.isfinite().all(1), radius, 0)


@torch.no_grad()
def pairwise_radius(logits: Tensor, pairs: Tensor, labels: Tensor | None = None) -> Tensor:
    """Returns the radius that Lipschitz bounds of the differences of two logits certify: min_j (z_y − z_j) / K_yj.

    The radius is about the exact function, as that of ``certified_radius``.  With the bounds of ``pairs.pair_bounds``
    it is never smaller than that one, except for rounding.

    Args:
        logits: (N, classes ≥ 2).
        pairs: K, (classes, classes), or (1, 1) for one bound of all pairs; positive.  ``pairs.pair_bounds`` returns it.
        labels: (N,); a misclassified sample has radius 0.  By default the predicted classes.

    Returns:
        (N,) radii ≥ 0 in units of the net's input, in the dtype of ``logits``, rounded down.  A sample with a tie, or
        with NaN or infinite logits, has radius 0.

    Raises:
        TypeError, ValueError: as ``margin``; also if ``pairs`` has another shape, or a bound that is not positive.
    """
    z, at = _checked(logits, labels)
    if pairs.shape not in ((1, 1), (z.shape[1], z.shape[1])) or not (pairs > 0).all():
        raise ValueError(f"pairs must be positive, of shape (1, 1) or ({z.shape[1]}, {z.shape[1]})")
    at = z.argmax(1, keepdim=True) if at is None else at
    ahead = _difference_down(z.gather(1, at), z).clamp_min(0)
    exact = _quotient_down(ahead, of_labels(pairs.double(), at.squeeze(1)))
    return _as_radius(exact.scatter(1, at, torch.inf).amin(1), logits)
