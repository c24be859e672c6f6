"""Finds nets that decide by the values of their inputs.  A trace of such a net sees one of its branches only."""

import traceback
import warnings

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..graphs.capture import LIBRARIES

# Functions of a tensor whose result does not depend on the numbers in it.
ABOUT = {
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "storage_offset",
    "element_size",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "get_device",
    "data_ptr",
    "is_pinned",
    "is_same_size",
    "type",
    "__len__",
    "__hash__",
    "is_inference",
    "is_conj",
    "is_neg",
    "has_names",
    "is_set_to",
    "result_type",
    "can_cast",
}


class DecidesByValues(TypeError):
    """A net turns values that depend on its input into Python numbers."""


class _Watch(TorchFunctionMode):
    """Raises DecidesByValues where numbers that depend on ``inputs`` become Python numbers, or avoid a trace."""

    def __init__(self, inputs: list[Tensor]):
        super().__init__()
        # Tensors that depend on the inputs, by their memory, which views share.  They are kept, so that no other tensor
        # gets the same memory.
        self.kept, self.depend = list(inputs), {_memory(a) for a in inputs}
        self.found: DecidesByValues | None = None  # also if the net itself catches the error

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if not any(_memory(a) in self.depend for a in given):
            return found
        name = getattr(function, "__name__", "")
        found = list(found) if name == "__iter__" else found
        made = [a for a in tree_leaves(found) if isinstance(a, Tensor)]
        # An attribute, such as .shape, has the name __get__; .T is traced, .data is not.
        hidden = name == "__get__" and getattr(function, "__self__", None) is Tensor.data
        read = not made and found is not None and name not in ABOUT | {"__get__", "__iter__"}
        if hidden or read:
            self.found = DecidesByValues(".data" if hidden else name)
            raise self.found
        for a in made or given:  # a function without a result has changed what it was given
            self.kept.append(a)
            self.depend.add(_memory(a))
        return iter(found) if name == "__iter__" else found


def _memory(a: Tensor) -> tuple:
    """Returns what tensors of the same memory have in common."""
    try:
        return "memory", a.untyped_storage().data_ptr() or id(a)
    except (NotImplementedError, RuntimeError):  # there is none
        return "object", id(a)


@torch.no_grad()
def check_values(model: nn.Module, *inputs: Tensor) -> None:
    """Raises TypeError if the model decides by values of its inputs, such as in ``if x.mean() > 0``.

    auto_LiRPA would trace the branch that one sample takes, and give its bounds for all others.  A value that is turned
    into a Python number or a text counts as a decision; sizes do not.

    Args:
        model: in evaluation mode.
        inputs: its arguments; the model runs once on copies of them.
    """
    inputs = [a.detach().as_subclass(Tensor).clone() for a in inputs]
    watch = _Watch(inputs)
    try:
        with warnings.catch_warnings(), watch:
            warnings.simplefilter("ignore")
            model(*inputs)
    except Exception:
        if watch.found is None:
            raise
    if watch.found is not None:
        raise TypeError(
            f"{type(model).__name__} decides by values: it turns numbers that depend on its input into Python's "
            f"({watch.found}{_place(watch.found)}). auto_LiRPA reads the branch that one sample takes, and its bounds "
            "would be wrong for others: write it with torch.where, or leave it out"
        ) from None


def _place(error: Exception) -> str:
    """Returns the last line of the user's code that led to the error; empty if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(LIBRARIES)]
    return f", at {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
