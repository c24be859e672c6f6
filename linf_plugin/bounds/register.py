"""The interface to auto_LiRPA: how the operators are traced, and the Bound classes that call the rules."""

import functools

import torch

from .. import ops, tracing
from ..kernels.geometry import Geometry
from . import alpha, interval, linear, mended, versions
from .compute import cut_to_intervals
from .guard import check_box, guard_bounded_module

CONV = ("stride", "padding", "dilation", "groups")


def _symbolic_dist(g, x, w, p):
    """linf::dist → linf::LinfDist(x, w; p)."""
    node = g.op("linf::LinfDist", x, w, p_f=float(tracing.constant(p, "f")))
    (n, _), (out, _) = tracing.sizes(x, 2), tracing.sizes(w, 2)
    return node.setType(x.type().with_sizes([n, out]))


def _symbolic_dist_conv2d(g, x, w, p, *conv):
    """linf::dist_conv2d → linf::LinfDistConv2d(x, w; p, stride, padding, dilation, groups)."""
    conv = [tracing.constant(a, kind) for a, kind in zip(conv, ("is", "is", "is", "i"))]
    attributes = {f"{name}_i": a for name, a in zip(CONV, conv)}
    node = g.op("linf::LinfDistConv2d", x, w, p_f=float(tracing.constant(p, "f")), **attributes)
    shapes = tracing.sizes(x, 4), tracing.sizes(w, 4)
    (n, *size), (out, *kernel) = shapes
    known = None not in (*size, *kernel)
    shape = Geometry(*conv).output_shape(*shapes) if known else (n, out, None, None)
    return node.setType(x.type().with_sizes(list(shape)))


def _symbolic_sorted_dist(g, x, w, rho, k):
    """linf::sorted_dist → linf::SortedDist(x, w; rho, k)."""
    rho, k = float(tracing.constant(rho, "f")), tracing.constant(k, "i")
    node = g.op("linf::SortedDist", x, w, rho_f=rho, k_i=k)
    (n, _), (out, _) = tracing.sizes(x, 2), tracing.sizes(w, 2)
    return node.setType(x.type().with_sizes([n, out]))


def _symbolic_shift(g, x, offset, sign, scale):
    """linf::shift → linf::Shift(x, offset; sign, scale)."""
    sign, scale = (float(tracing.constant(a, "f")) for a in (sign, scale))
    return g.op("linf::Shift", x, offset, sign_f=sign, scale_f=scale).setType(x.type())


def relaxed_class(package, name: str, op, interval_rule, make_blocks, constants=()):
    """Returns a Bound class for an operator of (x, *weights, *constants) that is relaxed by lines."""

    class BoundRelaxed(alpha.WithWeights, package.bound_ops.BoundOptimizableActivation):
        def __init__(self, attr=None, inputs=None, output_index=0, options=None):
            super().__init__(attr, inputs, output_index, options)
            self.arguments = tuple(attr[c] for c in constants)
            self.requires_input_bounds = [0]
            self.memory = linear.Memory()

        def _check(self):
            if any(self.is_input_perturbed(i) for i in range(1, len(self.inputs))):
                raise ValueError("the weight of a distance layer must not be perturbed")
            check_box(self)

        def blocks(self, x, *weights):
            key = (x.lower, x.upper, *weights)
            return self.memory.recall(make_blocks(*key, *self.arguments), *key)

        def forward(self, x, *weights):
            return op(x, *weights, *self.arguments)

        def interval_propagate(self, *v):
            self._check()
            return interval_rule(*v[0], *(w[0] for w in v[1:]), *self.arguments)

        def bound_backward(self, last_lA, last_uA, x, *weights, start_node=None, unstable_idx=None, **kwargs):
            self._check()
            lA, uA = (mended.dense(a, self.output_shape) for a in (last_lA, last_uA))
            blocks = self.blocks(x, *(w.forward_value for w in weights))
            shares = self.weights_for(start_node, lA if uA is None else uA, unstable_idx)
            flat = (None if a is None else a.flatten(2) for a in (lA, uA))
            lA, lbias, uA, ubias = linear.back_substitute(blocks, *flat, shares)
            lA, uA = (None if a is None else a.unflatten(2, x.lower.shape[1:]) for a in (lA, uA))
            return [(lA, uA), *((None, None) for _ in weights)], lbias, ubias

        def bound_forward(self, dim_in, x, *weights):
            self._check()
            blocks, shape = self.blocks(x, *(w.lb for w in weights)), self.output_shape[1:]
            ends = (x.lw.flatten(2), x.lb.flatten(1), x.uw.flatten(2), x.ub.flatten(1))
            lw, lb, uw, ub = linear.forward_substitute(blocks, *ends)
            return package.linear_bound.LinearBound(
                lw.unflatten(2, shape), lb.unflatten(1, shape), uw.unflatten(2, shape), ub.unflatten(1, shape)
            )

    BoundRelaxed.__name__ = BoundRelaxed.__qualname__ = name
    return BoundRelaxed


