"""What a BoundedModule of our layers refuses, before it computes anything: a net that has changed since it was
traced, modes without rules, perturbations other than ℓ∞ boxes, and boxes that are empty or not numbers."""

import functools
import inspect
import math

import torch
from torch import Tensor, nn

from ..layers.distance import LinfDistConv2d, LinfDistLinear
from ..layers.shifts import MeanShift
from ..layers.sort import SortDistLinear
from . import fresh
from .reading import check_reading, has_our_operators
from .refused import check_operators
from .walk import depend_on_mode

GUARDED = (LinfDistLinear, LinfDistConv2d, SortDistLinear, MeanShift)

# auto_LiRPA's names of methods, in lower case as it compares them; both versions, but for dynamic-forward.
METHODS = (
    "ibp",
    "crown-ibp",
    "ibp+backward",
    "ibp+crown",
    "crown",
    "backward",
    "crown-optimized",
    "alpha-crown",
    "forward",
    "forward+backward",
    "forward+crown",
)
WITHOUT_RULES = {  # name → what to use instead
    "forward-optimized": "CROWN-Optimized",  # no net runs with it: auto_LiRPA forgets the α of forward mode
    "dynamic-forward": "Forward",
    "dynamic-forward+backward": "Forward+Backward",
    "dynamic-forward+crown": "Forward+Backward",
}
# auto_LiRPA's shortcuts for stable ReLUs do not fit together in every net: 0.3's assertions fail in α-CROWN of a ReLU
# behind a convolution.  They save time, and change no bound.
WITHOUT_SHORTCUTS = {"sparse_intermediate_bounds": False, "sparse_spec_alpha": False, "sparse_features_alpha": False}
# compute_bounds's arguments that map a node's name to (lower, upper), in either version
GIVEN_BOUNDS = ("intermediate_layer_bounds", "interm_bounds", "reference_bounds", "aux_reference_bounds")


def check_padding(model: nn.Module) -> None:
    """Raises ValueError for a convolution that auto_LiRPA does not read: padded by name, or with other than zeros,
    which it would take for zeros."""
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if isinstance(layer.padding, str):
            raise ValueError(
                f"layer {name!r} (Conv2d) has padding={layer.padding!r}, which auto_LiRPA cannot read: give numbers"
            )
        if layer.padding_mode != "zeros":
            raise ValueError(
                f"layer {name!r} (Conv2d) has padding_mode={layer.padding_mode!r}, but auto_LiRPA has bounds for zeros "
                "only"
            )


def _check_modes(model: nn.Module) -> None:
    """Raises ValueError where the trace would be of training mode: auto_LiRPA gives all layers that of the model."""
    wrong = depend_on_mode(model) if model.training else []
    wrong += [(name, m) for name, m in model.named_modules() if m.training and isinstance(m, GUARDED)]
    for name, layer in wrong:
        raise ValueError(
            f"model is in training mode, at layer {name!r} ({type(layer).__name__}): call model.eval() before "
            "bounding it"
        )


def default_options(model: nn.Module) -> dict:
    """auto_LiRPA's options for a net that does not say otherwise: ``WITHOUT_SHORTCUTS``, and coefficients as a matrix
    where there is a convolution with groups or a dilation, which it forgets where it keeps them as image patches."""
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    simple = all(m.groups == 1 and m.dilation == (1, 1) for m in convolutions)
    return dict(WITHOUT_SHORTCUTS) if simple else {**WITHOUT_SHORTCUTS, "conv_mode": "matrix"}


def _check_method(bounded, method: str | None, IBP: bool, forward: bool) -> bool:
    """Whether the method computes forward bounds first and then backward ones."""
    if method is None and IBP:
        return False
    name = method.lower() if isinstance(method, str) else method
    if name in WITHOUT_RULES:
        raise NotImplementedError(
            f"distance layers have no bounds by method={method!r}: use {WITHOUT_RULES[name]!r} instead"
        )
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    forward = forward or name.startswith("forward")
    if forward and bounded.bound_opts.get("dynamic_forward"):
        raise NotImplementedError("distance layers have no bounds by dynamic_forward: leave it out of bound_opts")
    return forward and name != "forward"


def _check_perturbation(name: str, perturbation) -> None:
    """Raises ValueError unless it is a box."""
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
    """The same for all that a node of the traced graph depends on, for nets that call our operators without our layers.

    Of other perturbations auto_LiRPA keeps ε out of the interval, and a box rule would see a box of width 0.
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
    """Where wrong is first true."""
    return tuple(wrong.nonzero()[0].tolist())


def _is_finite(a: Tensor) -> bool:
    """A finite sum, which is quick to take, has finite parts alone; one that is not finite may have overflowed."""
    return bool(a.sum().isfinite()) or bool(a.isfinite().all())


def _check_not_nan(name: str, value: Tensor) -> None:
    wrong = value.isnan()
    if wrong.any():
        raise ValueError(f"{name} is NaN at {list(_first(wrong))}")


def _check_ends(name: str, x: Tensor, box) -> tuple[Tensor, Tensor]:
    """Raises ValueError unless x_L ≤ x_U, both finite, and eps ≥ 0 where an end comes from it.  Returns both."""
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
    """Raises ValueError where auto_LiRPA's backward bounds after forward ones would be wrong, for any net.

    It compresses a box that is mostly points to the coordinates that move, as many as move in some sample, and knows
    the compressed box from the whole one by that number alone: wrong where all move in some sample, and of two ends
    that come from eps it has only the compressed ones.
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
            "auto_LiRPA would give wrong bounds, so bound that sample apart, or use CROWN"
        )


