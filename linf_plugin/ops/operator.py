"""How an operator ``torch.ops.linf.*`` is made: its check, its shapes, its derivatives and its vmap.

Every operator takes tensors first and then constants.  Whoever calls it, and whether or not it is traced, its
arguments are checked before anything else happens.

* First derivatives in reverse mode, eager or by ``torch.func``: an ``autograd`` function of compiled operators, where
  the operator has one.
* All others (forward mode, derivatives of derivatives, in any composition): ``composed``, the same function made of
  PyTorch's operators.
* vmap: one call where the batch can join the rows; else a call for each element.
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
    """An operator's gradient in reverse mode, at one level of transforms.

    ``forward(ctx, below, op, *args)`` computes by ``run(below, op, *args)``.
    """


def run(below, op, *args):
    """The operator below autograd.  Levels of transforms further out see it with their own derivatives, which are
    switched off in an autograd function."""
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
        kernel: computes it; its signature is the schema.
        tensors: how many tensors it takes, before all else.
        check: raises ValueError or TypeError where the operator does not take its arguments.
        shapes: empty results, as the kernel would return them.
        composed: the same function, of the same arguments, made of PyTorch's differentiable operators.
        reverse: gradients in reverse mode; those of ``composed`` where there is none.
        rows: how many of the first tensors, and all results, have a first dimension along which samples are
            independent.
        float32: whether autocast casts to float32.
    """
    name = kernel.__name__.removeprefix("_")
    LIBRARY.define(name + torch.library.infer_schema(kernel, mutates_args=()))
    op = getattr(torch.ops.linf, name).default
    parameters = list(inspect.signature(kernel).parameters.values())
    defaults = tuple(a.default for a in parameters)

    def whole(args: tuple) -> tuple:  # the dispatcher leaves arguments out that are the schema's default
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
        # In forward mode any tensor may have a tangent, which PyTorch's operators carry on.
        if not forward_mode and not (torch.is_grad_enabled() and any(a.requires_grad for a in args[:tensors])):
            return op.redispatch(below, *args)
        args = whole(args)
        check(*args)
        if forward_mode or reverse is None:
            return composed(*args)
        if not transforms:
            return reverse.apply(below, op, *args)
        with enable_single_level_autograd_function():  # the dispatcher has come to one level; Function would begin anew
            return super(Function, reverse).apply(below, op, *args)

    def batched(info, in_dims, *args):
        return _batched(op, rows, info.batch_size, in_dims[: len(args)], args)

    LIBRARY.impl(name, checked, "CompositeExplicitAutograd")
    LIBRARY.impl(name, differentiable, "Autograd", with_keyset=True)
    torch.library.register_fake(f"linf::{name}", fake, lib=LIBRARY)
    torch.library.register_vmap(f"linf::{name}", batched, lib=LIBRARY)
    if float32:  # a 16-bit coordinate difference raised to a power p is noise
        for device in ("cpu", "cuda"):
            torch.library.register_autocast(f"linf::{name}", device, torch.float32, lib=LIBRARY)
    return op


def _batched(op, rows: int, size: int, in_dims: tuple, args: tuple):
    """(results, their batch dimensions): the operator at each index of the batch dimensions of its tensors."""
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
    """The arguments at one index of the batch; at None, zeros of their shapes, for a batch without elements."""

    def one(a: Tensor, d: int) -> Tensor:
        return a.new_zeros(a.shape[:d] + a.shape[d + 1 :]) if index is None else a.select(d, index)

    return [a if d is None else one(a, d) for a, d in zip(args, dims)]


def some(wanted: tuple[bool, ...], grads: tuple[Any, ...], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors: an empty one stands for a gradient that is not wanted, which may be None."""
    return tuple(g if want else like.new_empty(0) for want, g in zip(wanted, grads, strict=True))


def only(wanted: tuple[bool, ...], grads: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """The inverse of ``some``, for autograd: None stands for a gradient that is not wanted."""
    return tuple(g if want else None for want, g in zip(wanted, grads, strict=True))


def like(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Empty tensors of their shapes."""
    return tuple(a.new_empty(a.shape) for a in tensors)


def reverse_of(backward, tensors: int, save_outputs: bool = True) -> type[Reverse]:
    """The gradient of an operator of ``tensors`` tensors and constants: ``backward`` takes the gradients of its
    results, its tensors (and its results, if saved), its constants, and whether each tensor's gradient is wanted."""

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
