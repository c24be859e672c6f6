"""Operators by which operations of a graph are traced, with bound rules of their own for auto_LiRPA.

auto_LiRPA has operators for most of these too.  Its rules differ between versions and are wrong in some cases (see
``refused``), and they keep less of the rounding of float64 under control.
"""

import functools
import math

import torch
from torch import Tensor

from .. import tracing
from ..arguments import check_operands
from ..graphs.operations import Elu, Gather, Softplus
from ..ops.operator import define
from . import convex, lines, mended, versions
from .linear import Block, Blocks
from .register import relaxed_class


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """Returns the numbers of x, (N, *), at ``index``, (*shape, k): (N, *shape, k).  −1 stands for 0."""
    return Gather(index)(x)


# gathered(x, index, factor): output j of a sample is factor_j · Σ_i of its numbers index_ji; −1 stands for 0.
def _gathered(x: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    return _rows(x, index).sum(-1) * factor.to(x.dtype)


def _shape_of(x: Tensor, index: Tensor, *rest) -> Tensor:
    return x.new_empty(len(x), *index.shape[:-1])


def _check(x: Tensor, *rest) -> None:
    check_operands(x=x)


gathered = define(_gathered, tensors=3, check=_check, shapes=_shape_of, composed=_gathered, rows=1)


# largest(x, index): the largest of the numbers index_ji of a sample.
def _largest(x: Tensor, index: Tensor) -> Tensor:
    return _rows(x, index).amax(-1)


largest = define(_largest, tensors=2, check=_check, shapes=_shape_of, composed=_largest, rows=1)


# affine(x, factor, offset): factor·x + offset, number by number; both broadcast to one sample.
def _affine(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    return x * factor.to(x.dtype) + offset.to(x.dtype)


affine = define(_affine, tensors=3, check=_check, shapes=lambda x, *_: torch.empty_like(x), composed=_affine, rows=1)


def _elu(x: Tensor, alpha: float) -> Tensor:
    return Elu(alpha)(x)


elu = define(_elu, tensors=1, check=_check, shapes=lambda x, _: torch.empty_like(x), composed=_elu, rows=1)


def _softplus(x: Tensor, beta: float) -> Tensor:
    return Softplus(beta, 20.0)(x)


softplus = define(
    _softplus, tensors=1, check=_check, shapes=lambda x, _: torch.empty_like(x), composed=_softplus, rows=1
)


# Lines.


def _selected(side: lines.Side, places: Tensor) -> lines.Side:
    """Turns slopes on the numbers of each window into slopes on the numbers of a sample.

    places: (neurons, k), which number of a sample is at each place of a window.
    """
    index = torch.arange(len(places), device=places.device).view(1, -1, 1)
    return side._replace(index=places[index, side.index])


def largest_blocks(lower: Tensor, upper: Tensor, index: Tensor) -> Blocks:
    """Returns the blocks of maxima of windows: lower, upper (B, *), index (*shape, k)."""
    places = index.flatten(0, -2) if index.dim() > 1 else index.unsqueeze(0)
    neurons, features = len(places), lower[0].numel()
    step = max(1, (1 << 19) // max(1, len(lower) * places.shape[1]))

    def walk(many: bool):
        for k in range(0, neurons, step):
            some = places[k : k + step]
            low, high = _rows(lower, some), _rows(upper, some)
            sides = convex.largest(low, high, many)
            yield Block(torch.arange(k, k + len(some), device=some.device), *(_selected(s, some) for s in sides))

    return Blocks(features, neurons, False, True, lower.dtype, walk)


def _each(make):
    """Returns the function that makes blocks of a function of each number by itself."""

    def blocks(lower: Tensor, upper: Tensor, *constants) -> Blocks:
        features = lower[0].numel()

        def walk(many: bool):
            neurons = torch.arange(features, device=lower.device)
            yield Block(neurons, *make(lower.flatten(1), upper.flatten(1), *constants, many=many))

        return Blocks(features, features, False, True, lower.dtype, walk)

    return blocks


# Bound classes.


def _gathered_class(package):
    class BoundGathered(package.bound_ops.Bound):
        """Exact: the operator is linear, and no factor is negative."""

        def forward(self, x, index, factor):
            return gathered(x, index, factor)

        def interval_propagate(self, *v):
            index, factor = v[1][0], v[2][0]
            return tuple(gathered(end, index, factor) for end in v[0])

        def bound_backward(self, last_lA, last_uA, x, index, factor, **kwargs):
            at, scale = index.forward_value, factor.forward_value
            numbers = math.prod(x.output_shape[1:])
            places = torch.where(at < 0, numbers, at).flatten()

            def pull(A):
                if A is None:
                    return None
                A = mended.dense(A, self.output_shape)
                each = (A * scale.to(A.dtype)).unsqueeze(-1)
                each = each.expand(*each.shape[:-1], at.shape[-1]).flatten(2)
                found = each.new_zeros(*each.shape[:2], numbers + 1).index_add(2, places, each)
                return found[..., :numbers].reshape(*found.shape[:2], *x.output_shape[1:])

            return [(pull(last_lA), pull(last_uA)), (None, None), (None, None)], 0, 0

        def bound_forward(self, dim_in, x, index, factor):
            at, scale = index.lb, factor.lb

            def push(a, dims):
                flat = a.flatten(dims)
                y = gathered(flat.flatten(0, dims - 1), at, scale)
                return y.unflatten(0, flat.shape[:dims])

            return package.linear_bound.LinearBound(push(x.lw, 2), push(x.lb, 1), push(x.uw, 2), push(x.ub, 1))

    return BoundGathered


def _scaled(A, factor: Tensor, shape: tuple[int, ...]):
    """Returns the coefficients of x for coefficients A of factor·x, where x has this shape (B, *)."""
    if A is None or isinstance(A, Tensor):
        return None if A is None else A * factor
    if factor.numel() == 1:
        return A.create_similar(A.patches * factor.view(()))
    if factor.dim() == 3 and factor.shape[1:] == (1, 1):  # patches end with (channels, height, width)
        return A.create_similar(A.patches * factor)
    return mended.dense(A, shape) * factor


def _affine_class(package):
    class BoundAffine(package.bound_ops.Bound):
        """Exact: the operator is linear."""

        def forward(self, x, factor, offset):
            return affine(x, factor, offset)

        def interval_propagate(self, *v):
            ends = [affine(end, v[1][0], v[2][0]) for end in v[0]]
            return torch.minimum(*ends), torch.maximum(*ends)

        def bound_backward(self, last_lA, last_uA, x, factor, offset, **kwargs):
            a, c = factor.forward_value, offset.forward_value
            batch = next(A.shape[1] for A in (last_lA, last_uA) if A is not None)
            constant = c.expand(batch, *self.output_shape[1:]).contiguous()
            lA, uA = (_scaled(A, a, x.output_shape) for A in (last_lA, last_uA))
            ends = [(lA, uA), (None, None), (None, None)]
            return ends, self.get_bias(last_lA, constant), self.get_bias(last_uA, constant)

        def bound_forward(self, dim_in, x, factor, offset):
            a, c = factor.lb, offset.lb
            up, down = a.clamp_min(0), a.clamp_max(0)
            low = x.lw * up + x.uw * down, x.lb * up + x.ub * down + c
            high = x.uw * up + x.lw * down, x.ub * up + x.lb * down + c
            return package.linear_bound.LinearBound(*low, *high)

    return BoundAffine


def _symbolic(name: str, constants: tuple[str, ...] = ()):
    """Returns the symbolic of an operator: its tensors become inputs, and its numbers attributes."""

    def symbolic(g, *args):
        tensors = args[: len(args) - len(constants)]
        attributes = {f"{c}_f": float(tracing.constant(a, "f")) for c, a in zip(constants, args[len(tensors) :])}
        node = g.op(f"linf::{name}", *tensors, **attributes)
        x = tensors[0].type()
        if name in ("Gathered", "LargestOf"):
            shape = tracing.sizes(tensors[1], None)
            return node.setType(x.with_sizes([tracing.sizes(tensors[0], None)[0], *shape[:-1]]))
        return node.setType(x)

    return symbolic


@functools.cache
def register() -> None:
    """Registers the operators with auto_LiRPA.  A second call does nothing."""
    package = versions.import_auto_lirpa()
    rising = {
        "largest": ("LargestOf", largest, largest_blocks, ()),
        "elu": ("Elu", elu, _each(convex.elu), ("alpha",)),
        "softplus": ("Softplus", softplus, _each(convex.softplus), ("beta",)),
    }
    for name, (node, op, blocks, constants) in rising.items():

        def ends(lower, upper, *rest, op=op):
            return op(lower, *rest), op(upper, *rest)

        tracing.register_symbolic(f"linf::{name}", _symbolic(node, constants))
        package.register_custom_op(
            f"linf::{node}", relaxed_class(package, f"BoundLinf{node}", op, ends, blocks, constants)
        )
    tracing.register_symbolic("linf::gathered", _symbolic("Gathered"))
    package.register_custom_op("linf::Gathered", _gathered_class(package))
    tracing.register_symbolic("linf::affine", _symbolic("Affine"))
    package.register_custom_op("linf::Affine", _affine_class(package))
