"""The specification: ℓp and ℓ∞ distances and sorted sums in plain PyTorch, with their gradients.

Everything faster is compared with this file.  It materialises (N, out, in), so it is for small
problems only.

Rules that every implementation keeps:

* y = 0 where all coordinates agree, and also when there are no coordinates (in = 0).
* ℓp is scaled by the largest coordinate, so that no power over- or underflows; in two steps where the largest is
  near the ends of the range, so that no number on the way is subnormal.
* p = ∞: the gradient goes to the coordinate with the largest |t|; ties go to the lowest index.
* Sorted sums: the j-th largest |t| gets the j-th part of the gradient; equal ones are in order of index.
* The gradient is 0 where y = 0, and where a coordinate of t is 0.
* A NaN anywhere in a row reaches every output of that row.
"""

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor


@functools.cache
def coefficients(rho: float, k: int, features: int) -> tuple[float, ...]:
    """c_j = ρ(1−ρ)^{j−1} / (1−(1−ρ)^K), j = 1 … K = min(k, features): positive, descending, of sum at most 1.

    Rounded down to float32, so that a float32 and a float64 copy of a model are the same function and the sum
    is at most 1 exactly; those that would be subnormal are left out.  At ρ = 1 what is left is (1,).
    """
    powers = [(1 - rho) ** j for j in range(max(1, min(k, features)))]
    total = math.fsum(powers)
    c = [_float32_down(a / total) for a in powers]
    while sum(map(Fraction, c)) > 1:  # the quotients themselves are rounded
        c[0] = _float32_down(math.nextafter(c[0], 0))
    return tuple(a for a in c if a > 0)


def _float32_down(a: float) -> float:
    """The largest float32 that is at most a, for 0 ≤ a ≤ 1; 0 where that is subnormal."""
    mantissa, exponent = math.frexp(a)
    return math.ldexp(math.floor(math.ldexp(mantissa, 24)), exponent - 24) if exponent > -126 else 0.0


def first_step(largest: Tensor) -> Tensor:
    """A power of 2 by which z ≥ 0 is multiplied before it is divided by its largest: 1 but near the ends of the range.

    Flushing to zero is a state of each thread.  So one thread may read a subnormal largest as 0 that another has
    divided by: 0/0.
    """
    near = 64 * torch.finfo(largest.dtype).tiny
    one = torch.ones_like(largest)
    return torch.where(largest < near, one / near, torch.where(largest > 1 / near, one * near, one))


def norm(z: Tensor, p: float) -> Tensor:
    """‖z‖_p over the last dimension of a non-negative tensor z.  Shape (..., in) → (...)."""
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
    """Gradient of ``norm`` with respect to z: grad·(z/y)^(p−1), one-hot at p = ∞, 0 where y = 0.

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
    # The sign matters at p = 1 alone: 0⁰ is 1.
    return grad * (z * step.unsqueeze(-1) / scale.unsqueeze(-1)) ** (p - 1) * z.sign()


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[n, k] = ‖x[n] − w[k]‖_p.  Shapes (N, in), (out, in) → (N, out)."""
    return norm((x[:, None] - w[None]).abs(), p)


