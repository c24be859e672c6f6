"""How the tensors of a node fit the pure rules: rules take whole samples, or rows along the last dimension.

B is the number of samples, R of rows, D of the net's inputs, and S of specifications.
"""

import math
from collections.abc import Sequence

from torch import Tensor

Lines = Sequence[Tensor]  # lw, lb, uw, ub of lw·x₀ + lb ≤ x ≤ uw·x₀ + ub: (B, D, *), (B, *), twice


def _flat(a: Tensor, start: int) -> Tensor:
    """Joins the dimensions from ``start`` on.  If there is none, each sample has one number."""
    return a.flatten(start) if a.dim() > start else a.unsqueeze(start)


class Whole:
    """The rules take samples (B, *in) and give (B, *out), as the node does; (B,) is (B, 1) to them."""

    @staticmethod
    def fold(x: Tensor) -> Tensor:
        """Returns what the node takes as the rules take it."""
        return x if x.dim() > 1 else x.unsqueeze(1)

    @staticmethod
    def unfold(y: Tensor, x: Tensor) -> Tensor:
        """Returns what a rule gives as the node gives it; x is what the node takes."""
        return y if x.dim() > 1 else y.squeeze(1)

    @staticmethod
    def neurons(a: Tensor, samples: int) -> Tensor:
        """(…, B, *out) → (…, B, neurons); ``samples`` is the dimension of B."""
        return _flat(a, samples + 1)

    @staticmethod
    def per_sample(bias: Tensor, x: Tensor) -> Tensor:
        """Returns the bias of coefficients (S, B, neurons) as (S, B)."""
        return bias

    @staticmethod
    def coefficients(a: Tensor, x: Tensor) -> Tensor:
        """Returns coefficients (S, B, features) of x as (S, B, *in)."""
        return a.reshape(*a.shape[:2], *x.shape[1:])  # a sample of x may be one number, without dimensions

    @staticmethod
    def fold_lines(lines: Lines) -> Lines:
        """Returns lines with flat samples: (B, D, in), (B, in), twice."""
        lw, lb, uw, ub = lines
        return _flat(lw, 2), _flat(lb, 1), _flat(uw, 2), _flat(ub, 1)

    @staticmethod
    def unfold_lines(lines: Lines, x: Tensor, out: Sequence[int]) -> Lines:
        """Undoes ``fold_lines`` for lines of the results; the result of a sample has the shape ``out``."""
        return tuple(a.reshape(*a.shape[:-1], *out) for a in lines)


class AlongLast:
    """The node takes (B, *, in).  The rules take rows (R, in) and give (R, out): every index but the last is a row."""

    @staticmethod
    def fold(x: Tensor) -> Tensor:
        return x.flatten(0, -2)

    @staticmethod
    def unfold(y: Tensor, x: Tensor) -> Tensor:
        return y.unflatten(0, x.shape[:-1])

    @staticmethod
    def neurons(a: Tensor, samples: int) -> Tensor:
        """(…, B, *, out) → (…, R, out)."""
        return a.flatten(samples, -2)

    @staticmethod
    def per_sample(bias: Tensor, x: Tensor) -> Tensor:
        """(S, R) → (S, B): the biases of a sample's rows add up."""
        return bias if x.dim() == 2 else bias.unflatten(1, (len(x), math.prod(x.shape[1:-1]))).sum(2)

    @staticmethod
    def coefficients(a: Tensor, x: Tensor) -> Tensor:
        """(S, R, in) → (S, B, *, in)."""
        return a if x.dim() == 2 else a.unflatten(1, x.shape[:-1])

    @staticmethod
    def fold_lines(lines: Lines) -> Lines:
        """(B, D, *, in), (B, *, in), twice → (R, D, in), (R, in), twice."""
        lw, lb, uw, ub = lines
        lw, uw = (a.movedim(1, -2).flatten(0, -3) for a in (lw, uw))
        return lw, lb.flatten(0, -2), uw, ub.flatten(0, -2)

    @staticmethod
    def unfold_lines(lines: Lines, x: Tensor, out: Sequence[int]) -> Lines:
        """(R, D, out), (R, out), twice → (B, D, *, out), (B, *, out), twice."""
        lw, lb, uw, ub = (a.unflatten(0, x.shape[:-1]) for a in lines)
        return lw.movedim(-2, 1), lb, uw.movedim(-2, 1), ub
