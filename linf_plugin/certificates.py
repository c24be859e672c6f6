"""From margins to certified radii: what a Lipschitz bound proves about a prediction."""

import torch
from torch import Tensor


def margin(logits: Tensor, labels: Tensor | None = None) -> Tensor:
    """How far the logit of a class is above all others, exactly: in float64.

    Args:
        logits: (N, classes) with at least two classes.
        labels: (N,) integers; the predicted class where not given.

    Returns:
        (N,) float64: z_y − max_{j≠y} z_j, negative where a sample is misclassified.  A difference of two
        float32 numbers is rounded at most once.  NaN logits give NaN.

    Raises:
        TypeError: logits are not floating point, labels are not integers.
        ValueError: shapes do not fit, or a label is not a class.
    """
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"logits must have shape (N, classes ≥ 2), got {tuple(logits.shape)}")
    z = logits.double()
    if labels is None:
        top = z.topk(2, dim=1).values
        return top[:, 0] - top[:, 1]
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != z.shape[:1]:
        raise ValueError(f"labels must have shape ({len(z)},), got {tuple(labels.shape)}")
    labels = labels.long().unsqueeze(1)
    if labels.numel() and not (0 <= labels.min() and labels.max() < z.shape[1]):
        raise ValueError(f"labels must lie in [0, {z.shape[1] - 1}]")
    others = z.scatter(1, labels, -torch.inf).amax(1)
    return z.gather(1, labels).squeeze(1) - others


@torch.no_grad()
def certified_radius(logits: Tensor, labels: Tensor | None = None, lipschitz: float = 1.0) -> Tensor:
    """The ℓ∞ radius that a net's Lipschitz bound certifies: margin / (2·lipschitz).

    If every logit changes by at most lipschitz·‖δ‖∞, then for ‖δ‖∞ < radius the difference of any two
    changes by less than the margin, so the prediction stays.  Zhang et al. (arXiv 2102.05363), section 3.1.
    The bound is about the real function; rounding errors of ``logits`` are not subtracted.  No gradient.

    Args:
        logits: (N, classes ≥ 2).
        labels: (N,); with labels a misclassified sample has radius 0.
        lipschitz: ℓ∞ → ℓ∞ Lipschitz bound of the net, in logits per unit of its input.

    Returns:
        (N,) radii ≥ 0 in units of the net's input and in the dtype of ``logits``, rounded down to it.
        Ties, and NaN or infinite logits, have radius 0.

    Raises:
        TypeError, ValueError: as ``margin``; also where lipschitz is not positive and finite.
    """
    if not 0 < lipschitz < float("inf"):
        raise ValueError(f"lipschitz must be positive and finite, got {lipschitz}")
    exact = margin(logits, labels).clamp_min(0) / (2 * lipschitz)
    radius = exact.to(logits.dtype)
    radius = torch.where(radius > exact, torch.nextafter(radius, torch.zeros_like(radius)), radius)
    return torch.where(logits.isfinite().all(1), radius, 0)
