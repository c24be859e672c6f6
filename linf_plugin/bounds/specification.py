"""The linear combinations of logits that are bounded: margins."""

import torch
from torch import Tensor

from ..arguments import check_count, check_labels


def specification(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns auto_LiRPA's C for margins: rows e_y − e_j for every j ≠ y, (N,) → (N, classes − 1, classes).

    Raises:
        TypeError, ValueError: labels are not integers in [0, classes), or there are fewer than two classes.
    """
    check_count("classes", classes, 2)
    labels = check_labels(labels, labels, classes).reshape(-1)
    eye = torch.eye(classes, dtype=dtype, device=labels.device)
    rows = eye[labels].unsqueeze(1) - eye.unsqueeze(0)
    others = torch.arange(classes, device=labels.device) != labels.unsqueeze(1)
    return rows[others].view(len(labels), classes - 1, classes)
