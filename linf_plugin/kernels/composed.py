"""The functions of ``reference`` and their gradients, composed of PyTorch's own operators.

So PyTorch can differentiate them in any order and mode, and can use vmap on them.

Each function has the values and the first derivatives of ``reference``, with the same choices at kinks.  Its higher
derivatives are finite at kinks too: if the rules of ``reference`` make a gradient 0, all derivatives of it are 0.
The code depends on data only through ``torch.where`` and indices.  It changes nothing in place.

Memory: the functions take as many rows of x at a time as give ``MOST_DIFFERENCES`` differences, and at least one row.
The memory that a graph keeps for a backward pass is not bounded.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .geometry import Geometry
from .reference import coefficients
from .windows import flat_kernels, fold_composed, from_rows, to_rows, unfold_composed

MOST_DIFFERENCES = 1 << 22


def _signed(t: Tensor, indices: Tensor, values: Tensor) -> Tensor:
    """Puts ``values`` at ``indices`` of the last dimension, with the sign of t there, and 0 elsewhere.  Shape of t."""
    signs = t.detach().gather(-1, indices).sign()
    return torch.zeros_like(t).scatter(-1, indices, values * signs)


def _order(z: Tensor, count: int) -> Tensor:
    """Returns the indices of the ``count`` largest entries, largest first; equal entries keep the order of indices."""
    return torch.sort(z.detach(), dim=-1, descending=True, stable=True).indices[..., :count]


def norm(z: Tensor, p: float) -> Tensor:
    """``reference.norm``: ‖z‖_p = s·(Σ (z/s)^p)^{1/p} for every constant s > 0."""
    if z.shape[-1] == 0:
        return z.sum(-1)
    largest = z.detach().amax(-1, keepdim=True)
    if p == math.inf:
        return z.gather(-1, z.detach().max(-1, keepdim=True).indices).squeeze(-1)
    scale = torch.where(largest == 0, torch.ones_like(largest), largest)
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    powers = torch.where(z == 0, zero, torch.where(z == 0, one, z / scale) ** p).sum(-1)
    nothing = (largest == 0).squeeze(-1)
    root = torch.where(nothing, torch.ones_like(powers), powers) ** (1 / p)
    return torch.where(nothing, torch.zeros_like(root), scale.squeeze(-1) * root)


def norm_vjp(grad: Tensor, z: Tensor, y: Tensor, p: float) -> Tensor:
    """``reference.norm_vjp``."""
    if z.shape[-1] == 0:
        return torch.zeros_like(z)
    nothing = y == 0
    grad = torch.where(nothing, torch.zeros_like(grad), grad).unsqueeze(-1)
    if p == math.inf:
        return torch.zeros_like(z).scatter(-1, z.detach().max(-1, keepdim=True).indices, grad)
    y = torch.where(nothing, torch.ones_like(y), y).unsqueeze(-1)
    power = torch.where(z == 0, torch.ones_like(z), z / y) ** (p - 1)
    return torch.where(z == 0, torch.zeros_like(z), grad * power)


def sorted_sum(z: Tensor, rho: float, k: int) -> Tensor:
    """``reference.sorted_sum``, but the order of the additions is not fixed."""
    if z.shape[-1] == 0:
        return z.sum(-1)
    c = coefficients(rho, k, z.shape[-1])
    return (z.gather(-1, _order(z, len(c))) * z.new_tensor(c)).sum(-1)


def sorted_sum_vjp(grad: Tensor, z: Tensor, rho: float, k: int) -> Tensor:
    """``reference.sorted_sum_vjp``."""
    if z.shape[-1] == 0:
        return torch.zeros_like(z)
    c = coefficients(rho, k, z.shape[-1])
    return _signed(z, _order(z, len(c)), grad.unsqueeze(-1) * z.new_tensor(c))


def _differences(rows: tuple[Tensor, ...], w: Tensor) -> list[tuple[Tensor, ...]]:
    """Splits the rows of each tensor into parts.  Each part has at most ``MOST_DIFFERENCES`` differences to w."""
    step = max(1, MOST_DIFFERENCES // max(1, w.shape[0] * w.shape[1]))
    return list(zip(*(a.split(step) for a in rows)))


def _joined(parts: Sequence[tuple[Tensor, ...]], summed: int = 0) -> tuple[Tensor, ...]:
    """Joins each result over all parts: it concatenates rows, but it adds up the last ``summed`` results."""
    if len(parts) == 1:
        return parts[0]
    (*columns,) = zip(*parts)
    first = len(columns) - summed
    return *(torch.cat(c) for c in columns[:first]), *(sum(c[1:], c[0]) for c in columns[first:])


def _of_rows(rows: tuple[Tensor, ...], w: Tensor, measure: Callable) -> Tensor:
    return _joined([(measure((a[:, None] - w).abs()),) for (a,) in _differences(rows, w)])[0]


def _vjp_of_rows(rows: tuple[Tensor, ...], w: Tensor, slopes: Callable) -> tuple[Tensor, Tensor]:
    """``slopes(|t|, *others)`` returns the gradient of |t|.  ``rows`` holds x and then the others."""
    parts = []
    for x, *others in _differences(rows, w):
        t = x[:, None] - w
        signed = slopes(t.abs(), *others) * t.sign()
        parts.append((signed.sum(1), -signed.sum(0)))
    return _joined(parts, summed=1)


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """``reference.dist``."""
    return _of_rows((x,), w, lambda z: norm(z, p))


def dist_vjp(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """``reference.dist_vjp``."""
    return _vjp_of_rows((x, grad, y), w, lambda z, grad, y: norm_vjp(grad, z, y, p))


def dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """``cpu.dist_with_index``; the index has no derivatives."""
    if x.shape[1] == 0:
        y = dist(x, w, math.inf)
        return y, torch.full_like(y.detach(), -1, dtype=torch.int32)
    parts = []
    for (part,) in _differences((x,), w):
        t = part[:, None] - w
        at = t.detach().abs().max(-1, keepdim=True).indices
        sign = t.detach().gather(-1, at).sign()
        index = torch.where(sign.abs() == 1, 4 * at + (sign < 0), -1).squeeze(-1).int()
        parts.append((t.abs().gather(-1, at).squeeze(-1), index))
    return _joined(parts)


def index_vjp(grad: Tensor, index: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """``blocked.index_vjp``."""
    (n, out), zero = grad.shape, torch.zeros_like(grad)
    if features == 0:
        return grad.sum(1, keepdim=True)[:, :0], grad.sum(0)[:, None][:, :0]
    signed = torch.where(index < 0, zero, torch.where(index % 4 == 0, grad, -grad))
    at = index.clamp_min(0).long() // 4
    return (
        grad.new_zeros(n, features).scatter_add(1, at, signed),
        grad.new_zeros(out, features).scatter_add(1, at.t(), -signed.t()),
    )


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    """``reference.sorted_dist``."""
    return _of_rows((x,), w, lambda z: sorted_sum(z, rho, k))


def sorted_dist_vjp(grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """``reference.sorted_dist_vjp``."""
    return _vjp_of_rows((x, grad), w, lambda z, grad: sorted_sum_vjp(grad, z, rho, k))


def _ends(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``reference._ends``, but nearest and farthest each depend on only one of the two ends, also in a tie."""
    above, below = lower[:, None] - w, w - upper[:, None]
    nearest = torch.where(below.isnan() | (below > 0), below, torch.zeros_like(below))
    nearest = torch.where(above.isnan() | (above > 0), above, nearest)
    return above, below, nearest, torch.where(below.isnan() | (-below >= -above), -below, -above)