def _shift_class(package):
    """Returns the Bound class for ``linf::shift``: exact, also on coefficients that are kept as image patches."""

    class BoundShift(package.bound_ops.Bound):
        def __init__(self, attr=None, inputs=None, output_index=0, options=None):
            super().__init__(attr, inputs, output_index, options)
            self.sign, self.scale = attr["sign"], attr["scale"]

        def _check(self):
            if self.is_input_perturbed(1):
                raise ValueError("the offset of a shift must not be perturbed")
            check_box(self)

        def forward(self, x, offset):
            return ops.shift(x, offset, self.sign, self.scale)

        def interval_propagate(self, *v):
            self._check()
            (lower, upper), offset = v[0], v[1][0]
            return interval.shift(lower, upper, offset, self.sign, self.scale)

        def bound_backward(self, last_lA, last_uA, x, offset, **kwargs):
            self._check()
            # (x + o)·s = s·x + s·o: the constant is the value of the operator at 0.
            batch = next(a.shape[1] for a in (last_lA, last_uA) if a is not None)
            zero = offset.forward_value.new_zeros(batch, *self.output_shape[1:])
            constant = ops.shift(zero, offset.forward_value, self.sign, self.scale)
            lA, uA = (mended.scaled(a, self.scale) for a in (last_lA, last_uA))
            return [(lA, uA), (None, None)], self.get_bias(last_lA, constant), self.get_bias(last_uA, constant)

        def bound_forward(self, dim_in, x, offset):
            self._check()
            lb, ub = (ops.shift(end, offset.lb, self.sign, self.scale) for end in (x.lb, x.ub))
            return package.linear_bound.LinearBound(x.lw * self.scale, lb, x.uw * self.scale, ub)

    return BoundShift


@functools.cache
def register() -> None:
    """Registers the operators with auto_LiRPA.  A second call does nothing.

    Raises:
        ImportError: auto_LiRPA is not installed; the message says how to install it.
    """
    package = versions.import_auto_lirpa()
    tracing.register_symbolic("linf::dist", _symbolic_dist)
    tracing.register_symbolic("linf::dist_conv2d", _symbolic_dist_conv2d)
    tracing.register_symbolic("linf::sorted_dist", _symbolic_sorted_dist)
    tracing.register_symbolic("linf::shift", _symbolic_shift)
    distances = {
        "linf::LinfDist": ("BoundLinfDist", torch.ops.linf.dist, interval.dist, linear.dist_blocks, ("p",)),
        "linf::LinfDistConv2d": (
            "BoundLinfDistConv2d",
            torch.ops.linf.dist_conv2d,
            interval.dist_conv2d,
            linear.dist_conv2d_blocks,
            ("p", *CONV),
        ),
        "linf::SortedDist": (
            "BoundSortedDist",
            torch.ops.linf.sorted_dist,
            interval.sorted_dist,
            linear.sorted_dist_blocks,
            ("rho", "k"),
        ),
    }
    for node, row in distances.items():
        package.register_custom_op(node, relaxed_class(package, *row))
    package.register_custom_op("linf::Shift", _shift_class(package))
    cut_to_intervals(package.BoundedModule)
    alpha.pass_gradients(package.BoundedModule)
    guard_bounded_module(package.BoundedModule)
