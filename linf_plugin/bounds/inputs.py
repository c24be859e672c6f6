"""Checks of what is bounded: inputs and their boxes, and bounds that are given, for nets of our layers."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

OF_SHAPES = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)  # what shapes that do not fit raise


def _check_perturbation(name: str, perturbation) -> None:
    """Raises ValueError unless the perturbation is an ℓ∞ box."""
    from auto_LiRPA import PerturbationLpNorm

    if not isinstance(perturbation, PerturbationLpNorm):
        kind = type(perturbation).__name__
    elif perturbation.norm != math.inf:
        kind = f"PerturbationLpNorm with norm={perturbation.norm}"
    else:
        return
    raise ValueError(
        f"{name} has a {kind}, but distance layers have bounds for ℓ∞ boxes only: use "
        "PerturbationLpNorm(norm=math.inf, …) with eps, or with x_L and x_U"
    )


def check_box(node) -> None:
    """Raises ValueError unless all perturbations on which a node of the traced graph depends are ℓ∞ boxes.

    It is for nets that call our operators without our layers.  With other perturbations auto_LiRPA keeps ε out of the
    interval, and a rule for boxes would see a box of width 0.
    """
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        pending += current.inputs
        perturbation = getattr(current, "perturbation", None)
        if perturbation is not None:
            _check_perturbation(current.ori_name, perturbation)


def _first(wrong: Tensor) -> tuple[int, ...]:
    """Returns the first place at which ``wrong`` is true."""
    return tuple(wrong.nonzero()[0].tolist())


def _is_finite(a: Tensor) -> bool:
    """Whether all numbers are finite.

    The sum is quick to compute.  If it is finite, all numbers are; if it is not, it may have overflowed.
    """
    return bool(a.sum().isfinite()) or bool(a.isfinite().all())


def _check_not_nan(name: str, value: Tensor) -> None:
    wrong = value.isnan()
    if wrong.any():
        raise ValueError(f"{name} is NaN at {list(_first(wrong))}")


def _check_ends(name: str, x: Tensor, box) -> tuple[Tensor, Tensor]:
    """Returns both ends.  Raises ValueError unless x_L ≤ x_U, both are finite, and an eps that gives an end is ≥ 0."""
    ends = []
    for end, sign, formula in (("x_L", -1, "x − eps"), ("x_U", 1, "x + eps")):
        given = getattr(box, end)
        if given is None:
            eps = torch.as_tensor(box.eps)
            wrong = ~(eps >= 0)
            if wrong.any():
                raise ValueError(f"the eps of {name} must be at least 0, got {eps[_first(wrong)].item()}")
            end, given = formula, x + sign * box.eps
        given = torch.as_tensor(given)
        if not _is_finite(given):
            at = _first(~given.isfinite())
            raise ValueError(f"the box of {name} must be finite, but {end} is {given[at].item()} at {list(at)}")
        ends.append((end, given))
    (low, lower), (high, upper) = ends
    lower, upper = torch.broadcast_tensors(lower, upper)
    wrong = lower > upper
    if wrong.any():
        at = _first(wrong)
        raise ValueError(
            f"the box of {name} must have {low} ≤ {high}, got {lower[at].item()} and {upper[at].item()} at {list(at)}"
        )
    return lower, upper


def _check_compressible(name: str, lower: Tensor, upper: Tensor, box) -> None:
    """Raises ValueError if auto_LiRPA's backward bounds after forward bounds would be wrong, for any net.

    auto_LiRPA compresses a box that is a point in most coordinates to the coordinates that move: as many as move in the
    sample with the most.  It tells the compressed box from the whole one only by that number.  This is wrong if all
    coordinates of a sample move.  Of two ends that come from eps it only has the compressed ones.
    """
    if lower.numel() <= 1:
        return
    moving = (lower < upper).reshape(len(lower), -1).sum(1)
    if 2 * moving.sum() >= lower.numel():
        return
    if box.x_L is None or box.x_U is None:
        raise ValueError(f"the box of {name} is a point in most coordinates: give x_L and x_U, not eps, or use CROWN")
    if moving.max().clamp_min(1) == lower[0].numel():
        raise ValueError(
            f"the box of {name} is a point in most coordinates, but in none of sample {int(moving.argmax())}: "
            "auto_LiRPA would give wrong bounds, so bound that sample separately, or use CROWN"
        )


def check_inputs(bounded, x, backward_after_forward: bool) -> None:
    """Checks the parameters and the inputs of this call; if x is None, the inputs of the last call."""
    from auto_LiRPA.utils import unpack_inputs

    given = None if x is None else unpack_inputs(x)
    index_of = dict(zip(bounded.input_name, bounded.input_index))  # None for parameters and buffers
    for node in bounded._modules.values():
        index, perturbation = index_of.get(node.name), getattr(node, "perturbation", None)
        if index is None:
            if perturbation is not None:
                raise ValueError(
                    f"parameter {node.ori_name!r} is perturbed, but nets with distance layers have bounds for exact "
                    "parameters only"
                )
            continue
        value = node.value
        if given is not None:
            if index >= len(given):
                raise ValueError(f"x must hold an input x[{index}], got {len(given)} inputs")
            value, perturbation = given[index], getattr(given[index], "ptb", None)
        if perturbation is not None:
            _check_perturbation(f"x[{index}]", perturbation)
        if isinstance(value, Tensor):
            _check_not_nan(f"x[{index}]", value)
        if perturbation is not None:
            ends = _check_ends(f"x[{index}]", value, perturbation)
            if backward_after_forward:
                _check_compressible(f"x[{index}]", *ends, perturbation)


def check_given(argument: str, bounds: dict) -> None:
    """Raises ValueError for bounds that are NaN or cross by more than rounding.  Bounds at a point can cross by it."""
    for node, (lower, upper, *_) in bounds.items():
        name = f"{argument}[{node!r}]"
        for end in (lower, upper):
            if end is not None:
                _check_not_nan(name, end)
        if lower is None or upper is None:
            continue
        rounding = torch.finfo(lower.dtype).eps ** 0.5
        wrong = (lower > upper) & ~torch.isclose(lower, upper, rtol=rounding, atol=rounding)
        if wrong.any():
            at = _first(wrong)
            raise ValueError(
                f"{name} must have lower ≤ upper, got {lower[at].item()} and {upper[at].item()} at {list(at)}"
            )


def check_samples(bounded, x) -> None:
    """Raises ValueError if an input has another number of dimensions than at the trace, as an input without samples."""
    from auto_LiRPA.utils import unpack_inputs

    for i, (given, traced) in enumerate(zip(unpack_inputs(x or ()), unpack_inputs(bounded.global_input))):
        if isinstance(given, Tensor) and isinstance(traced, Tensor) and given.dim() != traced.dim():
            raise ValueError(
                f"x[{i}] must have {traced.dim()} dimensions, the first one for the samples, as when the BoundedModule "
                f"was made; got shape {tuple(given.shape)}"
            )


@contextlib.contextmanager
def naming_samples(bounded) -> Iterator[None]:
    """Replaces an error by a ValueError if its reason is the number of samples.

    The graph may take only the number of samples of the trace; ``check_reading`` finds that out.
    """
    from auto_LiRPA import __version__ as version
    from auto_LiRPA.utils import unpack_inputs

    try:
        yield
    except Exception as error:
        if not getattr(bounded, "_linf_fixed", False) or type(error) not in OF_SHAPES:
            raise
        traced = unpack_inputs(bounded.global_input)
        for name, i in zip(bounded.input_name, bounded.input_index):
            given = getattr(bounded[name], "value", None) if i is not None else None
            if isinstance(given, Tensor) and given.dim() and len(given) != len(traced[i]):
                raise ValueError(
                    f"x[{i}] must have {len(traced[i])} samples, got {len(given)}: auto_LiRPA {version} has read their "
                    "number as a constant, so make the BoundedModule with as many samples as you bound"
                ) from error
        raise