def _of_boxes(lower: Tensor, upper: Tensor, w: Tensor, measure: Callable) -> tuple[Tensor, Tensor]:
    parts = [_ends(low, high, w)[2:] for low, high in _differences((lower, upper), w)]
    return _joined([(measure(near), measure(far)) for near, far in parts])


def _vjp_of_boxes(
    lower: Tensor, upper: Tensor, w: Tensor, others: tuple[Tensor, ...], slopes: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """``slopes(nearest, farthest, *others)`` returns the gradients of nearest and farthest; others: more rows."""
    parts = []
    for low, high, *rest in _differences((lower, upper, *others), w):
        above, below, nearest, farthest = _ends(low, high, w)
        near, far = slopes(nearest, farthest, *rest)
        zero = torch.zeros_like(near)
        far_u = torch.where(-below >= -above, far, zero)
        g_lower = torch.where(above > 0, near, zero) - (far - far_u)
        g_upper = far_u - torch.where(below > 0, near, zero)
        parts.append((g_lower.sum(1), g_upper.sum(1), -(g_lower + g_upper).sum(0)))
    return _joined(parts, summed=1)


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """``reference.box_dist``."""
    return _of_boxes(lower, upper, w, lambda z: norm(z, p))


def box_dist_vjp(
    grad_near: Tensor, grad_far: Tensor, lower: Tensor, upper: Tensor, w: Tensor, near: Tensor, far: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.box_dist_vjp``."""

    def slopes(nearest: Tensor, farthest: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        grad_near, grad_far, near, far = others
        return norm_vjp(grad_near, nearest, near, p), norm_vjp(grad_far, farthest, far, p)

    return _vjp_of_boxes(lower, upper, w, (grad_near, grad_far, near, far), slopes)


def box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """``reference.box_sorted_dist``."""
    return _of_boxes(lower, upper, w, lambda z: sorted_sum(z, rho, k))


def box_sorted_dist_vjp(
    grad_near: Tensor, grad_far: Tensor, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.box_sorted_dist_vjp``."""

    def slopes(nearest: Tensor, farthest: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        grad_near, grad_far = others
        return sorted_sum_vjp(grad_near, nearest, rho, k), sorted_sum_vjp(grad_far, farthest, rho, k)

    return _vjp_of_boxes(lower, upper, w, (grad_near, grad_far), slopes)


# Convolutions: the same functions, applied to every window.


def by_windows(fn: Callable, images: tuple[Tensor, ...], w: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
    """``windows.apply``: calls ``fn(*windows, w)`` for each group."""
    groups, shape = geometry.groups, geometry.output_shape(images[0].shape, w.shape)
    flat = flat_kernels(w, groups)
    windows = [unfold_composed(a, w.shape, geometry) for a in images]
    per_group = [fn(*(a[g] for a in windows), flat[g]) for g in range(groups)]
    return tuple(from_rows(torch.stack(y), shape) for y in zip(*per_group))


def vjp_by_windows(
    fn: Callable,
    maps: tuple[Tensor, ...],
    images: tuple[Tensor, ...],
    w: Tensor | None,
    shapes: tuple,
    geometry: Geometry,
) -> tuple[Tensor, ...]:
    """``windows.apply_vjp``: calls ``fn(maps, windows, w)`` for each group.  Returns gradients of images and of w."""
    x_shape, w_shape = shapes
    groups = geometry.groups
    flat = [None] * groups if w is None else flat_kernels(w, groups)
    windows = [unfold_composed(a, w_shape, geometry) for a in images]
    rows = [to_rows(a, groups) for a in maps]
    per_group = [fn([a[g] for a in rows], [a[g] for a in windows], flat[g]) for g in range(groups)]
    *columns, g_w = (torch.stack(a) for a in zip(*per_group))
    return *(fold_composed(a, x_shape, w_shape, geometry) for a in columns), g_w.reshape(w_shape)
