"""``dist_conv2d`` and its range over boxes: (N, C, H, W) × (out, C/groups, kh, kw) → (N, out, H', W').

Each operator applies the one of ``dist`` to every window.  Gradients at p = ∞ use an index, as in ``distance``.
The last arguments of each operator are the four fields of a ``Geometry``.  A gradient takes further arguments after
them, which say what gradients are wanted.
"""

import math
from functools import partial

import torch
from torch import Tensor

from ..arguments import MOST_FEATURES, check_exponent, check_index, check_operands, check_p, check_shape, check_windows
from ..kernels import composed, windows
from ..kernels.geometry import Geometry
from .distance import kernels_for
from .operator import Reverse, define, like, only, reverse_of, run, some


def empty_maps(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    return x.new_empty(geometry.output_shape(x.shape, w.shape))


# ``dist_conv2d_with_index``: the distance at p = ∞ and the index of its coordinate, for a gradient at p = ∞.


def _dist_conv2d_with_index(
    x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor]:
    fn = kernels_for(math.inf, x, w).dist_with_index
    return windows.apply(fn, (x,), w, Geometry(stride, padding, dilation, groups), (x.dtype, torch.int32))


def _check_with_index(x, w, *geometry):
    check_operands(x=x, w=w)
    check_windows(x.shape, w.shape, *geometry)
    if math.prod(w.shape[1:]) >= MOST_FEATURES:
        raise ValueError(
            f"a window must have fewer than {MOST_FEATURES} coordinates for an index, got {tuple(w.shape)}"
        )


def _shapes_with_index(x, w, *geometry):
    y = empty_maps(x, w, Geometry(*geometry))
    return y, torch.empty_like(y, dtype=torch.int32)


def _composed_with_index(x, w, *geometry):
    return composed.by_windows(composed.dist_with_index, (x,), w, Geometry(*geometry))


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
    """``image`` is (C, H, W), and ``kernel`` is (C/groups, kh, kw)."""
    kernels, wanted = kernels_for(math.inf, grad), (need_x, need_w)

    def vjp(maps, images, w):
        return kernels.index_vjp(*maps, math.prod(kernel), wanted)

    shapes, geometry = _shapes(grad, image, kernel), Geometry(stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, (grad, index), (), None, shapes, geometry, wanted), grad)


def _shapes(grad, image, kernel):
    """Returns the shapes of the images and of w."""
    return (len(grad), *image), (grad.shape[1], *kernel)


def _check_index_backward(grad, index, image, kernel, stride, padding, dilation, groups, *wanted):
    check_operands(grad=grad)
    if grad.dim() != 4:
        raise ValueError(f"grad must have shape (N, out, H', W'), got {tuple(grad.shape)}")
    for name, sizes, names in (("image", image, "(C, H, W)"), ("kernel", kernel, "(C/groups, kh, kw)")):
        if len(sizes) != 3 or min(sizes) < 0:
            raise ValueError(f"{name} must be {names}, got {list(sizes)}")
    shapes, geometry = _shapes(grad, image, kernel), Geometry(stride, padding, dilation, groups)
    check_windows(*shapes, *geometry, name="image")
    check_shape("grad", grad, geometry.output_shape(*shapes))
    check_index(index, grad, math.prod(kernel))


def _shapes_index_backward(grad, index, image, kernel, stride, padding, dilation, groups, *wanted):
    return some(wanted, tuple(map(grad.new_empty, _shapes(grad, image, kernel))), grad)


def _composed_index_backward(grad, index, image, kernel, stride, padding, dilation, groups, *wanted):
    def vjp(maps, images, w):
        return composed.index_vjp(*maps, math.prod(kernel))

    shapes, geometry = _shapes(grad, image, kernel), Geometry(stride, padding, dilation, groups)
    return some(wanted, composed.vjp_by_windows(vjp, (grad, index), (), None, shapes, geometry), grad)


index_conv2d_backward = define(
    _index_conv2d_backward,
    tensors=2,
    check=_check_index_backward,
    shapes=_shapes_index_backward,
    composed=_composed_index_backward,
)


