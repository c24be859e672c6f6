"""The specification: ℓp and ℓ∞ distances and sorted sums in plain PyTorch, with their gradients.

Every faster implementation is compared with this file.  It holds all (N, out, in) numbers in memory, so it serves
only small problems.

Rules that every implementation keeps:

* y = 0 if all coordinates agree, and also if there are no coordinates (in = 0).
* ℓp is scaled by the largest coordinate, so that no power overflows or underflows.  If the largest is near an end of
  the range, this takes two steps, so that no intermediate number is subnormal.
* p = ∞: the gradient goes to the coordinate with the largest |t|; ties go to the lowest index.
* Sorted sums: the j-th largest |t| gets the j-th part of the gradient; equal |t| keep the order of their indices.
* The gradient is 0 if y = 0.  It is 0 for a coordinate where t is 0.
* A NaN anywhere in a row reaches every output of that row.
"""

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor


@functools.cache
def coefficients(rho: float, k: int, features: int) -> tuple[float, ...]:
    """Returns c_j = ρ(1−ρ)^{j−1} / (1−(1−ρ)^K) for j = 1 … K = min(k, features): positive, descending, sum at most 1.

    They are rounded down to float32.  So a float32 and a float64 copy of a model are the same function, and the exact
    sum is at most 1.  Coefficients that would be subnormal are left out.  At ρ = 1, only (1,) is left.
    """
    powers = [(1 - rho) ** j for j in range(max(1, min(k, features)))]
    total = math.fsum(powers)
    c = [_float32_down(a / total) for a in powers]
    while sum(map(Fraction, c)) > 1:  # because the quotients are rounded too
        c[0] = _float32_down(math.nextafter(c[0], 0))
    return tuple(a for a in c if a > 0)


def _float32_down(a: float) -> float:
    """Returns the largest float32 that is at most a, for 0 ≤ a ≤ 1, or 0 if that is subnormal."""
    mantissa, exponent = math.frexp(a)
    return math.ldexp(math.floor(math.ldexp(mantissa, 24)), exponent - 24) if exponent > -126 else 0.0


def first_step(largest: Tensor) -> Tensor:
    """Returns the power of 2 by which z ≥ 0 is multiplied before the division by its largest entry.

    It is 1, except near the ends of the range.  Flush to zero is a state of each thread.  So one thread may read a
    subnormal largest entry as 0 while another thread divides by it, which would give 0/0.
    """
    near = 64 * torch.finfo(largest.dtype).tiny
    one = torch.ones_like(largest)
    return torch.where(largest < near, one / near, torch.where(largest > 1 / near, one * near, one))


def norm(z: Tensor, p: float) -> Tensor:
    """Returns ‖z‖_p over the last dimension of a non-negative tensor z.  Shape (..., in) → (...)."""
    if z.shape[-1] == 0:
        return z.new_zeros(z.shape[:-1])
    largest = z.amax(-1)
    if p == math.inf:
        return largest
    step = first_step(largest)
    largest = largest * step
    scale = torch.where(largest == 0, torch.ones_like(largest), largest)
    return largest * ((z * step.unsqueeze(-1) / scale.unsqueeze(-1)) ** p).sum(-1) ** (1 / p) / step


def norm_vjp(grad: Tensor, z: Tensor, y: Tensor, p: float) -> Tensor:
    """Returns the gradient of ``norm`` with respect to z: grad·(z/y)^(p−1), one-hot at p = ∞, 0 where y = 0.

    Shapes: grad and y (...), z (..., in) → (..., in).
    """
    if z.shape[-1] == 0:
        return torch.zeros_like(z)
    grad = torch.where(y == 0, torch.zeros_like(grad), grad).unsqueeze(-1)
    if p == math.inf:
        index = z.max(-1, keepdim=True).indices
        return torch.zeros_like(z).scatter(-1, index, grad)
    step = first_step(y)
    y = y * step
    scale = torch.where(y == 0, torch.ones_like(y), y)
    # The sign matters only at p = 1, where 0⁰ is 1.
    return grad * (z * step.unsqueeze(-1) / scale.unsqueeze(-1)) ** (p - 1) * z.sign()


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[n, k] = ‖x[n] − w[k]‖_p.  Shapes (N, in), (out, in) → (N, out)."""
    return norm((x[:, None] - w[None]).abs(), p)


def dist_vjp(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Returns the gradients of ``dist`` with respect to x and w, from the gradient of y (N, out)."""
    t = x[:, None] - w[None]
    signed = norm_vjp(grad, t.abs(), y, p) * t.sign()
    return signed.sum(1), -signed.sum(0)


