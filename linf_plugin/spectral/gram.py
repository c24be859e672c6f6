"""Gram iteration: bounds of norms by repeated squaring of GᴴG (Delattre et al., 2023, arXiv 2305.16173).

With t steps it gives the Schatten norm of order q = 2^{t+1}: σ₁ ≤ (Σ_i σ_i^q)^{1/q} ≤ σ₁·rank^{1/q}.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .outward import TINY, Matrices, frobenius, gram, power_of_two, scaled, up

TINIEST = 1e-30  # keeps the logarithm of a zero matrix finite; norms of other matrices are far above it


def gram_upper(a: Matrices, steps: int) -> Tensor:
    """Returns (B,): upper bounds of the 2-norms of the matrices, which hold with all rounding.

    Proof: let H = GᴴG + E be what a step computes, with ‖E‖₂ ≤ error.  Then σ₁(G)² = ‖H − E‖₂ ≤ ‖H‖₂ + error.  The
    next G is H divided by a power of two.  The last ‖G‖₂ is at most ‖G‖_F.  So the bounds are taken back through the
    steps, each operation rounded outward.
    """
    g, first = scaled(a.tall)
    history = []
    for _ in range(steps):
        h, error = gram(g, frobenius(g))
        g, exponent = scaled(h)
        history.append((error, exponent))
    bound = frobenius(g)
    for error, exponent in reversed(history):
        bound = up(up(bound * power_of_two(exponent) + error, 1).sqrt(), 1)
    bound = (bound * power_of_two(first)).clamp(min=TINY)
    return torch.where(a.largest == 0, 0.0, bound)


def schatten(g: Tensor, steps: int) -> Tensor:
    """Returns (…): the Schatten norms of order 2^{steps+1} of matrices (…, m, n), real or complex, in their precision.

    Before each step the matrices are divided by their Frobenius norms, whose logarithms are kept.
    """
    a = g.mH if g.shape[-1] > g.shape[-2] else g
    largest = a.abs().amax((-2, -1))
    a = a / torch.where(largest > 0, largest, 1)[..., None, None]  # squares then neither overflow nor vanish
    logarithm, weight = torch.zeros_like(largest), 1.0
    for _ in range(steps):
        size = torch.linalg.matrix_norm(a).clamp(min=TINIEST)
        a = a / size[..., None, None]
        logarithm = logarithm + weight * size.log()
        a, weight = a.mH @ a, weight / 2
    last = torch.linalg.matrix_norm(a).clamp(min=TINIEST)
    return largest * (logarithm + weight * last.log()).exp()


class SchattenNorm(torch.autograd.Function):
    """``schatten`` of one matrix (m, n), with its gradient in closed form.

    With q = 2^{t+1} and b the norm, the gradient is b^{1−q}·G(GᴴG)^{q/2−1} = M(MᴴM)^{2^t−1} for M = G/b.  No power of M
    has a norm above 1, and no step is stored.  The gradient at zero is zero.
    """

    @staticmethod
    def forward(ctx, g: Tensor, steps: int) -> Tensor:
        bound = schatten(g, steps)
        ctx.save_for_backward(g, bound)
        ctx.steps = steps
        return bound

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        g, bound = ctx.saved_tensors
        m = g / torch.where(bound > 0, bound, 1)
        left = m.shape[1] > m.shape[0]
        power = m @ m.mH if left else m.mH @ m
        for _ in range(ctx.steps):
            m = power @ m if left else m @ power
            power = power @ power
        return grad * m, None
