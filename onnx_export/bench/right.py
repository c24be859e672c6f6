"""Checks the distances of a way against the specification, before the way is timed."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from linf_plugin.kernels import reference

from .cases import size_of
from .ways import ours

CHECKED_PAIRS = 1 << 22  # coordinate pairs for which the specification is computed


def exact(case: dict, x: Tensor, w: Tensor) -> Tensor:
    """The distances with which all ways are compared: those of linf_plugin, in float32 at p = ∞ and else in float64.

    Raises:
        ArithmeticError: the first rows differ from those of the specification.
    """
    dtype = torch.float32 if case["p"] == math.inf else torch.float64
    y = ours(x.to(dtype), w.to(dtype), case["p"])
    half = w.shape[-1] // 2
    rows = x if x.dim() == 2 else F.unfold(x[:1], w.shape[2:], padding=half)[0].T
    rows = rows[: max(1, CHECKED_PAIRS // w.numel())].to(dtype)
    expected = reference.dist(rows, w.flatten(1).to(dtype), case["p"])
    found = y[: len(rows)] if x.dim() == 2 else y[0].flatten(1).T[: len(rows)]
    if not torch.allclose(found, expected, rtol=0 if dtype == torch.float32 else 1e-12, atol=0):
        raise ArithmeticError(f"linf_plugin is wrong on {size_of(case)}, p = {case['p']:g}")
    return y


def deviation(case: dict, y: np.ndarray, expected: Tensor) -> str | None:
    """What is wrong with the distances y, or None.

    At p = ∞ every bit must be equal.  At finite p, in units of eps/2, a distance may lose 4 by difference, power, root
    and product, and features/p by a sum in any order.
    """
    features = case["in"] * case.get("kernel", 1) ** 2
    allowed = 0.0 if case["p"] == math.inf else torch.finfo(torch.float32).eps * (4 + features / case["p"])
    expected = expected.numpy()
    if y.shape != expected.shape or y.dtype != np.float32:
        return f"{y.dtype} of shape {y.shape}"
    error = np.abs(y.astype(expected.dtype) - expected)
    if not (error <= allowed * expected).all():  # NaN is an error too
        return f"off by up to {error.max():.3g}"
    return None
