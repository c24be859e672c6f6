"""Leaves ``torch.inference_mode``, whose tensors autograd cannot save: some bounds are found by gradient steps."""

import copy
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

F = TypeVar("F", bound=Callable)


def outside_inference(function: F) -> F:
    """Makes a function compute outside of inference mode, on copies of the inference tensors among its arguments.

    It reads containers, and the perturbation ``ptb`` of a tensor, which auto_LiRPA's inputs have.  It does not read
    modules.  Gradients stay switched on or off; in inference mode they are off.  The results are ordinary tensors.
    """

    @functools.wraps(function)
    def computed(*args, **kwargs):
        inside = torch.is_inference_mode_enabled()
        if not inside and not any(map(_is_inference, tree_leaves((args, kwargs)))):
            return function(*args, **kwargs)
        grad = torch.is_grad_enabled()  # leaving inference mode would switch gradients on
        with torch.inference_mode(False), torch.set_grad_enabled(grad):
            args, kwargs = tree_map(_ordinary, (args, kwargs))
            return function(*args, **kwargs)

    return computed


def _is_inference(value: Any) -> bool:
    if not isinstance(value, Tensor):
        return False
    perturbation = getattr(value, "ptb", None)
    parts = () if perturbation is None else vars(perturbation).values()
    return value.is_inference() or any(map(_is_inference, parts))


def _ordinary(value: Any) -> Any:
    """Returns a value, or an ordinary copy of an inference tensor."""
    if not _is_inference(value):
        return value
    with torch._C.DisableTorchFunctionSubclass():  # or else a subclass may answer with itself
        plain = Tensor.clone(value)
    perturbation = getattr(value, "ptb", None)
    if perturbation is None:
        return plain
    perturbation = copy.copy(perturbation)
    vars(perturbation).update({key: _ordinary(part) for key, part in vars(perturbation).items()})
    return type(value)(plain, perturbation)
