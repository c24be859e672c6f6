"""Requests that a BoundedModule of our layers refuses before it computes anything.

It refuses a net that has changed since it was traced, modes without rules, perturbations other than ℓ∞ boxes, and boxes
that are empty, infinite or NaN.
"""

import functools
import inspect

import torch
from torch import Tensor, nn

from .. import ops
from ..inference import outside_inference
from . import fresh
from .decides import check_values
from .inputs import check_given, check_inputs, check_samples, naming_samples
from .reading import check_reading, has_our_operators
from .refused import check_operators
from .traced import TRACED, Traced, check_traced
from .walk import depend_on_mode

GUARDED = tuple(kind for kind, row in TRACED.items() if isinstance(row, Traced) and row.guarded)

# The methods that both versions of auto_LiRPA know, except dynamic-forward; in lower case, as auto_LiRPA compares them.
LIRPA_NAMES = (
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
# auto_LiRPA's shortcuts for stable ReLUs save time.  In 0.3 they give wrong CROWN bounds where ReLUs take both h and −h
# and such blocks follow each other, and an assertion fails in α-CROWN of a ReLU behind a convolution.
WITHOUT_SHORTCUTS = {"sparse_intermediate_bounds": False, "sparse_spec_alpha": False, "sparse_features_alpha": False}
# compute_bounds's arguments that map a node's name to (lower, upper), in either version
GIVEN_BOUNDS = ("intermediate_layer_bounds", "interm_bounds", "reference_bounds", "aux_reference_bounds")


def check_padding(model: nn.Module) -> None:
    """Raises ValueError for a convolution that auto_LiRPA reads wrongly.

    These are convolutions whose padding is given by name, or that pad with other values than zeros, which auto_LiRPA
    would take for zeros.
    """
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d):
            continue
        if isinstance(layer.padding, str):
            raise ValueError(
                f"layer {name!r} (Conv2d) has padding={layer.padding!r}, which auto_LiRPA cannot read: give numbers"
            )
        if layer.padding_mode != "zeros":
            raise ValueError(
                f"layer {name!r} (Conv2d) has padding_mode={layer.padding_mode!r}, but auto_LiRPA has bounds only for "
                "zeros"
            )


def _check_modes(model: nn.Module) -> None:
    """Raises ValueError if the trace would be in training mode.  auto_LiRPA gives all layers the mode of the model."""
    wrong = depend_on_mode(model) if model.training else []
    wrong += [(name, m) for name, m in model.named_modules() if m.training and isinstance(m, GUARDED)]
    for name, layer in wrong:
        raise ValueError(
            f"model is in training mode, at layer {name!r} ({type(layer).__name__}): call model.eval() before "
            "bounding it"
        )


@torch.no_grad()
def _check_run(model: nn.Module, inputs) -> None:
    """Raises ValueError if a distance layer gets an input without samples; TypeError for several outputs, or decisions.

    Elsewhere the layers take an input without samples.  auto_LiRPA would take its features for samples.
    """
    from auto_LiRPA.utils import unpack_inputs

    device = next((a.device for a in model.parameters()), None)
    inputs = unpack_inputs(inputs) if device is None else unpack_inputs(inputs, device=device)
    with ops.shift_as_one_operator():
        found = model(*inputs)
    if not isinstance(found, Tensor):
        raise TypeError(
            f"model must return one tensor, got {type(found).__name__}: bound a module that returns one of its "
            "outputs, or all of them joined by torch.cat"
        )
    check_values(model, *inputs)


def _check_parameters(model: nn.Module) -> None:
    """Raises ValueError for a parameter that was made in inference mode: nobody sees when it changes."""
    for name, parameter in model.named_parameters():
        if parameter.is_inference():
            raise ValueError(
                f"parameter {name!r} was made in torch.inference_mode(), in which PyTorch does not count its changes: "
                "make the net outside of it, or bound copy.deepcopy(model), made outside of it"
            )


def default_options(model: nn.Module) -> dict:
    """Returns the options of auto_LiRPA for a net, unless the caller gives others.

    They are ``WITHOUT_SHORTCUTS``, and coefficients as a matrix if a convolution has groups or a dilation.  auto_LiRPA
    forgets groups and dilations if it keeps coefficients as image patches.
    """
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    simple = all(m.groups == 1 and m.dilation == (1, 1) for m in convolutions)
    return dict(WITHOUT_SHORTCUTS) if simple else {**WITHOUT_SHORTCUTS, "conv_mode": "matrix"}


def _avoid_patches(bounded) -> None:
    """Keeps coefficients as a matrix if the graph has a convolution with groups or a dilation, also without a layer."""
    nodes = bounded._modules.values()
    if any(type(n).__name__ == "BoundConv" and (n.groups != 1 or any(d != 1 for d in n.dilation)) for n in nodes):
        bounded.conv_mode = "matrix"
        for node in nodes:
            if getattr(node, "mode", None) == "patches":
                node.mode = "matrix"


def _check_method(bounded, method: str | None, IBP: bool, forward: bool) -> bool:
    """Whether the method computes forward bounds first and then backward bounds.

    Raises ValueError for an unknown method, and NotImplementedError for one without rules.
    """
    if method is None and IBP:
        return False
    name = method.lower() if isinstance(method, str) else method
    if name in WITHOUT_RULES:
        raise NotImplementedError(
            f"distance layers have no bounds by method={method!r}: use {WITHOUT_RULES[name]!r} instead"
        )
    if name not in LIRPA_NAMES:
        raise ValueError(f"method must be one of {', '.join(LIRPA_NAMES)}, got {method!r}")
    forward = forward or name.startswith("forward")
    if forward and bounded.bound_opts.get("dynamic_forward"):
        raise NotImplementedError("distance layers have no bounds by dynamic_forward: leave it out of bound_opts")
    return forward and name != "forward"