def _index_grads(ctx, grad, index, constants):
    """Returns the gradients of the two tensors that follow the operator, or None where they are not wanted."""
    wanted = ctx.needs_input_grad[2:4]
    return only(wanted, index_conv2d_backward(grad, index, *constants, *wanted))


class _WithIndex(Reverse):
    """The gradient of ``dist_conv2d_with_index``."""

    @staticmethod
    def forward(ctx, below, op, x, w, *geometry):
        y, index = run(below, op, x, w, *geometry)
        ctx.constants = x.shape[1:], w.shape[1:], *geometry
        ctx.save_for_backward(index)
        ctx.mark_non_differentiable(index)
        return y, index

    @staticmethod
    def backward(ctx, grad, _):
        return None, None, *_index_grads(ctx, grad, *ctx.saved_tensors, ctx.constants), *(None for _ in range(4))


dist_conv2d_with_index = define(
    _dist_conv2d_with_index,
    tensors=2,
    check=_check_with_index,
    shapes=_shapes_with_index,
    composed=_composed_with_index,
    reverse=_WithIndex,
    rows=1,
)


# ``dist_conv2d`` at any p.


def _dist_conv2d(
    x: Tensor, w: Tensor, p: float, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    kernels, geometry = kernels_for(p, x, w), Geometry(stride, padding, dilation, groups)
    return windows.apply(lambda a, b: (kernels.dist(a, b, p),), (x,), w, geometry, (x.dtype,))[0]


def _check(x, w, p, *geometry):
    check_operands(x=x, w=w)
    check_windows(x.shape, w.shape, *geometry)
    check_exponent(p)


def _composed(x, w, p, *geometry):
    return composed.by_windows(lambda a, b: (composed.dist(a, b, p),), (x,), w, Geometry(*geometry))[0]


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

    shapes, geometry = (x.shape, w.shape), Geometry(stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, (grad, y), (x,), w, shapes, geometry, wanted), x)


def _check_backward(grad, x, w, y, p, stride, padding, dilation, groups, *wanted):
    check_operands(x=x, w=w, grad=grad, y=y)
    geometry = Geometry(stride, padding, dilation, groups)
    check_windows(x.shape, w.shape, *geometry)
    maps = geometry.output_shape(x.shape, w.shape)
    check_shape("grad", grad, maps)
    check_shape("y", y, maps)
    check_exponent(p)


def _composed_backward(grad, x, w, y, p, stride, padding, dilation, groups, *wanted):
    def vjp(maps, images, w):
        return composed.dist_vjp(maps[0], *images, w, maps[1], p)

    shapes, geometry = (x.shape, w.shape), Geometry(stride, padding, dilation, groups)
    return some(wanted, composed.vjp_by_windows(vjp, (grad, y), (x,), w, shapes, geometry), x)


dist_conv2d_backward = define(
    _dist_conv2d_backward,
    tensors=4,
    check=_check_backward,
    shapes=lambda grad, x, w, y, p, stride, padding, dilation, groups, *wanted: some(wanted, like(x, w), x),
    composed=_composed_backward,
)


class _DistConv2d(Reverse):
    @staticmethod
    def forward(ctx, below, op, x, w, p, *geometry):
        if p == math.inf and math.prod(w.shape[1:]) < MOST_FEATURES:
            y, index = run(below, dist_conv2d_with_index, x, w, *geometry)
            ctx.constants = x.shape[1:], w.shape[1:], *geometry
            ctx.save_for_backward(index)
        else:
            y = run(below, op, x, w, p, *geometry)
            ctx.save_for_backward(x, w, y)
            ctx.constants = p, *geometry
        return y

    @staticmethod
    def backward(ctx, grad):
        saved = ctx.saved_tensors  # read once: a checkpoint computes them again at each read
        if len(saved) == 1:
            return None, None, *_index_grads(ctx, grad, *saved, ctx.constants), *(None for _ in range(5))
        wanted = ctx.needs_input_grad[2:4]
        found = dist_conv2d_backward(grad, *saved, *ctx.constants, *wanted)
        return None, None, *only(wanted, found), *(None for _ in range(5))


