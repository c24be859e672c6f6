"""Makes the operators ``torch.ops.linf.*``: their checks, shapes, derivatives and vmap.

Every operator takes tensors first and then constants.  It always checks its arguments before it does anything else,
for every caller and also while it is traced.

* First derivatives in reverse mode, eager or by ``torch.func``, use an ``autograd`` function of compiled operators, if
  the operator has one.
* All other derivatives (forward mode, derivatives of derivatives, any composition of them) use ``composed``, the same
  function made of PyTorch's operators.
* vmap makes one call if the batch can join the rows, else one call for each element.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _are_functorch_transforms_active
from torch._C._functorch import TransformType, peek_interpreter_stack
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function, forward_ad

LIBRARY = torch.library.Library("linf", "FRAGMENT")


class Reverse(Function):
    """The gradient of an operator in reverse mode, at one level of transforms.

    ``forward(ctx, below, op, *args)`` must compute its results by ``run(below, op, *args)``.
    """


def run(below, op, *args):
    """Runs the operator below autograd.

    An autograd function switches derivatives off.  Outer levels of transforms need their own derivatives of the
    operator, so this switches them on again.
    """
    if not _are_functorch_transforms_active():
        return op.redispatch(below, *args)
    with torch.enable_grad(), forward_ad._set_fwd_grad_enabled(True):
        return op.redispatch(below, *args)


def define(
    kernel: Callable,
    *,
    tensors: int,
    check: Callable,
    shapes: Callable,
    composed: Callable,
    reverse: type[Reverse] | None = None,
    rows: int = 0,
    float32: bool = False,
):
    """Registers the operator ``linf::<kernel's name without a leading underscore>``, and returns it.

    Args:
        kernel: the function that computes the operator; its signature is the schema.
        tensors: the number of tensors, which are the first arguments.
        check: raises ValueError or TypeError if the operator does not accept the arguments.
        shapes: returns empty tensors with the shapes and the dtypes of the results.
        composed: the same function with the same arguments, made of PyTorch's differentiable operators.
        reverse: the gradient in reverse mode; without it, ``composed`` gives the gradient.
        rows: how many of the first tensors have independent samples along their first dimension; all results then
            have them too.
        float32: whether autocast casts the tensors to float32.
    """
    name = kernel.__name__.removeprefix("_")
    LIBRARY.define(name + torch.library.infer_schema(kernel, mutates_args=()))
    op = getattr(torch.ops.linf, name).default
    parameters = list(inspect.signature(kernel).parameters.values())
    defaults = tuple(a.default for a in parameters)

    def whole(args: tuple) -> tuple:  # the dispatcher leaves out arguments equal to the schema's default
        return args if len(args) == len(defaults) else args + defaults[len(args) :]

    def checked(*args):
        args = whole(args)
        check(*args)
        return kernel(*args)

    def fake(*args):
        args = whole(args)
        check(*args)
        return shapes(*args)

    def differentiable(keyset, *args):
        below = keyset & torch._C._after_autograd_keyset
        transforms, forward_mode = _are_functorch_transforms_active(), forward_ad._current_level >= 0
        if transforms and not forward_mode:  # compiled transforms do not set the level
            forward_mode = peek_interpreter_stack().key() == TransformType.Jvp
        # In forward mode any tensor may have a tangent, and PyTorch's operators propagate it.
        if not forward_mode and not (torch.is_grad_enabled() and any(a.requires_grad for a in args[:tensors])):
            return op.redispatch(below, *args)
        args = whole(args)
        check(*args)
        if forward_mode or reverse is None:
            return composed(*args)
        if not transforms:
            return reverse.apply(below, op, *args)
        # The dispatcher has already come to one level of transforms; ``Function.apply`` would start with all of them.
        with enable_single_level_autograd_function():
            return super(Function, reverse).apply(below, op, *args)

    def batched(info, in_dims, *args):
        return _batched(op, rows, info.batch_size, in_dims[: len(args)], args)

    LIBRARY.impl(name, checked, "CompositeExplicitAutograd")
    LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    torch.library.register_fake(f"linf::{name}", fake, lib=LIBRARY)
    torch.library.register_vmap(f"linf::{name}", batched, lib=LIBRARY)
    if float32:  # the power p of a 16-bit difference is noise
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"linf::{name}", device, torch.float32, lib=LIBRARY)
    return op


def _batched(op, rows: int, size: int, in_dims: tuple, args: tuple):
    """Applies the operator at each index of the batch.  Returns the results and their batch dimensions."""
    dims = [d if isinstance(a, Tensor) else None for a, d in zip(args, in_dims)]
    if rows and size and all(d is None for d in dims[rows:]):
        joined = [
            (a.unsqueeze(0).expand(size, *a.shape) if d is None else a.movedim(d, 0)).flatten(0, 1)
            for a, d in zip(args[:rows], dims)
        ]
        y = op(*joined, *args[rows:])
        y = tuple(a.unflatten(0, (size, -1 if len(a) else 0)) for a in (y if isinstance(y, tuple) else (y,)))
    else:
        each = [_at(args, dims, i) for i in range(size)] or [_at(args, dims, None)]
        found = [op(*a) for a in each]
        found = [a if isinstance(a, tuple) else (a,) for a in found]
        y = tuple(torch.stack(a)[:size] for a in zip(*found))
    return (y, (0,) * len(y)) if len(y) > 1 else (y[0], 0)


def _at(args: tuple, dims: list, index: int | None) -> list:
    """Returns the arguments at one index of the batch.  None, for an empty batch, gives zeros of their shapes."""

    def one(a: Tensor, d: int) -> Tensor:
        return a.new_zeros(a.shape[:d] + a.shape[d + 1 :]) if index is None else a.select(d, index)

    return [a if d is None else one(a, d) for a, d in zip(args, dims)]


def some(wanted: tuple[bool, ...], grads: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    """Replaces each gradient that is not wanted (it may be None) by an empty tensor: operators return only tensors."""
    return tuple(g if want else like.new_empty(0) for want, g in zip(wanted, grads, strict=True))


def only(wanted: tuple[bool, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The inverse of ``some``, for autograd: replaces each gradient that is not wanted by None."""
    return tuple(g if want else None for want, g in zip(wanted, grads, strict=True))


def like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Returns an empty tensor of the shape of each."""
    return tuple(a.new_empty(a.shape) for a in tensors)


def reverse_of(backward, tensors: int, save_outputs: bool = True) -> type[Reverse]:
    """Returns the gradient of an operator that takes ``tensors`` tensors and then constants.

    ``backward`` takes the gradients of the results, the tensors, the results (if they are saved), the constants, and
    for each tensor whether its gradient is wanted.
    """

    class Gradient(Reverse):
        @staticmethod
        def forward(ctx, below, op, *args):
            y = run(below, op, *args)
            outputs = (y if isinstance(y, tuple) else (y,)) if save_outputs else ()
            ctx.save_for_backward(*args[:tensors], *outputs)
            ctx.constants = args[tensors:]
            return y

        @staticmethod
        def backward(ctx, *grads):
            wanted = ctx.needs_input_grad[2 : 2 + tensors]
            found = backward(*grads, *ctx.saved_tensors, *ctx.constants, *wanted)
            return None, None, *only(wanted, found), *(None for _ in ctx.constants)

    return Gradient