def _check_inputs(bounded, x, backward_after_forward: bool) -> None:
    """The inputs of this call or, where x is None, those of the last one; and the parameters."""
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


def _check_given(argument: str, bounds: dict) -> None:
    """Raises ValueError for bounds that are NaN or crossed, but for rounding: bounds at a point can cross by that."""
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


def guard_bounded_module(bounded_module: type) -> None:
    """Makes ``BoundedModule`` check what it is asked about models with distance layers or mean shifts.

    ``BoundedModule(model, …)`` then raises ValueError for such a model in training mode, with a convolution that
    ``check_padding`` refuses, or where ``check_reading`` finds that the traced graph computes another function; and
    takes ``default_options`` where its ``bound_opts`` do not say otherwise.  ``forward`` and ``compute_bounds``
    raise RuntimeError after a change of the net that the traced graph does not see (``fresh``).
    ``compute_bounds`` also raises, before it computes anything,

    * ValueError for an unknown method, and NotImplementedError for one in ``WITHOUT_RULES``;
    * ValueError for an input that is NaN, or whose perturbation is not an ℓ∞ box with finite ends in order;
    * ValueError for a box that auto_LiRPA would mistake (``_check_compressible``);
    * ValueError for a perturbed parameter;
    * ValueError for given intermediate bounds that are NaN or crossed by more than rounding;
    * NotImplementedError for an operator whose bounds would be wrong (``refused.TABLE``).

    The same holds for models that call operators of ours without our layers.  Of models with other layers of ours only
    a change is noticed, of models without any nothing.
    """
    init, forward, compute_bounds = bounded_module.__init__, bounded_module.forward, bounded_module.compute_bounds
    check_incompatible_nodes = bounded_module.check_incompatible_nodes
    init_signature, signature = inspect.signature(init), inspect.signature(compute_bounds)

    @functools.wraps(init)
    def guarded_init(self, model, *args, **kwargs):
        if isinstance(model, bounded_module):
            init(self, model, *args, **kwargs)  # which copies all attributes of the other
            return
        guarded = any(isinstance(layer, GUARDED) for layer in model.modules())
        call = init_signature.bind(self, model, *args, **kwargs)
        if guarded:
            _check_modes(model)
            check_padding(model)
            call.arguments["bound_opts"] = {**default_options(model), **(call.arguments.get("bound_opts") or {})}
        record = fresh.Record.before(model, call.arguments["global_input"])
        init(*call.args, **call.kwargs)
        record.complete(self)
        self._linf_baked, self._linf_checked = guarded or has_our_operators(self), False
        self._linf_record, self._linf_watched = record, guarded or fresh.has_ours(model, *self._modules.values())
        self._linf_unread = (model,)  # what check_reading compares the graph with, once
        if has_our_operators(self):
            check_reading(self)

    @functools.wraps(forward)
    def guarded_forward(self, *args, **kwargs):
        if not getattr(self, "_linf_watched", False) or self._linf_checked:
            return forward(self, *args, **kwargs)
        self._linf_record.check()
        found = forward(self, *args, **kwargs)
        self._linf_record.note_inputs()
        return found

    @functools.wraps(compute_bounds)
    def guarded_compute_bounds(self, *args, **kwargs):
        # Optimisation calls it again and again, with what has been checked and with bounds of its own.
        if not getattr(self, "_linf_watched", False) or self._linf_checked:
            return compute_bounds(self, *args, **kwargs)
        self._linf_record.check()
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        if isinstance(asked["x"], Tensor):  # 0.3 would take it for a tuple of its rows, without their perturbation
            asked["x"] = (asked["x"],)
        if asked["x"] is None or asked.get("reuse_ibp"):
            self._linf_record.check_inputs()
        if self._linf_baked:
            backward_after_forward = _check_method(self, asked["method"], asked["IBP"], asked["forward"])
            with torch.no_grad():
                _check_inputs(self, asked["x"], backward_after_forward)
                for argument in GIVEN_BOUNDS:
                    _check_given(argument, asked.get(argument) or {})
            check_operators(self, asked["x"], asked["method"])
        self._linf_checked = True
        try:
            found = compute_bounds(*call.args, **call.kwargs)
            if asked["x"] is not None and not asked.get("reuse_ibp"):
                self._linf_record.note_inputs()
            return found
        finally:
            self._linf_checked = False

    @functools.wraps(check_incompatible_nodes)
    def keep_mode(self, model):
        # It would trace a net with dropout in training mode, mean shifts and all, and leave the net itself in it.
        if model.training or not fresh.has_ours(model):
            check_incompatible_nodes(self, model)

    bounded_module.__init__ = guarded_init
    bounded_module.check_incompatible_nodes = keep_mode
    bounded_module.forward = guarded_forward
    bounded_module.compute_bounds = guarded_compute_bounds
