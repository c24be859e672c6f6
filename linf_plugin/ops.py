"""The operators ``torch.ops.linf.*``: schema, shapes, gradients, autocast; and the checked entries ``dist`` and
``sorted_dist``.

``dist``           (N, in) × (out, in) → (N, out)
``dist_conv2d``    (N, C, H, W) × (out, C/groups, kh, kw) → (N, out, H', W')
``sorted_dist``    as ``dist``: weighted sums of the largest coordinates, in blocked PyTorch on every device
``box_dist``, ``box_conv2d``, ``box_sorted_dist``   their exact ranges over a box; what interval bounds need
``shift``          (x + sign·offset)·scale, a channel at a time; what bound propagation sees of biases and means
The distances have a ``…_backward`` that is not itself differentiable.

On the CPU the compiled kernels do the work (``kernels.cpu``), on a CUDA GPU those of ``kernels.gpu``, elsewhere
and without them ``kernels.blocked``.
At p = ∞ the gradient goes to one coordinate a pair.  Where a gradient will be asked for, ``dist`` runs as
``dist_with_index``, which saves these coordinates, and its backward is ``index_backward``, which looks at
neither x nor w.  Who traces above autograd (export, auto_LiRPA) sees ``dist``.
"""

import contextlib
import contextvars
import math
from functools import partial

import torch
from torch import Tensor

from .arguments import check_k, check_p, check_rho, check_rows
from .kernels import blocked, cpu, gpu, windows

_define = partial(torch.library.custom_op, mutates_args=())
_library = torch.library.Library("linf", "FRAGMENT")
_library.define("dist(Tensor x, Tensor w, float p) -> Tensor")
_library.define(
    "dist_conv2d(Tensor x, Tensor w, float p, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups) -> Tensor"
)


def _kernels(p: float, *tensors: Tensor):
    """The module whose functions these tensors go to."""
    return next((kernels for kernels in (cpu, gpu) if kernels.takes(p, *tensors)), blocked)


def _some(wanted: tuple[bool, ...], grads: tuple[Tensor | None, ...], like: Tensor) -> tuple[Tensor, ...]:
    """An operator returns tensors: an empty one stands for a gradient that is not wanted.

    ``wanted`` may end early, because torch.compile leaves arguments out that are the schema's default, True.
    """
    wanted = wanted + (True,) * (len(grads) - len(wanted))
    return tuple(g if want else like.new_empty(0) for want, g in zip(wanted, grads, strict=True))


@torch.library.impl(_library, "dist", "CompositeExplicitAutograd")
def _dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    return _kernels(p, x, w).dist(x, w, p)


@_define("linf::dist_backward")
def _dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    wanted = (need_x, need_w)
    return _some(wanted, _kernels(p, x, w, grad, y).dist_vjp(grad, x, w, y, p, wanted), x)


@_define("linf::dist_with_index")
def _dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return _kernels(math.inf, x, w).dist_with_index(x, w)


