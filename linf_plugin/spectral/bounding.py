"""Bounds of the spectral norm of a layer: certified ones, and those for training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..arguments import check_count
from .geometry import Convolution, Pair, describe
from .methods import ON_DEVICE, SPECTRAL_METHODS, Method, Problem, prepare, with_weight
from .outward import back, read, up
from .power import image_size

EXACT = "exact up to rounding"


@dataclass(frozen=True)
class Bound:
    """A bound of the spectral norm ‖A‖₂ of the linear map of a layer.

    Attributes:
        value: the bound; ∞ if no float64 number is large enough.
        method: a key of ``SPECTRAL_METHODS``.
        kind: "upper", "lower", or "exact up to rounding", which is an upper bound too.
        holds_for: "this matrix", "every image size", or "images of 32×32".
        certified: it is a theorem about the exact map with the stored weights.  Otherwise its rounding is not covered.
        iterations: steps of the method; 0 if it has none.
    """

    value: float
    method: str
    kind: str
    holds_for: str
    certified: bool
    iterations: int = 0


def bound(
    layer_or_weight: nn.Module | Tensor | Convolution,
    method: str = "auto",
    *,
    size: int | Pair | None = None,
    certify: bool = True,
    iterations: int | None = None,
) -> Bound:
    """Returns a bound of the spectral norm of a layer, by default a certificate.

    A certificate holds for the exact real linear map of the stored weights, in ℓ2.  All rounding of float64 is bounded
    and added; docs/spectral.md has the proofs.  It says nothing of the bias, which does not change a norm, and nothing
    of the rounding of the layer itself.

    Args:
        layer_or_weight: ``nn.Linear``, ``nn.Conv1d``, ``nn.Conv2d``, a dense weight (out, in), or a ``Convolution``.
        method: a key of ``SPECTRAL_METHODS``; "auto" takes that of ``ON_DEVICE`` for the device of the weight.
        size: (height, width) of the images, or one number for both; for ``nn.Conv1d`` the length.  None: every size.
        certify: False leaves the allowance for rounding out; it is needed for lower bounds.
        iterations: of "gram", "norm2toep" and "power"; more are tighter.  None: a number that fits the method.

    Raises:
        TypeError: no bound is known for this layer, or an argument has a wrong type.
        ValueError: an argument is not as described, a weight is not finite, or a lower bound is to be a certificate.
        RuntimeError: the process does not compute as the proofs assume, or the layer has hooks.
    """
    map_ = describe(layer_or_weight, size)
    name, row = _row(method, map_)
    if certify and row.upper is None:
        raise ValueError(
            f"method={name!r} gives a lower bound of the norm, which certifies nothing: a layer divided by it may "
            "still stretch; take another method, or certify=False"
        )
    if name == "matrix":
        _check_size(map_)
    weight, exponent = read(map_.weight)
    problem = prepare(with_weight(map_, weight), trim=True)
    steps = _steps(name, row, row.steps(problem), iterations)
    if not (weight != 0).any():
        value = 0.0
    elif certify:
        value = back(_with_copies(row, row.upper(problem, steps), problem), exponent)
    else:
        with torch.no_grad():
            found = row.estimate(problem, steps).item()
        value = back(found * math.sqrt(problem.copies if row.copies else 1), exponent)
    kind = EXACT if row.tight and (problem.exact or name == "matrix") else row.kind
    dense = isinstance(layer_or_weight, (nn.Linear, Tensor))
    return Bound(value, name, kind, "this matrix" if dense else _holds_for(map_, name), certify, steps)


def norm(
    layer_or_weight: nn.Module | Tensor | Convolution,
    method: str = "gram",
    *,
    size: int | Pair | None = None,
    iterations: int | None = None,
) -> Tensor:
    """Returns the bound of a method as a tensor () for training: differentiable, in the dtype of the weight.

    It is no certificate: rounding in float32 takes about half of all Gram bounds below the norm.  The gradient of
    "gram" has a closed form and cannot be differentiated again; "matrix" has none.

    Args:
        layer_or_weight, method, size, iterations: as for ``bound``.  By default there are fewer iterations.

    Raises:
        TypeError, ValueError, RuntimeError: as ``bound``.
    """
    map_ = describe(layer_or_weight, size)
    name, row = _row(method, map_)
    if name == "matrix":
        _check_size(map_)
    weight = map_.weight
    if not weight.detach().isfinite().all():
        raise ValueError("weight must not hold NaN or infinite values")
    wide = weight.float() if weight.dtype in (torch.float16, torch.bfloat16) else weight
    largest = wide.detach().abs().max()
    largest = torch.where(largest > 0, largest, 1)  # squares of numbers near 1 neither overflow nor vanish
    problem = prepare(with_weight(map_, wide / largest), trim=False)
    with torch.autocast(weight.device.type, enabled=False):
        found = row.estimate(problem, _steps(name, row, row.training, iterations)) * largest
    return (found * math.sqrt(problem.copies) if row.copies else found).to(weight.dtype)


def _row(method: str, map_: Convolution) -> tuple[str, Method]:
    if method == "auto":
        method = ON_DEVICE.get(map_.weight.device.type, "svd")
    if method not in SPECTRAL_METHODS:
        raise ValueError(f"method must be one of auto, {', '.join(SPECTRAL_METHODS)}, got {method!r}")
    return method, SPECTRAL_METHODS[method]


def _steps(name: str, row: Method, usual: int, iterations: int | None) -> int:
    if iterations is None:
        return usual
    check_count("iterations", iterations, 0)
    if not row.training:
        raise ValueError(f"iterations={iterations}: the method {name!r} does not iterate")
    return iterations


def _check_size(map_: Convolution) -> None:
    if map_.size is None and not (map_.reach == (0, 0) and map_.stride == (1, 1) and map_.padding == ((0, 0), (0, 0))):
        raise ValueError("size: the method 'matrix' needs the size of the images")


def _with_copies(row: Method, value: float, problem: Problem) -> float:
    return up(value * math.sqrt(problem.copies), 2) if row.copies and problem.copies > 1 else value


def _holds_for(map_: Convolution, name: str) -> str:
    if map_.size is None and name != "power":
        return "every image size"
    return "images of {}×{}".format(*image_size(map_))
