"""``dist`` and its range over boxes: (N, in) × (out, in) → (N, out).

The compiled kernels compute it: ``kernels.cpu`` on the CPU and ``kernels.gpu`` on a CUDA GPU.  ``kernels.blocked``
computes it on other devices, and where there are no compiled kernels.

At p = ∞, the gradient goes to one coordinate of each pair.  If a gradient is needed, ``dist`` runs as
``dist_with_index``, which saves these coordinates.  Its backward is ``index_backward``, which reads neither x nor w.
Tools that trace above autograd (export, auto_LiRPA) see ``dist``.
"""

import math

import torch
from torch import Tensor

from ..arguments import (
    MOST_FEATURES,
    check_exponent,
    check_index,
    check_operands,
    check_p,
    check_pairs,
    check_shape,
    check_tensors,
)
from ..kernels import blocked, composed, cpu, gpu
from .operator import Reverse, define, like, only, reverse_of, run, some


def kernels_for(p: float, *tensors: Tensor):
    """Returns the module whose functions compute with these tensors: ``cpu``, ``gpu`` or ``blocked``."""
    return next((kernels for kernels in (cpu, gpu) if kernels.takes(p, *tensors)), blocked)


def empty_pairs(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


# ``dist_with_index``: the distance at p = ∞ and the index of its coordinate, for a gradient at p = ∞.


def _dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return kernels_for(math.inf, x, w).dist_with_index(x, w)


def _check_with_index(x, w):
    check_operands(x=x, w=w)
    check_pairs(x, w)
    if x.shape[1] >= MOST_FEATURES:
        raise ValueError(f"x must have fewer than {MOST_FEATURES} columns for an index, got {x.shape[1]}")


def _index_backward(
    grad: Tensor, index: Tensor, features: int, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    wanted = (need_x, need_w)
    return some(wanted, kernels_for(math.inf, grad).index_vjp(grad, index, features, wanted), grad)


def _check_index_backward(grad, index, features, *wanted):
    check_operands(grad=grad)
    if grad.dim() != 2:
        raise ValueError(f"grad must have shape (N, out), got {tuple(grad.shape)}")
    check_index(index, grad, features)


index_backward = define(
    _index_backward,
    tensors=2,
    check=_check_index_backward,
    shapes=lambda grad, index, features, *wanted: some(
        wanted, tuple(grad.new_empty(rows, features) for rows in grad.shape), grad
    ),
    composed=lambda grad, index, features, *wanted: some(wanted, composed.index_vjp(grad, index, features), grad),
)


def _index_grads(ctx, grad, index, features):
    """Returns the gradients of the two tensors that follow the operator, or None where they are not wanted."""
    wanted = ctx.needs_input_grad[2:4]
    return only(wanted, index_backward(grad, index, features, *wanted))


class _WithIndex(Reverse):
    """The gradient of ``dist_with_index``."""

    @staticmethod
    def forward(ctx, below, op, x, w):
        y, index = run(below, op, x, w)
        ctx.features = x.shape[1]
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index)
        return y, index

    @staticmethod
    def backward(ctx, grad, _):
        return None, None, *_index_grads(ctx, grad, *ctx.saved_tensors, ctx.features)


dist_with_index = define(
    _dist_with_index,
    tensors=2,
    check=_check_with_index,
    shapes=lambda x, w: (empty_pairs(x, w), empty_pairs(x, w).to(torch.int32)),
    composed=composed.dist_with_index,
    reverse=_WithIndex,
    rows=1,
)


# ``dist`` at any p.


def _dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    return kernels_for(p, x, w).dist(x, w, p)


def _check(x, w, p):
    check_operands(x=x, w=w)
    check_pairs(x, w)
    check_exponent(p)


def _dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    wanted = (need_x, need_w)
    return some(wanted, kernels_for(p, x, w, grad, y).dist_vjp(grad, x, w, y, p, wanted), x)


def _check_backward(grad, x, w, y, p, *wanted):
    check_operands(x=x, w=w, grad=grad, y=y)
    check_pairs(x, w)
    check_shape("grad", grad, (x.shape[0], w.shape[0]))
    check_shape("y", y, (x.shape[0], w.shape[0]))
    check_exponent(p)


dist_backward = define(
    _dist_backward,
    tensors=4,
    check=_check_backward,
    shapes=lambda grad, x, w, y, p, *wanted: some(wanted, like(x, w), x),
    composed=lambda grad, x, w, y, p, *wanted: some(wanted, composed.dist_vjp(grad, x, w, y, p), x),
)


class _Dist(Reverse):
    @staticmethod
    def forward(ctx, below, op, x, w, p):
        if p == math.inf and x.shape[1] < MOST_FEATURES:
            y, index = run(below, dist_with_index, x, w)
            ctx.features = x.shape[1]
            ctx.save_for_backward(index)
        else:
            y = run(below, op, x, w, p)
            ctx.save_for_backward(x, w, y)
            ctx.p = p
        return y

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensors  # read once: a checkpoint computes them again at each read
        if len(saved) == 1:
            return None, None, *_index_grads(ctx, grad, *saved, ctx.features), None
        wanted = ctx.needs_input_grad[2:4]
        return None, None, *only(wanted, dist_backward(grad, *saved, ctx.p, *wanted)), None


dist_operator = define(
    _dist,
    tensors=2,
    check=_check,
    shapes=lambda x, w, p: empty_pairs(x, w),
    composed=composed.dist,
    reverse=_Dist,
    rows=1,
    float32=True,
)


def dist(x: Tensor, w: Tensor, p: float = math.inf, check: bool = False) -> Tensor:
    """Returns the distances between the rows of x and the rows of w: y[n, k] = ‖x[n] − w[k]‖_p.

    Zhang et al., "Towards Certifying ℓ∞ Robustness using Neural Networks with ℓ∞-dist Neurons"
    (arXiv 2102.05363), equation 5, without the bias.

    Args:
        x: (N, in), float32 or float64.
        w: (out, in), with the dtype and the device of x.
        p: exponent in [1, ∞].
        check: whether to refuse NaN and infinite values too, which reads every element.

    Returns:
        (N, out).  Gradients are exact, and 0 where y = 0.  In a tie at p = ∞, the gradient goes to the lowest
        coordinate.  Derivatives of every order and mode follow these choices.

    Raises:
        TypeError: a tensor is not floating point, dtypes differ, or p is not a number.
        ValueError: p is NaN or below 1, shapes do not fit, or devices differ; with ``check``, a value is NaN or ±inf.
    """
    p = check_p(p)
    check_tensors(check, x=x, w=w)
    return dist_operator(x, w, p)


# ``box_dist``: the range of ``dist`` over a box.


def _box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    return kernels_for(p, lower, upper, w).box_dist(lower, upper, w, p)


def check_ends(lower, upper, w):
    """Raises ValueError unless lower and upper are (N, in) and w is (out, in)."""
    check_pairs(lower, w, "lower")
    check_shape("upper", upper, lower.shape)


def _check_box(lower, upper, w, p):
    check_operands(lower=lower, upper=upper, w=w)
    check_ends(lower, upper, w)
    check_exponent(p)


def _box_dist_backward(
    grad_near: Tensor,
    grad_far: Tensor,
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    near: Tensor,
    far: Tensor,
    p: float,
    need_lower: bool = True,
    need_upper: bool = True,
    need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_near, grad_far, lower, upper, w, near, far)
    wanted = (need_lower, need_upper, need_w)
    return some(wanted, kernels_for(p, *tensors).box_dist_vjp(*tensors, p, wanted), w)


def _check_box_backward(grad_near, grad_far, lower, upper, w, near, far, p, *wanted):
    check_operands(lower=lower, upper=upper, w=w, grad_near=grad_near, grad_far=grad_far, near=near, far=far)
    check_ends(lower, upper, w)
    for name, a in (("grad_near", grad_near), ("grad_far", grad_far), ("near", near), ("far", far)):
        check_shape(name, a, (lower.shape[0], w.shape[0]))
    check_exponent(p)


box_dist_backward = define(
    _box_dist_backward,
    tensors=7,
    check=_check_box_backward,
    shapes=lambda gn, gf, lower, upper, w, near, far, p, *wanted: some(wanted, like(lower, upper, w), w),
    composed=lambda gn, gf, lower, upper, w, near, far, p, *wanted: some(
        wanted, composed.box_dist_vjp(gn, gf, lower, upper, w, near, far, p), w
    ),
)


box_dist_operator = define(
    _box_dist,
    tensors=3,
    check=_check_box,
    shapes=lambda lower, upper, w, p: (empty_pairs(lower, w), empty_pairs(lower, w)),
    composed=composed.box_dist,
    reverse=reverse_of(box_dist_backward, 3),
    rows=2,
    float32=True,
)