@_define("linf::index_backward")
def _index_backward(
    grad: Tensor, index: Tensor, features: int, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    wanted = (need_x, need_w)
    return _some(wanted, _kernels(math.inf, grad).index_vjp(grad, index, features, wanted), grad)


@_define("linf::box_dist")
def _box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    return _kernels(p, lower, upper, w).box_dist(lower, upper, w, p)


@_define("linf::box_dist_backward")
def _box_dist_backward(
    grad_near: Tensor, grad_far: Tensor, lower: Tensor, upper: Tensor, w: Tensor,
    near: Tensor, far: Tensor, p: float, need_lower: bool = True, need_upper: bool = True, need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (grad_near, grad_far, lower, upper, w, near, far)
    wanted = (need_lower, need_upper, need_w)
    return _some(wanted, _kernels(p, *tensors).box_dist_vjp(*tensors, p, wanted), w)


@torch.library.impl(_library, "dist_conv2d", "CompositeExplicitAutograd")
def _dist_conv2d(
    x: Tensor, w: Tensor, p: float, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> Tensor:
    kernels = _kernels(p, x, w)
    conv = (stride, padding, dilation, groups)
    return windows.apply(lambda a, b: (kernels.dist(a, b, p),), (x,), w, conv, (x.dtype,))[0]


@_define("linf::dist_conv2d_backward")
def _dist_conv2d_backward(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, stride: list[int], padding: list[int],
    dilation: list[int], groups: int, need_x: bool = True, need_w: bool = True,
) -> tuple[Tensor, Tensor]:
    kernels, wanted = _kernels(p, x, w, grad, y), (need_x, need_w)

    def vjp(maps, images, w):
        return kernels.dist_vjp(maps[0], *images, w, maps[1], p, wanted)

    shapes, conv = (x.shape, w.shape), (stride, padding, dilation, groups)
    return _some(wanted, windows.apply_vjp(vjp, (grad, y), (x,), w, shapes, conv, wanted), x)


@_define("linf::dist_conv2d_with_index")
def _dist_conv2d_with_index(
    x: Tensor, w: Tensor, stride: list[int], padding: list[int], dilation: list[int], groups: int
) -> tuple[Tensor, Tensor]:
    fn = _kernels(math.inf, x, w).dist_with_index
    return windows.apply(fn, (x,), w, (stride, padding, dilation, groups), (x.dtype, torch.int32))


@_define("linf::index_conv2d_backward")
def _index_conv2d_backward(
    grad: Tensor, index: Tensor, image: list[int], kernel: list[int], stride: list[int], padding: list[int],
    dilation: list[int], groups: int, need_x: bool = True, need_w: bool = True,
) -> tuple[Tensor, Tensor]:
    """image: (C, H, W).  kernel: (C/groups, kh, kw)."""
    kernels, wanted = _kernels(math.inf, grad), (need_x, need_w)

    def vjp(maps, images, w):
        return kernels.index_vjp(*maps, math.prod(kernel), wanted)

    shapes = ((len(grad), *image), (grad.shape[1], *kernel))
    conv = (stride, padding, dilation, groups)
    return _some(wanted, windows.apply_vjp(vjp, (grad, index), (), None, shapes, conv, wanted), grad)


@_define("linf::box_conv2d")
def _box_conv2d(
    lower: Tensor, upper: Tensor, w: Tensor, p: float,
    stride: list[int], padding: list[int], dilation: list[int], groups: int,
) -> tuple[Tensor, Tensor]:
    fn = partial(_kernels(p, lower, upper, w).box_dist, p=p)
    return windows.apply(fn, (lower, upper), w, (stride, padding, dilation, groups), (w.dtype, w.dtype))


@_define("linf::box_conv2d_backward")
def _box_conv2d_backward(
    grad_near: Tensor, grad_far: Tensor, lower: Tensor, upper: Tensor, w: Tensor, near: Tensor, far: Tensor,
    p: float, stride: list[int], padding: list[int], dilation: list[int], groups: int,
    need_lower: bool = True, need_upper: bool = True, need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    maps, wanted = (grad_near, grad_far, near, far), (need_lower, need_upper, need_w)
    kernels = _kernels(p, lower, upper, w, *maps)

    def vjp(maps, images, w):
        return kernels.box_dist_vjp(*maps[:2], *images, w, *maps[2:], p, wanted)

    shapes, conv = (lower.shape, w.shape), (stride, padding, dilation, groups)
    return _some(wanted, windows.apply_vjp(vjp, maps, (lower, upper), w, shapes, conv, wanted), w)


@_define("linf::shift")
def _shift(x: Tensor, offset: Tensor, sign: float, scale: float) -> Tensor:
    return ((x + sign * _per_channel(offset, x)) * scale).contiguous()


# Shapes, for tracing without data.

def _per_channel(a: Tensor, x: Tensor) -> Tensor:
    """(C,) in the shape that broadcasts over (N, C, *)."""
    return a.view((-1,) + (1,) * (x.dim() - 2))


def _pair(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], w.shape[0])


def _image(x: Tensor, w: Tensor, *conv) -> Tensor:
    return x.new_empty(windows.output_shape(x.shape, w.shape, conv))


def _like(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(a.new_empty(a.shape) for a in tensors)


_shift.register_fake(lambda x, offset, sign, scale: x.new_empty(x.shape))
torch.library.register_fake("linf::dist", lambda x, w, p: _pair(x, w), lib=_library)
_dist_backward.register_fake(
    lambda grad, x, w, y, p, *wanted: _some(wanted, _like(x, w), x)
)
_dist_with_index.register_fake(lambda x, w: (_pair(x, w), _pair(x, w).to(torch.int32)))
_index_backward.register_fake(lambda grad, index, features, *wanted: _some(
    wanted, tuple(grad.new_empty(rows, features) for rows in grad.shape), grad
))
_box_dist.register_fake(lambda lower, upper, w, p: (_pair(lower, w), _pair(lower, w)))
_box_dist_backward.register_fake(lambda gn, gf, lower, upper, w, near, far, p, *wanted: _some(
    wanted, _like(lower, upper, w), w
))
torch.library.register_fake("linf::dist_conv2d", lambda x, w, p, *conv: _image(x, w, *conv), lib=_library)
_dist_conv2d_backward.register_fake(lambda grad, x, w, y, p, *conv: _some(
    conv[4:], _like(x, w), x
))
_dist_conv2d_with_index.register_fake(
    lambda x, w, *conv: (_image(x, w, *conv), _image(x, w, *conv).to(torch.int32))
)
_index_conv2d_backward.register_fake(lambda grad, index, image, kernel, *conv: _some(
    conv[4:], (grad.new_empty(len(grad), *image), grad.new_empty(grad.shape[1], *kernel)), grad
))
_box_conv2d.register_fake(lambda lower, upper, w, p, *conv: (_image(lower, w, *conv), _image(lower, w, *conv)))
_box_conv2d_backward.register_fake(lambda gn, gf, lower, upper, w, near, far, p, *conv: _some(
    conv[4:], _like(lower, upper, w), w
))


# Gradients: save the tensors, keep p and the geometry, call the backward operator.

_FAMILY = {  # by whether there is a geometry: the operators that dist's gradient needs
    False: (_dist_with_index, _index_backward, _dist_backward),
    True: (_dist_conv2d_with_index, _index_conv2d_backward, _dist_conv2d_backward),
}


class _Dist(torch.autograd.Function):
    """dist, or with the geometry of windows dist_conv2d."""

    @staticmethod
    def forward(ctx, keyset, x, w, p, *conv):
        ctx.p, ctx.conv = p, conv
        if p == math.inf and math.prod(w.shape[1:]) < cpu.MOST_FEATURES:
            y, index = _FAMILY[bool(conv)][0](x, w, *conv)
            ctx.sizes = (x.shape[1:], w.shape[1:]) if conv else x.shape[1:]
            ctx.save_for_backward(index)
        else:
            y = _below_autograd(keyset, x, w, p, *conv)
            ctx.save_for_backward(x, w, y)
        return y

    @staticmethod
    def backward(ctx, grad):
        saved, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:3]
        _, index_backward, backward = _FAMILY[bool(ctx.conv)]
        if len(saved) == 1:
            grads = index_backward(grad, *saved, *ctx.sizes, *ctx.conv, *wanted)
        else:
            grads = backward(grad, *saved, ctx.p, *ctx.conv, *wanted)
        return None, *(g if want else None for want, g in zip(wanted, grads)), None, *(None for _ in ctx.conv)


def _below_autograd(keyset, x: Tensor, w: Tensor, p: float, *conv) -> Tensor:
    op = torch.ops.linf.dist_conv2d if conv else torch.ops.linf.dist
    return op.default.redispatch(keyset & torch._C._after_autograd_keyset, x, w, p, *conv)


def _dist_autograd(keyset, x: Tensor, w: Tensor, p: float, *conv) -> Tensor:
    if torch.is_grad_enabled() and (x.requires_grad or w.requires_grad):
        return _Dist.apply(keyset, x, w, p, *conv)
    return _below_autograd(keyset, x, w, p, *conv)


_library.impl("dist", _dist_autograd, "Autograd", with_keyset=True)
_library.impl("dist_conv2d", _dist_autograd, "Autograd", with_keyset=True)


def _register_autograd(op, backward, tensors: int, save_outputs: bool = True) -> None:
    """``op`` takes ``tensors`` tensors and then constants; ``backward`` takes the gradients of its outputs, the
    tensors (and the outputs, if saved), the constants, and whether each tensor's gradient is wanted."""

    def setup_context(ctx, inputs, output):
        outputs = (output if isinstance(output, tuple) else (output,)) if save_outputs else ()
        ctx.save_for_backward(*inputs[:tensors], *outputs)
        ctx.constants = inputs[tensors:]

    def vjp(ctx, *grads):
        wanted = ctx.needs_input_grad[:tensors]
        grads = backward(*grads, *ctx.saved_tensors, *ctx.constants, *wanted)
        return *(g if want else None for want, g in zip(wanted, grads)), *(None for _ in ctx.constants)

    op.register_autograd(vjp, setup_context=setup_context)


def _shift_vjp(ctx, grad):
    sign, scale = ctx.constants
    grad = grad * scale
    return grad, sign * grad.sum([d for d in range(grad.dim()) if d != 1]), None, None


_shift.register_autograd(
    _shift_vjp, setup_context=lambda ctx, inputs, output: setattr(ctx, "constants", inputs[2:])
)
_register_autograd(_box_dist, _box_dist_backward, 3)
_register_autograd(_box_conv2d, _box_conv2d_backward, 3)


# Sorted sums.

@_define("linf::sorted_dist")
def _sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    return blocked.sorted_dist(x, w, rho, k)


@_define("linf::sorted_dist_backward")
def _sorted_dist_backward(
    grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int, need_x: bool = True, need_w: bool = True
) -> tuple[Tensor, Tensor]:
    return _some((need_x, need_w), blocked.sorted_dist_vjp(grad, x, w, rho, k), x)


@_define("linf::box_sorted_dist")
def _box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    return blocked.box_sorted_dist(lower, upper, w, rho, k)


@_define("linf::box_sorted_dist_backward")
def _box_sorted_dist_backward(
    grad_near: Tensor, grad_far: Tensor, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int,
    need_lower: bool = True, need_upper: bool = True, need_w: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    wanted = (need_lower, need_upper, need_w)
    return _some(wanted, blocked.box_sorted_dist_vjp(grad_near, grad_far, lower, upper, w, rho, k), w)


_sorted_dist.register_fake(lambda x, w, rho, k: _pair(x, w))
_sorted_dist_backward.register_fake(
    lambda grad, x, w, rho, k, *wanted: _some(wanted, _like(x, w), x)
)
_box_sorted_dist.register_fake(lambda lower, upper, w, rho, k: (_pair(lower, w), _pair(lower, w)))
_box_sorted_dist_backward.register_fake(lambda gn, gf, lower, upper, w, rho, k, *wanted: _some(
    wanted, _like(lower, upper, w), w
))
_register_autograd(_sorted_dist, _sorted_dist_backward, 2, save_outputs=False)
_register_autograd(_box_sorted_dist, _box_sorted_dist_backward, 3, save_outputs=False)

_as_one_operator = contextvars.ContextVar("linf_shift_as_one_operator", default=False)


@contextlib.contextmanager
def shift_as_one_operator():
    """While open, ``shift`` is traced as ``linf::shift`` instead of an addition and a product.

    auto_LiRPA adds up constants of several channels wrongly where it keeps coefficients as image patches, and
    its 0.3 takes the sum of a vector and a bias for an image; one operator with a rule of its own has neither.
    """
    token = _as_one_operator.set(True)
    try:
        yield
    finally:
        _as_one_operator.reset(token)


def shift(x: Tensor, offset: Tensor, sign: float = 1.0, scale: float = 1.0) -> Tensor:
    """(x + sign·offset)·scale with one offset a channel: (N, C, *), (C,) → (N, C, *).  sign is ±1, scale > 0."""
    if not torch.compiler.is_compiling() and _as_one_operator.get():  # Dynamo cannot trace the variable
        return _shift(x, offset, sign, scale)
    offset = _per_channel(offset, x)
    y = x + offset if sign > 0 else x - offset
    return y if scale == 1 else y * scale


# A 16-bit coordinate difference raised to a power p is noise, so autocast keeps float32.
for _op in ("dist", "box_dist", "dist_conv2d", "box_conv2d", "sorted_dist", "box_sorted_dist"):
    for _device in ("cpu", "cuda"):
        torch.library.register_autocast(f"linf::{_op}", _device, torch.float32)


def dist(x: Tensor, w: Tensor, p: float = math.inf, check: bool = False) -> Tensor:
    """Distances between the rows of x and the rows of w: y[n, k] = ‖x[n] − w[k]‖_p.

    Zhang et al., "Towards Certifying ℓ∞ Robustness using Neural Networks with ℓ∞-dist Neurons"
    (arXiv 2102.05363), equation 5, without the bias.

    Args:
        x: (N, in), float32 or float64.
        w: (out, in), same dtype and device.
        p: exponent in [1, ∞].
        check: also refuse NaN and infinite values (reads every element).

    Returns:
        (N, out).  Gradients are exact and 0 where y = 0; at p = ∞ ties go to the lowest coordinate.

    Raises:
        TypeError: a tensor is not floating point, dtypes differ, p is no number.
        ValueError: p is NaN or below 1, shapes do not fit, devices differ; with ``check``, NaN or ±inf.
    """
    p = check_p(p)
    check_rows(x, w, check)
    return torch.ops.linf.dist.default(x, w, p)


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int = 10, check: bool = False) -> Tensor:
    """Sorted sums: y[n, j] = Σ_i c_i·|x[n] − w[j]|_(i), the K = min(k, in) largest |t| in descending order.

    c_i = ρ(1−ρ)^{i−1} / (1−(1−ρ)^K).  ρ = 1 gives ``dist`` at p = ∞.  With k ≥ in it is the mean of the ℓ∞
    distance over random subsets of the coordinates, each kept with probability ρ, that are not empty.
    Zhang et al., "Rethinking Lipschitz Neural Networks and Certified Robustness: A Boolean Function
    Perspective" (arXiv 2210.01787), section 4.

    It is 1-Lipschitz in ℓ∞: as c descends, it is the largest Σ_i c_i·|t_π(i)| over permutations π, of which none
    changes by more than Σ_i c_i ≤ 1 times the largest change of a t.

    Args:
        x, w, check: as ``dist``.
        rho: ρ in (0, 1].
        k: how many coordinates count at most.

    Returns:
        (N, out).  The gradient of the i-th largest coordinate is ±c_i; equal ones are in order of index.

    Raises:
        TypeError, ValueError: as ``dist``; rho or k is no number, or out of range.
    """
    rho, k = check_rho(rho), check_k(k)
    check_rows(x, w, check)
    return torch.ops.linf.sorted_dist.default(x, w, rho, k)
