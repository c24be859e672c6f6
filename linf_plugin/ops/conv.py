"""``dist_conv2d`` and its range over boxes: (N, C, H, W) × (out, C/groups, kh, kw) → (N, out, H', W').

Each operator is the one of ``dist`` at every window; gradients at p = ∞ go by an index, as there.
"""

import math
from functools import partial

import torch
from torch import Tensor

from ..arguments import MOST_FEATURES, check_exponent, check_index, check_operands, check_shape, check_windows
from ..kernels import composed, windows
from .distance import kernels_for
from .operator import Reverse, define, like, reverse_of, run, some


def _empty_maps(x: Tensor, w: Tensor, *conv) -> Tensor:
    return x.new_empty(windows.output_shape(x.shape, w.shape, conv))


# At p = ∞, for a gradient.


def _dist_conv2d_with_index(
    x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor]:
    fn = kernels_for(math.inf, x, w).dist_with_index
    return windows.apply(fn, (x,), w, (stride, padding, dilation, groups), (x.dtype, torch.int32))


def _check_with_index(x, w, *conv):
    check_operands(x=x, w=w)
    check_windows(x.shape, w.shape, *conv)
    if math.prod(w.shape[1:]) >= MOST_FEATURES:
        raise ValueError(
            f"a window must have fewer than {MOST_FEATURES} coordinates for an index, got {tuple(w.shape)}"
        )


def _index_conv2d_backward(
    grad: Tensor,
    index: Tensor,
    image: list[int],
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_x: bool = True,
    need_w: bool = True,
) -> tuple[Tensor, Tensor]:
    """image: (C, H, W).  kernel: (C/groups, kh, kw)."""
    kernels, wanted = kernels_for(math.inf, grad), (need_x, need_w)

    def vjp(maps, images, w):
        return kernels.index_vjp(*maps, math.prod(kernel), wanted)

    shapes, conv = _shapes(grad, image, kernel), (stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, (grad, index), (), None, shapes, conv, wanted), grad)


def _shapes(grad, image, kernel):
    """Of the images and of w."""
    return (len(grad), *image), (grad.shape[1], *kernel)


def _check_index_backward(grad, index, image, kernel, *conv_and_wanted):
    check_operands(grad=grad)
    if grad.dim() != 4:
        raise ValueError(f"grad must have shape (N, out, H', W'), got {tuple(grad.shape)}")
    for name, sizes, names in (("image", image, "(C, H, W)"), ("kernel", kernel, "(C/groups, kh, kw)")):
        if len(sizes) != 3 or min(sizes) < 0:
            raise ValueError(f"{name} must be {names}, got {list(sizes)}")
    shapes, conv = _shapes(grad, image, kernel), conv_and_wanted[:4]
    check_windows(*shapes, *conv, name="image")
    check_shape("grad", grad, windows.output_shape(*shapes, conv))
    check_index(index, grad, math.prod(kernel))


def _composed_index_backward(grad, index, image, kernel, *conv_and_wanted):
    def vjp(maps, images, w):
        return composed.index_vjp(*maps, math.prod(kernel))

    shapes = _shapes(grad, image, kernel)
    found = composed.vjp_by_windows(vjp, (grad, index), (), None, shapes, conv_and_wanted[:4])
    return some(conv_and_wanted[4:], found, grad)


index_conv2d_backward = define(
    _index_conv2d_backward,
    tensors=2,
    check=_check_index_backward,
    shapes=lambda grad, index, image, kernel, *conv: some(
        conv[4:], tuple(map(grad.new_empty, _shapes(grad, image, kernel))), grad
    ),
    composed=_composed_index_backward,
)


class _WithIndex(Reverse):
    """``dist_conv2d`` at p = ∞ and where each maximum is."""

    @staticmethod
    def forward(ctx, below, op, x, w, *conv):
        y, index = run(below, op, x, w, *conv)
        ctx.constants = x.shape[1:], w.shape[1:], *conv
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index)
        return y, index

    @staticmethod
    def backward(ctx, grad, _):
        return None, None, *_index_grads(ctx, grad, *ctx.saved_tensors), *(None for _ in range(4))


def _index_grads(ctx, grad, index):
    """The gradients of the two tensors that come after the operator, where they are wanted."""
    wanted = ctx.needs_input_grad[2:4]
    found = index_conv2d_backward(grad, index, *ctx.constants, *wanted)
    return tuple(g if want else None for want, g in zip(wanted, found))


dist_conv2d_with_index = define(
    _dist_conv2d_with_index,
    tensors=2,
    check=_check_with_index,
    shapes=lambda x, w, *conv: (_empty_maps(x, w, *conv), _empty_maps(x, w, *conv).to(torch.int32)),
    composed=lambda x, w, *conv: composed.by_windows(composed.dist_with_index, (x,), w, conv),
    reverse=_WithIndex,
    rows=1,
)


# At any p.


def _dist_conv2d_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    y: Tensor,
    p: float,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_x: bool = True,
    need_w: bool = True,
) -> tuple[Tensor, Tensor]:
    kernels, wanted = kernels_for(p, x, w, grad, y), (need_x, need_w)

    def vjp(maps, images, w):
        return kernels.dist_vjp(maps[0], *images, w, maps[1], p, wanted)

    shapes, conv = (x.shape, w.shape), (stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, (grad, y), (x,), w, shapes, conv, wanted), x)


def _check_backward(grad, x, w, y, p, *conv_and_wanted):
    check_operands(x=x, w=w, grad=grad, y=y)
    conv = conv_and_wanted[:4]
    check_windows(x.shape, w.shape, *conv)
    maps = windows.output_shape(x.shape, w.shape, conv)
    check_shape("grad", grad, maps)
    check_shape("y", y, maps)
    check_exponent(p)