dist_conv2d_operator = define(
    _dist_conv2d,
    tensors=2,
    check=_check,
    shapes=lambda x, w, p, *geometry: empty_maps(x, w, Geometry(*geometry)),
    composed=_composed,
    reverse=_DistConv2d,
    rows=1,
    float32=True,
)


def dist_conv2d(x: Tensor, w: Tensor, p: float, geometry: Geometry) -> Tensor:
    """Returns ``dist`` of each window of x and each kernel of w.  Zeros pad x, and count like other coordinates.

    Zhang et al. (arXiv 2102.05363), section 3.1, without the bias.

    Args:
        x: (N, C, H, W), float32 or float64.
        w: (out, C/groups, kh, kw), with the dtype and the device of x.
        p: exponent in [1, ∞].
        geometry: the places of the windows.

    Returns:
        (N, out, H', W').  Its derivatives make the same choices at kinks as those of ``dist``.

    Raises:
        TypeError: a tensor is not float32 or float64, dtypes differ, or p is not a number.
        ValueError: p is NaN or below 1, shapes do not fit, no window fits into the image, or devices differ.
    """
    return dist_conv2d_operator(x, w, check_p(p), *geometry)


# ``box_conv2d``: the range of ``dist_conv2d`` over a box.


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
    return windows.apply(fn, (lower, upper), w, Geometry(stride, padding, dilation, groups), (w.dtype, w.dtype))


def _check_ends(lower, upper, w, *geometry):
    check_windows(lower.shape, w.shape, *geometry, name="lower")
    check_shape("upper", upper, lower.shape)


def _check_box(lower, upper, w, p, *geometry):
    check_operands(lower=lower, upper=upper, w=w)
    _check_ends(lower, upper, w, *geometry)
    check_exponent(p)


def _shapes_box(lower, upper, w, p, *geometry):
    return tuple(empty_maps(end, w, Geometry(*geometry)) for end in (lower, upper))


def _composed_box(lower, upper, w, p, *geometry):
    return composed.by_windows(partial(composed.box_dist, p=p), (lower, upper), w, Geometry(*geometry))


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

    shapes, geometry = (lower.shape, w.shape), Geometry(stride, padding, dilation, groups)
    return some(wanted, windows.apply_vjp(vjp, maps, (lower, upper), w, shapes, geometry, wanted), w)


def _check_box_backward(grad_near, grad_far, lower, upper, w, near, far, p, stride, padding, dilation, groups, *wanted):
    check_operands(lower=lower, upper=upper, w=w, grad_near=grad_near, grad_far=grad_far, near=near, far=far)
    geometry = Geometry(stride, padding, dilation, groups)
    _check_ends(lower, upper, w, *geometry)
    maps = geometry.output_shape(lower.shape, w.shape)
    for name, a in (("grad_near", grad_near), ("grad_far", grad_far), ("near", near), ("far", far)):
        check_shape(name, a, maps)
    check_exponent(p)


def _shapes_box_backward(gn, gf, lower, upper, w, near, far, p, stride, padding, dilation, groups, *wanted):
    return some(wanted, like(lower, upper, w), w)


def _composed_box_backward(
    grad_near, grad_far, lower, upper, w, near, far, p, stride, padding, dilation, groups, *wanted
):
    def vjp(maps, images, w):
        return composed.box_dist_vjp(*maps[:2], *images, w, *maps[2:], p)

    maps = (grad_near, grad_far, near, far)
    shapes, geometry = (lower.shape, w.shape), Geometry(stride, padding, dilation, groups)
    return some(wanted, composed.vjp_by_windows(vjp, maps, (lower, upper), w, shapes, geometry), w)


box_conv2d_backward = define(
    _box_conv2d_backward,
    tensors=7,
    check=_check_box_backward,
    shapes=_shapes_box_backward,
    composed=_composed_box_backward,
)


box_conv2d_operator = define(
    _box_conv2d,
    tensors=3,
    check=_check_box,
    shapes=_shapes_box,
    composed=_composed_box,
    reverse=reverse_of(box_conv2d_backward, 3),
    rows=2,
    float32=True,
)