def dist_vjp(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of ``dist`` with respect to x and w, given that of y (N, out)."""
    t = x[:, None] - w[None]
    signed = norm_vjp(grad, t.abs(), y, p) * t.sign()
    return signed.sum(1), -signed.sum(0)


def weighted(largest: Tensor, c: tuple[float, ...]) -> Tensor:
    """Σ_j c_j·largest[…, j], the smallest added first.  Each product and sum is rounded once, in this order:
    the result is monotone in every term."""
    y = largest.new_zeros(largest.shape[:-1])
    for a, z in zip(reversed(c), reversed(largest.unbind(-1))):
        y = y + a * z
    return y


def sorted_sum(z: Tensor, rho: float, k: int) -> Tensor:
    """Σ_j c_j·z_(j) over the last dimension of z ≥ 0, with z_(1) ≥ z_(2) ≥ … and c of ``coefficients``.

    NaN counts as the largest.  Zhang et al. (arXiv 2210.01787), section 4.  Shape (..., in) → (...).
    """
    if z.shape[-1] == 0:
        return z.new_zeros(z.shape[:-1])
    c = coefficients(rho, k, z.shape[-1])
    return weighted(torch.sort(z, dim=-1, descending=True, stable=True).values[..., : len(c)], c)


def sorted_sum_vjp(grad: Tensor, z: Tensor, rho: float, k: int) -> Tensor:
    """Gradient of ``sorted_sum``: grad·c_j for the j-th largest, 0 where z is 0.  (...), (..., in) → (..., in)."""
    if z.shape[-1] == 0:
        return torch.zeros_like(z)
    c = coefficients(rho, k, z.shape[-1])
    index = torch.sort(z, dim=-1, descending=True, stable=True).indices[..., : len(c)]
    return torch.zeros_like(z).scatter(-1, index, grad.unsqueeze(-1) * z.new_tensor(c)) * z.sign()


def sorted_dist(x: Tensor, w: Tensor, rho: float, k: int) -> Tensor:
    """y[n, j] = the sorted sum of |x[n] − w[j]|.  Shapes (N, in), (out, in) → (N, out)."""
    return sorted_sum((x[:, None] - w[None]).abs(), rho, k)


def sorted_dist_vjp(grad: Tensor, x: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """Gradients of ``sorted_dist`` with respect to x and w, given that of y (N, out)."""
    t = x[:, None] - w[None]
    signed = sorted_sum_vjp(grad, t.abs(), rho, k) * t.sign()
    return signed.sum(1), -signed.sum(0)


def _ends(lower: Tensor, upper: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """l − w and w − u for every box and row of w, and the least and the largest |x − w| in the box."""
    above, below = lower[:, None] - w[None], w[None] - upper[:, None]
    return above, below, torch.maximum(above, below).clamp_min(0), torch.maximum(-below, -above)


def _pull(above: Tensor, below: Tensor, g_near: Tensor, g_far: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From gradients of the least and the largest |x − w| to those of lower, upper and w."""
    zero = torch.zeros_like(g_near)
    near_l = torch.where(above > 0, g_near, zero)
    near_u = torch.where(below > 0, g_near, zero)
    far_u = torch.where(-below >= -above, g_far, zero)
    g_lower, g_upper = near_l - (g_far - far_u), far_u - near_u
    return g_lower.sum(1), g_upper.sum(1), -(g_lower + g_upper).sum(0)


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The exact range of ‖x − w[k]‖_p over the box lower[n] ≤ x ≤ upper[n], for every p.

    |x_i − w_i| ranges over [max(l_i − w_i, w_i − u_i, 0), max(u_i − w_i, w_i − l_i)] and the norm is
    monotone in each, so the norms of the two ends are attained.  Shapes (N, in) twice, (out, in) →
    (N, out) twice.
    """
    _, _, nearest, farthest = _ends(lower, upper, w)
    return norm(nearest, p), norm(farthest, p)


def box_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor, near: Tensor, far: Tensor, p: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``box_dist`` with respect to lower, upper and w; near and far are its outputs.

    A weight in the middle of the box (|u − w| = |w − l|) sends the gradient of far to the upper end.
    """
    above, below, nearest, farthest = _ends(lower, upper, w)
    return _pull(above, below, norm_vjp(grad_lower, nearest, near, p), norm_vjp(grad_upper, farthest, far, p))


def box_sorted_dist(lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int) -> tuple[Tensor, Tensor]:
    """The exact range of ``sorted_dist`` over the box lower[n] ≤ x ≤ upper[n].

    As ``box_dist``: the sorted sum is monotone in each |x_i − w_i|.
    """
    _, _, nearest, farthest = _ends(lower, upper, w)
    return sorted_sum(nearest, rho, k), sorted_sum(farthest, rho, k)


def box_sorted_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor, rho: float, k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``box_sorted_dist`` with respect to lower, upper and w; kinks as in ``box_dist_vjp``."""
    above, below, nearest, farthest = _ends(lower, upper, w)
    return _pull(
        above, below, sorted_sum_vjp(grad_lower, nearest, rho, k), sorted_sum_vjp(grad_upper, farthest, rho, k)
    )
