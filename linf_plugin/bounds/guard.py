"""A BoundedModule bakes each p and each running mean in when it is made.  Bounds after a later change would
be bounds of another net, so they are refused."""

import functools

import torch
from torch import nn

from ..layers import MeanShift, distance_layers


def _baked(model: nn.Module) -> list[tuple[str, nn.Module, object]]:
    """(name, layer, value) of what tracing turns into constants."""
    names = {m: name for name, m in model.named_modules()}
    return [(names[m], m, m.p) for m in distance_layers(model)] + [
        (names[m], m, m.running_mean.clone()) for m in model.modules() if isinstance(m, MeanShift)
    ]


def _check_fresh(baked: list[tuple[str, nn.Module, object]]) -> None:
    for name, layer, value in baked:
        if not isinstance(layer, MeanShift):
            if layer.p != value:
                raise RuntimeError(
                    f"layer {name!r} now has p={layer.p}, but this BoundedModule was made with p={value}: make it again"
                )
            continue
        if layer.training:
            raise RuntimeError(f"layer {name!r} is in training mode: call eval() on the model before bounding it")
        if not torch.equal(layer.running_mean.to(value), value):
            raise RuntimeError(
                f"the running mean of layer {name!r} has changed since this BoundedModule was made: make it again"
            )


def guard_bounded_module(bounded_module: type) -> None:
    """Makes ``BoundedModule`` remember what it bakes in from distance layers and mean shifts, and check it.

    ``BoundedModule(model, …)`` then raises ValueError for a model of ours in training mode, and ``forward``
    and ``compute_bounds`` raise RuntimeError after a change of p, of a running mean, or of the mode.
    Models without our layers notice nothing.
    """
    init, methods = bounded_module.__init__, ("forward", "compute_bounds")

    @functools.wraps(init)
    def guarded_init(self, model, *args, **kwargs):
        baked = [] if isinstance(model, bounded_module) else _baked(model)
        if baked and any(m.training for _, m, _ in baked):
            raise ValueError("model is in training mode: call model.eval() before bounding it")
        init(self, model, *args, **kwargs)
        if not isinstance(model, bounded_module):
            self._linf_baked = baked

    bounded_module.__init__ = guarded_init
    for name in methods:
        method = getattr(bounded_module, name)

        def guarded(self, *args, _method=method, **kwargs):
            _check_fresh(getattr(self, "_linf_baked", ()))
            return _method(self, *args, **kwargs)

        setattr(bounded_module, name, functools.wraps(method)(guarded))