def _composed_backward(grad, x, w, y, p, *conv_and_wanted):
    def vjp(maps, images, w):
        return composed.dist_vjp(maps[0], *images, w, maps[1], p)

    found = composed.vjp_by_windows(vjp, (grad, y), (x,), w, (x.shape, w.shape), conv_and_wanted[:4])
    return some(conv_and_wanted[4:], found, x)


dist_conv2d_backward = define(
    _dist_conv2d_backward,
    tensors=4,
    check=_check_backward,
    shapes=lambda grad, x, w, y, p, *conv: some(conv[4:], like(x, w), x),
    composed=_composed_backward,
)


def _dist_conv2d(
    x: Tensor, w: Tensor, p: float, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    kernels = kernels_for(p, x, w)
    conv = (stride, padding, dilation, groups)
    return windows.apply(lambda a, b: (kernels.dist(a, b, p),), (x,), w, conv, (x.dtype,))[0]


def _check(x, w, p, *conv):
    check_operands(x=x, w=w)
    check_windows(x.shape, w.shape, *conv)
    check_exponent(p)


def _composed_dist(x, w, p, *conv):
    return composed.by_windows(lambda a, b: (composed.dist(a, b, p),), (x,), w, conv)[0]


class _DistConv2d(Reverse):
    @staticmethod
    def forward(ctx, below, op, x, w, p, *conv):
        if p == math.inf and math.prod(w.shape[1:]) < MOST_FEATURES:
            y, index = run(below, dist_conv2d_with_index, x, w, *conv)
            ctx.constants = x.shape[1:], w.shape[1:], *conv
            ctx.save_for_backward(index)
        else:
            y = run(below, op, x, w, p, *conv)
            ctx.save_for_backward(x, w, y)
            ctx.constants = p, *conv
        return y

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensors  # once: a checkpoint makes them anew each time
        if len(saved) == 1:
            return None, None, *_index_grads(ctx, grad, *saved), *(None for _ in range(5))
        wanted = ctx.needs_input_grad[2:4]
        found = dist_conv2d_backward(grad, *saved, *ctx.constants, *wanted)
        return None, None, *(g if want else None for want, g in zip(wanted, found)), *(None for _ in range(5))


dist_conv2d_operator = define(
    _dist_conv2d,
    tensors=2,
    check=_check,
    shapes=lambda x, w, p, *conv: _empty_maps(x, w, *conv),
    composed=_composed_dist,
    reverse=_DistConv2d,
    rows=1,
    float32=True,
)


# Over a box.


def _box_conv2d_backward(
    grad_near: Tensor,
    grad_far: Tensor,
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    near: Tensor,
    far: Tensor,
    p: float,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    need_lower: bool = True,
    need_upper: bool = True,
    need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    maps, wanted = (grad_near, grad_far, near, far), (need_lower, need_upper, need_w)
    kernels = kernels_for(p, lower, upper, w, *maps)

    def vjp(maps, images, w):
        return kernels.box_dist_vjp(*maps[:2], *images, w, *maps[2:], p, wanted)

    shapes, conv = (lower.shape, w.shape), (stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, maps, (lower, upper), w, shapes, conv, wanted), w)


def _check_box_backward(grad_near, grad_far, lower, upper, w, near, far, p, *conv_and_wanted):
    check_operands(lower=lower, upper=upper, w=w, grad_near=grad_near, grad_far=grad_far, near=near, far=far)
    conv = conv_and_wanted[:4]
    _check_ends(lower, upper, w, *conv)
    maps = windows.output_shape(lower.shape, w.shape, conv)
    for name, a in (("grad_near", grad_near), ("grad_far", grad_far), ("near", near), ("far", far)):
        check_shape(name, a, maps)
    check_exponent(p)


def _check_ends(lower, upper, w, *conv):
    check_windows(lower.shape, w.shape, *conv, name="lower")
    check_shape("upper", upper, lower.shape)


def _composed_box_backward(grad_near, grad_far, lower, upper, w, near, far, p, *conv_and_wanted):
    def vjp(maps, images, w):
        return composed.box_dist_vjp(*maps[:2], *images, w, *maps[2:], p)

    maps = (grad_near, grad_far, near, far)
    found = composed.vjp_by_windows(vjp, maps, (lower, upper), w, (lower.shape, w.shape), conv_and_wanted[:4])
    return some(conv_and_wanted[4:], found, w)


box_conv2d_backward = define(
    _box_conv2d_backward,
    tensors=7,
    check=_check_box_backward,
    shapes=lambda gn, gf, lower, upper, w, near, far, p, *conv: some(conv[4:], like(lower, upper, w), w),
    composed=_composed_box_backward,
)


def _box_conv2d(
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    p: float,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> tuple[Tensor, Tensor]:
    fn = partial(kernels_for(p, lower, upper, w).box_dist, p=p)
    return windows.apply(fn, (lower, upper), w, (stride, padding, dilation, groups), (w.dtype, w.dtype))


def _check_box(lower, upper, w, p, *conv):
    check_operands(lower=lower, upper=upper, w=w)
    _check_ends(lower, upper, w, *conv)
    check_exponent(p)


box_conv2d_operator = define(
    _box_conv2d,
    tensors=3,
    check=_check_box,
    shapes=lambda lower, upper, w, p, *conv: (_empty_maps(lower, w, *conv), _empty_maps(lower, w, *conv)),
    composed=lambda lower, upper, w, p, *conv: composed.by_windows(
        partial(composed.box_dist, p=p), (lower, upper), w, conv
    ),
    reverse=reverse_of(box_conv2d_backward, 3),
    rows=2,
    float32=True,
)
