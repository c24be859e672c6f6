"""What the tests share: shapes, layouts, exponents, dtypes, devices, convolutions; oracles and tolerances.

The oracles are ``kernels.reference`` made differentiable, so that one comparison covers values and gradients.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linf_plugin.kernels import reference
from linf_plugin.kernels.geometry import Geometry

try:
    import pytest
except ModuleNotFoundError:  # gpu_check needs none of the marks
    pytest = None

INF = math.inf

EXPONENTS = (1.0, 1.5, 2.0, 3.0, 8.0, 10.0, 100.5, 1000.0, INF)
FEW_EXPONENTS = (1.0, 2.0, 8.0, INF)
DTYPES = (torch.float32, torch.float64)
BLOCK = 1 << 16  # numbers

SORTS = {  # (rho, k) of a sorted sum
    "three": (0.7, 3),
    "ten": (0.25, 10),
    "all": (0.6, 10**6),
    "largest": (1.0, 10),
}

SHAPES = {  # (N, out, in)
    "one": (1, 1, 1),
    "odd": (3, 5, 7),
    "one-input": (4, 3, 1),
    "one-row": (1, 6, 33),
    "one-weight": (9, 1, 17),
    "beyond-vectors": (7, 9, 65),
    "long-rows": (2, 3, 1031),
    "no-rows": (0, 3, 5),
    "no-weights": (3, 0, 5),
    "no-inputs": (3, 4, 0),
    "nothing": (0, 0, 0),
}

LAYOUTS = {  # the same shape, other strides
    "transposed": lambda a: a.t().contiguous().t(),
    "every-second-column": lambda a: a.repeat_interleave(2, 1)[:, ::2],
    "every-second-row": lambda a: a.repeat_interleave(2, 0)[::2],
    "with-offset": lambda a: F.pad(a, (1, 2, 3, 1))[3:-1, 1:-2],
    "one-row-repeated": lambda a: a[:1].expand_as(a),
}

CONVS = {  # shape of x, shape of w, geometry
    "plain": ((2, 3, 5, 6), (4, 3, 3, 3), Geometry((1, 1), (0, 0), (1, 1), 1)),
    "one-pixel": ((3, 4, 1, 1), (5, 4, 1, 1), Geometry((1, 1), (0, 0), (1, 1), 1)),
    "one-window": ((2, 2, 3, 4), (3, 2, 3, 4), Geometry((1, 1), (0, 0), (1, 1), 1)),
    "stride": ((2, 2, 7, 8), (3, 2, 3, 3), Geometry((2, 3), (0, 0), (1, 1), 1)),
    "padding": ((2, 2, 4, 3), (3, 2, 3, 3), Geometry((1, 1), (2, 1), (1, 1), 1)),
    "dilation": ((2, 2, 7, 6), (3, 2, 3, 2), Geometry((1, 1), (0, 0), (2, 3), 1)),
    "groups": ((2, 4, 4, 4), (6, 2, 3, 3), Geometry((1, 1), (0, 0), (1, 1), 2)),
    "depthwise": ((2, 3, 4, 4), (6, 1, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 3)),
    "everything": ((2, 4, 7, 9), (6, 2, 2, 3), Geometry((2, 1), (1, 2), (2, 1), 2)),
    "pixels-skipped": ((1, 1, 5, 5), (2, 1, 1, 1), Geometry((3, 3), (0, 0), (1, 1), 1)),
    "no-images": ((0, 2, 5, 5), (3, 2, 3, 3), Geometry((1, 1), (1, 1), (1, 1), 1)),
}

if pytest is not None:
    DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
    each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
    each_conv = pytest.mark.parametrize("conv_case", CONVS.values(), ids=CONVS)
    each_sort = pytest.mark.parametrize("sort", SORTS.values(), ids=SORTS)
    each_p = pytest.mark.parametrize("p", EXPONENTS, ids=lambda p: f"p={p:g}")
    few_p = pytest.mark.parametrize("p", FEW_EXPONENTS, ids=lambda p: f"p={p:g}")
    each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
    each_device = pytest.mark.parametrize("device", DEVICES)


def rows(shape: tuple[int, int, int], **options) -> tuple[Tensor, Tensor]:
    """x (N, in) and w (out, in), normally distributed."""
    n, out, features = shape
    return torch.randn(n, features, **options), torch.randn(out, features, **options)


def box(centre: Tensor) -> tuple[Tensor, Tensor]:
    """Ends of a box around ``centre``, of random widths; every third coordinate has width 0."""
    width = torch.rand_like(centre)
    width[..., ::3] = 0
    return centre - width, centre + width


def _blocks(w: Tensor, *per_row: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Tensors (N, *) in blocks of rows, so that all numbers that the specification holds at once fit into a cache."""
    rows = max(1, BLOCK // max(1, w.numel()))
    return zip(*(a.split(rows) for a in per_row))


class _Dist(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, p):
        y = torch.cat([reference.dist(a, w, p) for (a,) in _blocks(w, x)])
        ctx.save_for_backward(x, w, y)
        ctx.p = p
        return y

    @staticmethod
    def backward(ctx, grad):
        x, w, y = ctx.saved_tensors
        parts = [reference.dist_vjp(g, a, w, b, ctx.p) for g, a, b in _blocks(w, grad, x, y)]
        g_x, g_w = zip(*parts)
        return torch.cat(g_x), torch.stack(g_w).sum(0), None


class _BoxDist(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lower, upper, w, p):
        near, far = map(torch.cat, zip(*(reference.box_dist(*ends, w, p) for ends in _blocks(w, lower, upper))))
        ctx.save_for_backward(lower, upper, w, near, far)
        ctx.p = p
        return near, far

    @staticmethod
    def backward(ctx, *grads):
        lower, upper, w, *ranges = ctx.saved_tensors
        parts = [
            reference.box_dist_vjp(g, h, a, b, w, near, far, ctx.p)
            for g, h, a, b, near, far in _blocks(w, *grads, lower, upper, *ranges)
        ]
        g_lower, g_upper, g_w = zip(*parts)
        return torch.cat(g_lower), torch.cat(g_upper), torch.stack(g_w).sum(0), None


class _SortedDist(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, rho, k):
        ctx.save_for_backward(x, w)
        ctx.constants = rho, k
        return reference.sorted_dist(x, w, rho, k)

    @staticmethod
    def backward(ctx, grad):
        return *reference.sorted_dist_vjp(grad, *ctx.saved_tensors, *ctx.constants), None, None


class _BoxSortedDist(torch.autograd.Function):
    @staticmethod
    def forward(ctx, lower, upper, w, rho, k):
        ctx.save_for_backward(lower, upper, w)
        ctx.constants = rho, k
        return reference.box_sorted_dist(lower, upper, w, rho, k)

    @staticmethod
    def backward(ctx, *grads):
        return *reference.box_sorted_dist_vjp(*grads, *ctx.saved_tensors, *ctx.constants), None, None


dist, box_dist = _Dist.apply, _BoxDist.apply
sorted_dist, box_sorted_dist = _SortedDist.apply, _BoxSortedDist.apply


def by_windows(distance: Callable, images: tuple[Tensor, ...], w: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
    """Convolution by its definition: ``distance(*windows, kernels)`` at one position after the other."""
    stride, padding, dilation, groups = geometry
    images = [F.pad(a, (padding[1], padding[1], padding[0], padding[0])) for a in images]
    span = [dilation[d] * (w.shape[2 + d] - 1) + 1 for d in (0, 1)]
    ends = [images[0].shape[2 + d] - span[d] + 1 for d in (0, 1)]
    lines = []
    for i in range(0, ends[0], stride[0]):
        for j in range(0, ends[1], stride[1]):
            here = (..., slice(i, i + span[0], dilation[0]), slice(j, j + span[1], dilation[1]))
            windows = [a[here].chunk(groups, 1) for a in images]
            y = [
                _as_tuple(distance(*(a[g].flatten(1) for a in windows), kernels.flatten(1)))
                for g, kernels in enumerate(w.chunk(groups))
            ]
            lines.append([torch.cat(parts, 1) for parts in zip(*y)])
    size = [len(range(0, end, s)) for end, s in zip(ends, stride)]
    return tuple(torch.stack(y, -1).unflatten(-1, size) for y in zip(*lines))


def _as_tuple(y: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (y,) if isinstance(y, Tensor) else tuple(y)


def value_tolerance(dtype: torch.dtype, p: float, features: int, device: str = "cpu") -> float:
    """Relative difference of two ways to compute a distance.  p = ∞ rounds once, in x − w, and all agree.

    Else each way loses, in units of eps/2: 2 on a scaled coordinate (difference and division; the root
    undoes the power's amplification), features/p on a sum in any order, 2 on the root and the product.

    A GPU's reciprocal, logarithm and exponential of float32 are off by 2, 4 and 4 units, in a term and in the root;
    the root divides what a term's are off by.
    """
    units = 16 if device == "cuda" and dtype == torch.float32 else 8
    return 0.0 if p == INF else torch.finfo(dtype).eps * (units / 2 + features / p)


def gradient_tolerance(dtype: torch.dtype, p: float, features: int, terms: int, device: str = "cpu") -> float:
    """Absolute difference of a gradient: the sum of ``terms`` products grad·(z/y)^(p−1), each at most 1.

    z/y has the error of y and that of the difference and the division; the power multiplies it by p.  Each
    addition loses at most eps/2 of the total.
    """
    eps = torch.finfo(dtype).eps
    each = 0.0 if p == INF else p * (value_tolerance(dtype, p, features, device) + 2 * eps)
    return terms * (each + eps * terms)


def assert_agrees(
    function: Callable,
    oracle: Callable,
    tensors: tuple[Tensor, ...],
    p: float,
    features: int,
    terms: int,
    under: Iterable[Callable[[], AbstractContextManager]] = (nullcontext,),
) -> None:
    """Values and gradients of ``function(*tensors)`` are those of ``oracle``, in each of the contexts ``under``.

    A finite p is compared with float64; p = ∞ in the same dtype, whose roundings decide the ties.  Sorted sums
    pass p = ∞: their terms are rounded in a fixed order.
    """
    dtype, device = tensors[0].dtype, tensors[0].device.type
    exact = dtype if p == INF else torch.float64
    theirs = [a.detach().to(exact).requires_grad_() for a in tensors]
    expected = _as_tuple(oracle(*theirs))
    grads = [torch.rand(y.shape, dtype=dtype, device=y.device) * 2 - 1 for y in expected]
    g_theirs = torch.autograd.grad(expected, theirs, [g.to(exact) for g in grads])
    value, gradient = value_tolerance(dtype, p, features, device), gradient_tolerance(dtype, p, features, terms, device)
    for context in under:
        with context():
            ours = [a.detach().requires_grad_() for a in tensors]
            got = _as_tuple(function(*ours))
            g_ours = torch.autograd.grad(got, ours, grads)
        for y, z in zip(got, expected, strict=True):
            assert y.dtype == dtype
            torch.testing.assert_close(y.to(exact), z, rtol=value, atol=0)
        for g, h in zip(g_ours, g_theirs, strict=True):
            assert g.dtype == dtype
            torch.testing.assert_close(g.to(exact), h, rtol=0, atol=gradient)


class Calls(TorchDispatchMode):
    """While open, records the name of each operator that runs and the bytes of its largest result."""

    def __init__(self):
        super().__init__()
        self.operators: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        y = function(*args, **(kwargs or {}))
        sizes = [a.untyped_storage().nbytes() for a in tree_leaves(y) if isinstance(a, Tensor)]
        self.operators.append((function.name(), max(sizes, default=0)))
        return y

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.operators}

    @property
    def largest(self) -> int:
        return max(size for _, size in self.operators)
