"""The specification: ℓp and ℓ∞ distances in plain PyTorch, with their gradients.

Everything faster is compared with this file.  It materialises (N, out, in), so it is for small
problems only.

Rules that every implementation keeps:

* y = 0 where all coordinates agree, and also when there are no coordinates (in = 0).
* ℓp is scaled by the largest coordinate, so that no power over- or underflows.
* p = ∞: the gradient goes to the coordinate with the largest |t|; ties go to the lowest index.
* The gradient is 0 where y = 0, and where a coordinate of t is 0.
* A NaN anywhere in a row reaches every output of that row.
"""

import math

import torch
from torch import Tensor


def norm(z: Tensor, p: float) -> Tensor:
    """‖z‖_p over the last dimension of a non-negative tensor z.  Shape (..., in) → (...)."""
    if z.shape[-1] == 0:
        return z.new_zeros(z.shape[:-1])
    largest = z.amax(-1)
    if p == math.inf:
        return largest
    scale = torch.where(largest == 0, torch.ones_like(largest), largest)
    return largest * ((z / scale.unsqueeze(-1)) ** p).sum(-1) ** (1 / p)


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
    scale = torch.where(y == 0, torch.ones_like(y), y).unsqueeze(-1)
    return grad * (z / scale) ** (p - 1) * z.sign()  # the sign matters at p = 1 alone: 0⁰ is 1


def dist(x: Tensor, w: Tensor, p: float) -> Tensor:
    """y[n, k] = ‖x[n] − w[k]‖_p.  Shapes (N, in), (out, in) → (N, out)."""
    return norm((x[:, None] - w[None]).abs(), p)


def dist_vjp(grad: Tensor, x: Tensor, w: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Gradients of ``dist`` with respect to x and w, given that of y (N, out)."""
    t = x[:, None] - w[None]
    signed = norm_vjp(grad, t.abs(), y, p) * t.sign()
    return signed.sum(1), -signed.sum(0)


def box_dist(lower: Tensor, upper: Tensor, w: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """The exact range of ‖x − w[k]‖_p over the box lower[n] ≤ x ≤ upper[n], for every p.

    |x_i − w_i| ranges over [max(l_i − w_i, w_i − u_i, 0), max(u_i − w_i, w_i − l_i)] and the norm is
    monotone in each, so the norms of the two ends are attained.  Shapes (N, in) twice, (out, in) →
    (N, out) twice.
    """
    above, below = lower[:, None] - w[None], w[None] - upper[:, None]
    nearest = torch.maximum(above, below).clamp_min(0)
    farthest = torch.maximum(-below, -above)
    return norm(nearest, p), norm(farthest, p)


def box_dist_vjp(
    grad_lower: Tensor, grad_upper: Tensor, lower: Tensor, upper: Tensor, w: Tensor,
    near: Tensor, far: Tensor, p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``box_dist`` with respect to lower, upper and w; near and far are its outputs.

    A weight in the middle of the box (|u − w| = |w − l|) sends the gradient of far to the upper end.
    """
    above, below = lower[:, None] - w[None], w[None] - upper[:, None]
    nearest = torch.maximum(above, below).clamp_min(0)
    farthest = torch.maximum(-below, -above)
    g_near = norm_vjp(grad_lower, nearest, near, p)
    g_far = norm_vjp(grad_upper, farthest, far, p)
    zero = torch.zeros_like(g_near)
    near_l = torch.where(above > 0, g_near, zero)
    near_u = torch.where(below > 0, g_near, zero)
    far_u = torch.where(-below >= -above, g_far, zero)
    far_l = g_far - far_u
    g_lower, g_upper = near_l - far_l, far_u - near_u
    return g_lower.sum(1), g_upper.sum(1), -(g_lower + g_upper).sum(0)
