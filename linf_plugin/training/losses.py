"""Losses on margins.  In this module, for j ≠ y, m_j = z_j − z_y + 2ρ bounds how far class j can come above the label y
if every logit moves by at most ρ = lipschitz·ε.

At p = ∞ this is a theorem.  At finite p the Lipschitz constant of a layer is larger than 1, and z ± ρ is a heuristic
training signal, not a certificate.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arguments import check_not_negative, check_number, check_positive, kind


def _check(logits, labels, name: str = "logits") -> None:
    """Checks shapes and types.  It does not check values, because that would wait for the GPU.  ``fit`` checks all
    labels before it begins."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {kind(logits)}")
    if logits.dim() != 2:
        raise ValueError(f"{name} must have two dimensions, one for samples, got {tuple(logits.shape)}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        raise TypeError(f"labels must be an int64 tensor, got {kind(labels)}")
    if labels.shape != logits.shape[:1]:
        raise ValueError(f"labels must have shape ({len(logits)},), got {tuple(labels.shape)}")
    if labels.device != logits.device:
        raise ValueError(f"labels is on {labels.device} but {name} is on {logits.device}")


def _check_share(name: str, value) -> None:
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}")


def _check_head(head, features, labels, radius) -> None:
    _check(features, labels, "features")
    kinds = [type(layer) for layer in head] if isinstance(head, nn.Sequential) else [type(head)]
    if kinds != [nn.Linear, nn.Tanh, nn.Linear]:
        raise TypeError(f"head must be Linear, Tanh, Linear, got {', '.join(k.__name__ for k in kinds)}")
    if not isinstance(radius, Tensor):
        check_not_negative("radius", radius)


def _margins(logits: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Returns m (N, classes), with 0 at the label."""
    m = logits - logits.gather(1, labels.unsqueeze(1)) + 2 * radius
    return m.scatter(1, labels.unsqueeze(1), 0.0)


def hinge(logits: Tensor, labels: Tensor, radius: float, mix: float = 1.0) -> Tensor:
    """Returns mix·mean_n max_j m₊ + (1 − mix)·mean_{n,j} m₊.  Zhang et al. (arXiv 2102.05363), section 4.

    Args:
        logits: (N, classes).
        labels: (N,) int64.
        radius: ρ, in logits.
        mix: in [0, 1].

    Returns:
        scalar.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape, or is out of its range.
    """
    _check(logits, labels)
    check_not_negative("radius", radius)
    _check_share("mix", mix)
    m = _margins(logits, labels, radius).clamp_min(0)
    return mix * m.amax(1).mean() + (1 - mix) * m.mean()


def clipped_hinge(logits: Tensor, labels: Tensor, radius: float, weight: float, scalar: Tensor | float = 1.0) -> Tensor:
    """Returns mean_n max_j clamp(m_j/2ρ, 0, 1) + weight·CE(scalar·z).  Zhang et al. (arXiv 2110.06850), section 4.

    The hinge of a misclassified sample is saturated and has no gradient; the cross-entropy moves such samples.
    ``scalar`` is a learned temperature.  It affects only the cross-entropy, never a margin.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape, or is out of its range; radius 0 is out of range.
    """
    _check(logits, labels)
    check_positive("radius", radius)
    check_not_negative("weight", weight)
    hinged = (_margins(logits, labels, radius) / (2 * radius)).clamp(0, 1).amax(1).mean()
    return hinged + weight * F.cross_entropy(scalar * logits, labels)


def ramp(worst: Tensor, labels: Tensor, width: float) -> Tensor:
    """Returns mean_n max_{j≠y} clamp(½ + worst_j/width, 0, 1).

    A sample counts 1 if its margin can fall to −width/2, and 0 if its margin stays above width/2.

    Args:
        worst: (N, classes), upper bounds of z_j − z_y.
        labels: (N,) int64.
        width: in logits.

    Returns:
        scalar.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape, or is out of its range.
    """
    _check(worst, labels, "worst")
    check_positive("width", width)
    others = worst.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    return (others / width + 0.5).clamp(0, 1).mean()


def head_margins(head: nn.Sequential, features: Tensor, radius: float | Tensor, labels: Tensor) -> Tensor:
    """Returns upper bounds of z_j − z_y for a Linear–tanh–Linear head whose inputs move by at most ``radius``.

    They are interval bounds in centre/radius form.  The last layer uses the row differences W_j − W_y, which is tighter
    than the difference of its intervals.

    Args:
        head: Linear–tanh–Linear.
        features: (N, in).
        radius: one number, or (N, in).
        labels: (N,) int64.

    Returns:
        (N, classes), 0 at the label.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape, or is out of its range.
    """
    _check_head(head, features, labels, radius)
    first, _, last = head
    centre = first(features)
    size = first.weight.abs()
    spread = radius @ size.T if isinstance(radius, Tensor) else radius * size.sum(1)
    low, high = torch.tanh(centre - spread), torch.tanh(centre + spread)
    rows = last.weight.unsqueeze(0) - last.weight[labels].unsqueeze(1)  # (N, classes, hidden)
    bias = last.bias.unsqueeze(0) - last.bias[labels].unsqueeze(1)
    middle = (rows @ ((high + low) / 2).unsqueeze(2)).squeeze(2)
    return middle + bias + (rows.abs() @ ((high - low) / 2).unsqueeze(2)).squeeze(2)


def interval_cross_entropy(
    head: nn.Sequential, features: Tensor, labels: Tensor, radius: float, kappa: float
) -> Tensor:
    """Returns kappa·CE of the head's worst margins + (1 − kappa)·CE of its logits.

    Args:
        head: Linear–tanh–Linear.
        features: (N, in), the output of the distance layers.
        labels: (N,) int64.
        radius: how far each feature can move: the Lipschitz bound of the features at p = ∞ times ε.
        kappa: in [0, 1].

    Returns:
        scalar.

    Raises:
        TypeError, ValueError: as ``head_margins``.
    """
    _check_share("kappa", kappa)
    worst = F.cross_entropy(head_margins(head, features, radius, labels), labels)
    if kappa == 1:
        return worst
    return kappa * worst + (1 - kappa) * F.cross_entropy(head(features), labels)


def interval_hinge(
    head: nn.Sequential, features: Tensor, labels: Tensor, radius: float, weight: float, scalar: Tensor | float = 1.0
) -> Tensor:
    """Returns mean_n c_n·max_{j≠y} (m_j + 1)₊ + weight·CE(scalar·z), with the margins m of ``head_margins``.

    c_n is 1 if sample n is classified correctly, else 0.  This is the hybrid loss in the program of Zhang et al.
    (arXiv 2210.01787).  As in ``clipped_hinge`` the cross-entropy moves misclassified samples, and ``scalar`` affects
    only the cross-entropy.

    Args:
        head, features, labels, radius: as ``interval_cross_entropy``.
        weight: the weight of the cross-entropy of the head's logits z.
        scalar: a learned temperature.

    Returns:
        scalar.

    Raises:
        TypeError, ValueError: as ``head_margins``.
    """
    check_not_negative("weight", weight)
    wanted = head_margins(head, features, radius, labels) + 1
    logits = head(features)
    hinged = wanted.scatter(1, labels.unsqueeze(1), 0.0).amax(1)  # at least 0, because the label has 0
    correct = logits.argmax(1) == labels
    return (correct * hinged).mean() + weight * F.cross_entropy(scalar * logits, labels)
