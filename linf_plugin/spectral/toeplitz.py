"""norm2toep (Delattre et al., 2024, arXiv 2402.00240): Gram iteration of kernels, which needs no frequencies."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .outward import TINY, Matrices, gamma, power_of_two, scaled, up

WORK = 3e10  # products that a bound may cost by default
EACH = 1e6  # products that cost as much as one call for one τ
MOST_STEPS = 4


def affordable(kernel: Tensor) -> int:
    """Returns how many steps cost at most ``WORK``, at least 1 and at most ``MOST_STEPS``."""
    groups, out, inputs, *taps = kernel.shape
    rows, small, work = max(out, inputs), min(out, inputs), 0.0
    for step in range(MOST_STEPS):
        work += groups * small * small * rows * (taps[0] * taps[1]) ** 2 / 2
        work += EACH * (2 * taps[0] - 1) * (2 * taps[1] - 1) / 2
        if work > WORK:
            return max(step, 1)
        taps, rows = [2 * k - 1 for k in taps], small
    return MOST_STEPS


def norm2toep_upper(kernel: Tensor, steps: int) -> float:
    """Returns an upper bound of sup ‖F(ω)‖₂ over the whole circle, with all rounding, for (groups, out, in, kh, kw).

    FᴴF is the symbol of G_ij(τ) = Σ_{o,t} K_oi(t)·K_oj(t + τ).  So σ² ≤ ‖Ĝ‖ + ‖E‖ for the norms σ, ‖Ĝ‖ and ‖E‖ of the
    convolutions with K, with the computed Ĝ, and with the error E.  A convolution with a kernel A has at most the norm
    √(max_i Σ_{j,τ} |A_ij(τ)| · max_j Σ_{i,τ} |A_ij(τ)|) (Schur's test, on ℓ2(Z²) and on circles).

    |E_ij(τ)| ≤ γ·Σ_{o,t} |K_oi(t)|·|K_oj(t + τ)| with γ for all products of a sum; over j and τ this is γ times row i
    of PᵀP with P = Σ_t |K(t)|.  PᵀP is symmetric, so ‖E‖ ≤ γ·max_i Σ_j (PᵀP)_ij.
    """
    if kernel.shape[1] < kernel.shape[2]:
        kernel = kernel.transpose(1, 2)  # the symbol of the adjoint, with −ω for ω
    history, largest = [], kernel.abs().amax((1, 2, 3, 4))
    kernel, first = _scaled(kernel)
    for _ in range(steps):
        error = _gram_error(kernel)
        kernel, exponent = _scaled(_gram_kernel(kernel))
        history.append((error, exponent))
    bound = _schur(kernel)
    for error, exponent in reversed(history):
        bound = up(up(bound * power_of_two(exponent) + error, 1).sqrt(), 1)
    bound = (bound * power_of_two(first)).clamp(min=TINY)
    return torch.where(largest == 0, 0.0, bound).max().item()


def _scaled(kernel: Tensor) -> tuple[Tensor, Tensor]:
    a, exponent = scaled(Matrices(kernel.flatten(1)[:, None]))
    return a.re.view_as(kernel), exponent


def _gram_error(kernel: Tensor) -> Tensor:
    """Returns (groups,): upper bounds of the norm of what rounding does to ``_gram_kernel``."""
    out, inputs, kh, kw = kernel.shape[1:]
    p = kernel.abs().sum((-2, -1))
    most = (p.mT @ p.sum(2, keepdim=True)).amax((1, 2))
    every = (2 * kh - 1) * (2 * kw - 1) * inputs
    return up(most * gamma(out * kh * kw), kh * kw + out + inputs + 4) + every * TINY


def _gram_kernel(kernel: Tensor) -> Tensor:
    """Returns G(τ), (groups, in, in, 2·kh − 1, 2·kw − 1).  G(−τ) is the transpose of G(τ), and is copied."""
    groups, _, inputs, kh, kw = kernel.shape
    result = kernel.new_zeros(groups, inputs, inputs, 2 * kh - 1, 2 * kw - 1)
    taps = kernel.permute(0, 3, 4, 1, 2)  # (groups, kh, kw, out, in)
    for y in range(kh):
        for x in range(1 - kw if y else 0, kw):
            here = taps[:, : kh - y, max(-x, 0) : kw - max(x, 0)].flatten(1, 3)
            there = taps[:, y:, max(x, 0) : kw - max(-x, 0)].flatten(1, 3)
            g = here.mT @ there
            result[..., kh - 1 - y, kw - 1 - x] = g.mT
            result[..., kh - 1 + y, kw - 1 + x] = g
    return result


def _schur(kernel: Tensor) -> Tensor:
    """Returns (groups,): upper bounds of √(largest absolute row sum · largest absolute column sum)."""
    absolute = kernel.abs()
    rows, columns = absolute.sum((2, 3, 4)).amax(1), absolute.sum((1, 3, 4)).amax(1)
    return up((rows * columns).sqrt(), 2 * absolute[0].numel() + 2)


def norm2toep(kernel: Tensor, steps: int) -> Tensor:
    """The same bound, differentiable and in the dtype of the kernel, without allowance for rounding."""
    if kernel.shape[1] < kernel.shape[2]:
        kernel = kernel.transpose(1, 2)
    logarithm, weight = kernel.new_zeros(len(kernel)), 1.0
    for _ in range(steps):
        groups, _, inputs, kh, kw = kernel.shape
        images = kernel.permute(2, 0, 1, 3, 4).flatten(1, 2)  # (in, groups·out, kh, kw)
        weights = kernel.transpose(1, 2).flatten(0, 1)  # (groups·in, out, kh, kw)
        found = F.conv2d(images, weights, padding=(kh - 1, kw - 1), groups=groups)
        kernel = found.unflatten(1, (groups, inputs)).permute(1, 2, 0, 3, 4)
        size = kernel.abs().amax((1, 2, 3, 4))
        size = torch.where(size > 0, size, 1)
        weight = weight / 2
        kernel, logarithm = kernel / size[:, None, None, None, None], logarithm + weight * size.log()
    absolute = kernel.abs()
    product = absolute.sum((2, 3, 4)).amax(1) * absolute.sum((1, 3, 4)).amax(1)
    root = weight / 2 * torch.where(product > 0, product, 1).log() + logarithm
    return torch.where(product > 0, root.exp(), 0).max()