def weighted(largest: Tensor, c: tuple[float, ...]) -> Tensor:
    """Returns Σ_j c_j·largest[…, j].  The smallest term is added first.

    Each product and each sum is rounded once, in this order.  So the result is monotone in every term.
    """
    y = largest.new_zeros(largest.shape[:-1])
    for a, z in zip(reversed(c), reversed(largest.unbind(-1))):
        y = y + a * z
    return y


def sorted_sum(z: Tensor, rho: float, k: int) -> Tensor:
    """Returns Σ_j c_j·z_(j) over the last dimension of z ≥ 0, with z_(1) ≥ z_(2) ≥ … and c from ``coefficients``.

    NaN counts as the largest value.  Zhang et al. (arXiv 2210.01787), section 4.  Shape (..., in) → (...).
    """
    if z.shape[-1] == 0:
        return z.new_zeros(z.shape[:-1])
    c = coefficients(rho, k, z.shape[-1])
    return weighted(torch.sort(z, dim=-1, descending=True, stable=True).values[..., : len(c)], c)


def sorted_sum_vjp(grad: Tensor, z: Tensor, rho: float, k: int) -> Tensor:
    """Returns the gradient of ``sorted_sum``: grad·c_j for the j-th largest z, 0 where z is 0.

    Shapes: (...), (..., in) → (..., in).
    """
    if z.shape[-1] == 0:
        return torch.zeros_like(z)
    c = coefficients(rho, k, z.shape[-1])
    index = torch.sort(z, dim=-1, descending=True, stable=True).indices[..., : len(c)]
    return torch.zeros_like(z).scatter(-1, index, grad.unsqueeze(-1) * z.new_tensor(c)) * z.sign()


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    """y[n, j] = the sorted sum of |x[n] − w[j]|.  Shapes (N, in), (out, in) → (N, out)."""
    return sorted_sum((x[:, None] - w[None]).abs(), rho, k)


def sorted_dist_vjp(grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """Returns the gradients of ``sorted_dist`` with respect to x and w, from the gradient of y (N, out)."""
    t = x[:, None] - w[None]
    signed = sorted_sum_vjp(grad, t.abs(), rho, k) * t.sign()
    return signed.sum(1), -signed.sum(0)


def _ends(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns l − w and w − u for every box and row of w, and the smallest and the largest |x − w| in the box."""
    above, below = lower[:, None] - w[None], w[None] - upper[:, None]
    return above, below, torch.maximum(above, below).clamp_min(0), torch.maximum(-below, -above)


def _pull(above: Tensor, below: Tensor, g_near: Tensor, g_far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Turns the gradients of the smallest and the largest |x − w| into those of lower, upper and w."""
    zero = torch.zeros_like(g_near)
    near_l = torch.where(above > 0, g_near, zero)
    near_u = torch.where(below > 0, g_near, zero)
    far_u = torch.where(-below >= -above, g_far, zero)
    g_lower, g_upper = near_l - (g_far - far_u), far_u - near_u
    return g_lower.sum(1), g_upper.sum(1), -(g_lower + g_upper).sum(0)


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Returns the exact range of ‖x − w[k]‖_p over the box lower[n] ≤ x ≤ upper[n], for every p.

    |x_i − w_i| ranges over [max(l_i − w_i, w_i − u_i, 0), max(u_i − w_i, w_i − l_i)], and the norm is monotone in each
    of them.  So some x in the box attains the norm of each end.  Shapes: (N, in) twice and (out, in) → (N, out) twice.
    """
    _, _, nearest, farthest = _ends(lower, upper, w)
    return norm(nearest, p), norm(farthest, p)


def box_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor, near: Tensor, far: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of ``box_dist`` with respect to lower, upper and w; near and far are its outputs.

    If a weight is in the middle of the box (|u − w| = |w − l|), the gradient of far goes to the upper end.
    """
    above, below, nearest, farthest = _ends(lower, upper, w)
    return _pull(above, below, norm_vjp(grad_lower, nearest, near, p), norm_vjp(grad_upper, farthest, far, p))


def box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """Returns the exact range of ``sorted_dist`` over the box lower[n] ≤ x ≤ upper[n].

    The reason is that of ``box_dist``: the sorted sum is monotone in each |x_i − w_i|.
    """
    _, _, nearest, farthest = _ends(lower, upper, w)
    return sorted_sum(nearest, rho, k), sorted_sum(farthest, rho, k)


def box_sorted_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of ``box_sorted_dist`` with respect to lower, upper and w; kinks as in ``box_dist_vjp``."""
    above, below, nearest, farthest = _ends(lower, upper, w)
    return _pull(
        above, below, sorted_sum_vjp(grad_lower, nearest, rho, k), sorted_sum_vjp(grad_upper, farthest, rho, k)
    )
