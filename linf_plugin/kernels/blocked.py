"""The distances in plain PyTorch, block by block.  They run on any device, in bounded memory, without a compiler.

A block is some rows of x with some rows of w.  Its temporaries, of shape (rows of x, rows of w, in), take at most
``BLOCK_BYTES``.  The smallest block is one pair of rows, which may take more.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .reference import coefficients, first_step, weighted

BLOCK_BYTES = 1 << 20  # fits the second-level cache of current processors


def tiles(n: int, w: tuple[int, ...], itemsize: int) -> Iterator[tuple[slice, slice]]:
    """Yields slices of n rows of x and of the rows of a w of this shape; their differences fit ``BLOCK_BYTES``."""
    out, features = w
    pairs = max(1, BLOCK_BYTES // max(1, features * itemsize))
    rows_w = min(out, pairs)
    rows_x = max(1, pairs // max(1, rows_w))
    for i in range(0, n, rows_x):
        for k in range(0, out, max(1, rows_w)):
            yield slice(i, min(n, i + rows_x)), slice(k, min(out, k + rows_w))


def power_(z: Tensor, p: float) -> Tensor:
    """Sets z to z^p in place, for z ≥ 0 and p ≥ 1.  A whole p needs only products: several times faster."""
    if p != int(p) or p < 1 or p > 4096:
        return z.pow_(p)
    exponent = int(p)
    if exponent & (exponent - 1) == 0:
        while exponent > 1:
            z.mul_(z)
            exponent >>= 1
        return z
    base, result = z.clone(), None  # the power for the binary digits of the exponent so far
    while exponent:
        if exponent & 1:
            result = base.clone() if result is None else result.mul_(base)
        exponent >>= 1
        if exponent:
            base.mul_(base)
    assert result is not None  # at least one digit is 1
    return z.copy_(result)


def norm_(z: Tensor, p: float) -> Tensor:
    """Computes ``reference.norm`` for in > 0, and overwrites z."""
    largest = z.amax(-1)
    if p == math.inf:
        return largest
    step = first_step(largest)
    largest = largest * step
    z.mul_(step.unsqueeze(-1)).div_(torch.where(largest == 0, 1, largest).unsqueeze(-1))
    return largest * power_(z, p).sum(-1) ** (1 / p) / step


def norm_vjp_(grad: Tensor, z: Tensor, y: Tensor, p: float) -> Tensor:
    """Computes ``reference.norm_vjp`` for in > 0, and overwrites z."""
    grad = torch.where(y == 0, 0, grad).unsqueeze(-1)
    if p == math.inf:
        index = z.max(-1, keepdim=True).indices
        return z.zero_().scatter_(-1, index, grad)
    if p == 1:
        return z.sign_().mul_(grad)
    step = first_step(y)
    y = y * step
    z.mul_(step.unsqueeze(-1)).div_(torch.where(y == 0, 1, y).unsqueeze(-1))
    return power_(z, p - 1).mul_(grad)


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """``reference.dist`` in bounded memory."""
    y = x.new_zeros(len(x), len(w))
    if x.shape[1] == 0:
        return y
    for i, k in tiles(len(x), w.shape, x.element_size()):
        y[i, k] = norm_((x[i, None] - w[k]).abs_(), p)
    return y


def dist_with_index(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Returns dist at p = ∞, and 4·i + (x_i < w_i) for the largest |x_i − w_i| or −1 if it is 0; as in ``cpu``."""
    y = x.new_zeros(len(x), len(w))
    index = torch.full(y.shape, -1, dtype=torch.int32, device=x.device)
    if x.shape[1] == 0:
        return y, index
    for i, k in tiles(len(x), w.shape, x.element_size()):
        t = x[i, None] - w[k]
        y[i, k], at = t.abs().max(-1)
        sign = t.gather(-1, at.unsqueeze(-1)).squeeze(-1).sign()
        index[i, k] = torch.where(sign == 0, -1, 4 * at + (sign < 0)).int()
    return y, index