def refuse_jacobian(node) -> None:
    """Raises NotImplementedError for a Jacobian through one of our operators, which have no rules for it."""
    raise NotImplementedError(
        f"node {node.name!r} ({type(node).__name__}) has no bounds of Jacobians: bound the net's output, or use "
        "linf_plugin.lipschitz_bound, which bounds the whole Jacobian in a norm"
    )


def guard_bounded_module(bounded_module: type) -> None:
    """Makes ``BoundedModule`` check requests about models with distance layers or mean shifts.

    ``BoundedModule(model, …)`` then raises ValueError for such a model if it is in training mode, if it has a
    convolution that ``check_padding`` refuses, if a distance layer gets no samples, or if ``check_reading`` finds that
    the traced graph computes another function; TypeError if it returns no tensor, or decides by values of its input
    (``decides``).  It takes ``default_options`` unless its ``bound_opts`` say otherwise.  ``forward`` and
    ``compute_bounds`` raise RuntimeError after a change of the net that the traced graph does not see (``fresh``).
    ``compute_bounds`` also raises, before it computes anything,

    * ValueError for an unknown method, and NotImplementedError for one in ``WITHOUT_RULES``;
    * ValueError for an input without samples;
    * ValueError for an input that is NaN, or whose perturbation is not an ℓ∞ box with finite ends in order;
    * ValueError for a box that auto_LiRPA would mistake (``inputs``);
    * ValueError for a perturbed parameter;
    * ValueError for given intermediate bounds that are NaN or crossed by more than rounding;
    * NotImplementedError for an operator whose bounds would be wrong (``refused.TABLE``), and for linear bounds of a
      node that joins samples.

    The same holds for models that call our operators without our layers.  For models with other layers of ours, only a
    change of the net is noticed.  For models with none of our layers or operators, nothing is checked, except that
    parameters made in inference mode are refused.  All models are traced in their own mode, and all methods leave
    inference mode.
    """
    init, forward, compute_bounds = bounded_module.__init__, bounded_module.forward, bounded_module.compute_bounds
    check_incompatible_nodes = bounded_module.check_incompatible_nodes
    init_signature, signature = inspect.signature(init), inspect.signature(compute_bounds)

    @functools.wraps(init)
    def guarded_init(self, model, *args, **kwargs):
        if isinstance(model, bounded_module):
            init(self, model, *args, **kwargs)  # this copies all attributes of the other one
            return
        _check_parameters(model)
        check_traced(model)
        guarded = any(isinstance(layer, GUARDED) for layer in model.modules())
        call = init_signature.bind(self, model, *args, **kwargs)
        chosen = "conv_mode" in (call.arguments.get("bound_opts") or {})
        if guarded:
            _check_modes(model)
            check_padding(model)
            _check_run(model, call.arguments["global_input"])
        options = default_options(model) if guarded else WITHOUT_SHORTCUTS
        call.arguments["bound_opts"] = {**options, **(call.arguments.get("bound_opts") or {})}
        record = fresh.Record.before(model, call.arguments["global_input"])
        init(*call.args, **call.kwargs)
        record.complete(self)
        self._linf_baked, self._linf_checked = guarded or has_our_operators(self), False
        if self._linf_baked and not chosen:
            _avoid_patches(self)
        self._linf_record, self._linf_watched = record, guarded or fresh.has_ours(model, *self._modules.values())
        self._linf_shapes = {n: tuple(node.output_shape) for n, node in self._modules.items() if node.output_shape}
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
        # Optimisation calls this many times, with arguments that have been checked and with its own bounds.
        if not getattr(self, "_linf_watched", False) or self._linf_checked:
            with naming_samples(self):
                return compute_bounds(self, *args, **kwargs)
        self._linf_record.check()
        call = signature.bind(self, *args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        if isinstance(asked["x"], Tensor):  # 0.3 would take it for a tuple of its rows, without perturbation
            asked["x"] = (asked["x"],)
        if asked["x"] is None or asked.get("reuse_ibp"):
            self._linf_record.check_inputs()
        if self._linf_baked:
            backward_after_forward = _check_method(self, asked["method"], asked["IBP"], asked["forward"])
            check_samples(self, asked["x"])
            with torch.no_grad():
                check_inputs(self, asked["x"], backward_after_forward)
                for argument in GIVEN_BOUNDS:
                    check_given(argument, asked.get(argument) or {})
            check_operators(self, asked["x"], asked["method"])
        self._linf_checked = True
        try:
            with naming_samples(self):
                found = compute_bounds(*call.args, **call.kwargs)
            if asked["x"] is not None and not asked.get("reuse_ibp"):
                self._linf_record.note_inputs()
            return found
        finally:
            self._linf_checked = False

    @functools.wraps(check_incompatible_nodes)
    def keep_mode(self, model):
        # The original traces a net with dropout in training mode, mean shifts included, and leaves it in that mode.
        # In evaluation mode dropout does nothing, and the trace leaves it out.
        if model.training:
            check_incompatible_nodes(self, model)

    for name, method in (
        ("__init__", guarded_init),
        ("forward", guarded_forward),
        ("compute_bounds", guarded_compute_bounds),
    ):
        setattr(bounded_module, name, outside_inference(method))
    bounded_module.check_incompatible_nodes = keep_mode