def index_vjp(
    grad: Tensor, index: Tensor, features: int, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, Tensor]:
    """``reference.dist_vjp`` at p = ∞ from the index of ``dist_with_index``."""
    gx, gw = (grad.new_zeros(rows, features) for rows in grad.shape)
    if index.is_cpu and index.numel() and index.max() >= 4 * features:  # on a GPU, this would wait
        raise ValueError(f"index must hold values below 4·{features}, for {features} coordinates")
    if features:
        signed = torch.where(index < 0, 0, torch.where(index % 4 == 0, grad, -grad))
        at = index.clamp_min(0).long() // 4
        gx.scatter_add_(1, at, signed)
        gw.scatter_add_(1, at.t(), -signed.t())
    return gx, gw


def dist_vjp(
    grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float, wanted: tuple[bool, bool] = (True, True)
) -> tuple[Tensor, Tensor]:
    """``reference.dist_vjp`` in bounded memory.  It computes every gradient and ignores ``wanted``."""
    gx, gw = x.new_zeros(x.shape), w.new_zeros(w.shape)
    if x.shape[1] == 0:
        return gx, gw
    for i, k in tiles(len(x), w.shape, x.element_size()):
        t = x[i, None] - w[k]
        if p == math.inf:  # each pair has one coordinate with a gradient
            g = torch.where(y[i, k] == 0, 0, grad[i, k])
            index = t.abs().max(-1).indices
            g = g * t.gather(-1, index.unsqueeze(-1)).squeeze(-1).sign()
            gx[i].scatter_add_(1, index, g)
            gw[k].scatter_add_(1, index.t(), -g.t())
            continue
        signed = norm_vjp_(grad[i, k], t.abs(), y[i, k], p).mul_(t.sign_())
        gx[i] += signed.sum(1)
        gw[k] -= signed.sum(0)
    return gx, gw


def _largest(z: Tensor, count: int) -> Tensor:
    """Returns the indices of the ``count`` largest entries, largest first.  Equal entries keep the order of their
    indices, but zeros may come in any order.

    ``topk`` is many times faster than a stable sort, but it may return ties in any order.  So rows with a tie
    are sorted.
    """
    values, index = z.topk(min(count + 1, z.shape[-1]), -1)
    index = index[..., :count]
    tied = ((values[..., 1:] == values[..., :-1]) & (values[..., 1:] > 0)).any(-1)
    if tied.any():
        index[tied] = torch.sort(z[tied], dim=-1, descending=True, stable=True).indices[..., :count]
    return index


def sorted_sum(z: Tensor, rho: float, k: int) -> Tensor:
    """Computes ``reference.sorted_sum`` for in > 0."""
    c = coefficients(rho, k, z.shape[-1])
    return weighted(z.topk(len(c), -1).values, c)


def sorted_sum_vjp_(grad: Tensor, z: Tensor, rho: float, k: int) -> Tensor:
    """Computes ``reference.sorted_sum_vjp`` for in > 0, and overwrites z."""
    c = coefficients(rho, k, z.shape[-1])
    index = _largest(z, len(c))
    shares = grad.unsqueeze(-1) * z.new_tensor(c) * z.gather(-1, index).sign_()
    return z.zero_().scatter_(-1, index, shares)


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    """``reference.sorted_dist`` in bounded memory."""
    y = x.new_zeros(len(x), len(w))
    if x.shape[1] == 0:
        return y
    for i, j in tiles(len(x), w.shape, x.element_size()):
        y[i, j] = sorted_sum((x[i, None] - w[j]).abs_(), rho, k)
    return y


def sorted_dist_vjp(grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """``reference.sorted_dist_vjp`` in bounded memory."""
    gx, gw = x.new_zeros(x.shape), w.new_zeros(w.shape)
    if x.shape[1] == 0:
        return gx, gw
    for i, j in tiles(len(x), w.shape, x.element_size()):
        t = x[i, None] - w[j]
        signed = sorted_sum_vjp_(grad[i, j], t.abs(), rho, k).mul_(t.sign_())
        gx[i] += signed.sum(1)
        gw[j] -= signed.sum(0)
    return gx, gw


def _ends(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Returns l − w and w − u for every pair of a box and a row of w."""
    return lower[:, None] - w, w - upper[:, None]


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """``reference.box_dist`` in bounded memory."""
    near, far = lower.new_zeros(len(lower), len(w)), lower.new_zeros(len(lower), len(w))
    if lower.shape[1] == 0:
        return near, far
    for i, k in tiles(len(lower), w.shape, lower.element_size()):
        above, below = _ends(lower[i], upper[i], w[k])
        near[i, k] = norm_(torch.maximum(above, below).clamp_min_(0), p)
        far[i, k] = norm_(torch.maximum(below.neg_(), above.neg_()), p)
    return near, far


def _pull(above: Tensor, below: Tensor, g_near: Tensor, g_far: Tensor) -> tuple[Tensor, Tensor]:
    """Turns the gradients of the smallest and the largest |x − w| into those of the lower and the upper end."""
    far_u = g_far * (below <= above)
    return g_near * (above > 0) - (g_far - far_u), far_u - g_near * (below > 0)


def _box_vjp(lower: Tensor, upper: Tensor, w: Tensor, slopes: Callable) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of lower, upper and w.

    ``slopes(i, k, nearest, farthest)`` returns the gradients of the smallest and of the largest |x − w| in a block.
    Each has shape (rows of the box, rows of w, in).
    """
    gl, gu, gw = (a.new_zeros(a.shape) for a in (lower, upper, w))
    if lower.shape[1] == 0:
        return gl, gu, gw
    for i, k in tiles(len(lower), w.shape, lower.element_size()):
        above, below = _ends(lower[i], upper[i], w[k])
        nearest, farthest = torch.maximum(above, below).clamp_min_(0), torch.maximum(-below, -above)
        g_lower, g_upper = _pull(above, below, *slopes(i, k, nearest, farthest))
        gl[i] += g_lower.sum(1)
        gu[i] += g_upper.sum(1)
        gw[k] -= (g_lower + g_upper).sum(0)
    return gl, gu, gw


def box_dist_vjp(
    grad_lower: Tensor,
    grad_upper: Tensor,
    lower: Tensor,
    upper: Tensor,
    w: Tensor,
    near: Tensor,
    far: Tensor,
    p: float,
    wanted: tuple[bool, bool, bool] = (True, True, True),
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.box_dist_vjp`` in bounded memory.  It computes every gradient and ignores ``wanted``."""

    def slopes(i: slice, k: slice, nearest: Tensor, farthest: Tensor) -> tuple[Tensor, Tensor]:
        return (
            norm_vjp_(grad_lower[i, k], nearest, near[i, k], p),
            norm_vjp_(grad_upper[i, k], farthest, far[i, k], p),
        )

    return _box_vjp(lower, upper, w, slopes)


def box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """``reference.box_sorted_dist`` in bounded memory."""
    near, far = lower.new_zeros(len(lower), len(w)), lower.new_zeros(len(lower), len(w))
    if lower.shape[1] == 0:
        return near, far
    for i, j in tiles(len(lower), w.shape, lower.element_size()):
        above, below = _ends(lower[i], upper[i], w[j])
        near[i, j] = sorted_sum(torch.maximum(above, below).clamp_min_(0), rho, k)
        far[i, j] = sorted_sum(torch.maximum(below.neg_(), above.neg_()), rho, k)
    return near, far


def box_sorted_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """``reference.box_sorted_dist_vjp`` in bounded memory."""

    def slopes(i: slice, j: slice, nearest: Tensor, farthest: Tensor) -> tuple[Tensor, Tensor]:
        return (sorted_sum_vjp_(grad_lower[i, j], nearest, rho, k), sorted_sum_vjp_(grad_upper[i, j], farthest, rho, k))

    return _box_vjp(lower, upper, w, slopes)
