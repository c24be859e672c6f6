"""The interface to auto_LiRPA: how the operators are traced, and the Bound classes that call the rules."""

import functools

import torch

from .. import ops, tracing
from ..kernels.geometry import Geometry
from . import alpha, interval, linear, mended, pairs, shapes, versions
from .compute import cut_to_intervals
from .guard import guard_bounded_module, refuse_jacobian
from .inputs import check_box

CONV = ("stride", "padding", "dilation", "groups")


def _symbolic_dist(g, x, w, p):
    """linf::dist and linf::dist_last → linf::LinfDist(x, w; p)."""
    node = g.op("linf::LinfDist", x, w, p_f=float(tracing.constant(p, "f")))
    return node.setType(_with_outputs(x, w))


def _with_outputs(x, w):
    """Returns the type of what a layer with weights w (out, in) gives for x (N, *, in)."""
    return x.type().with_sizes([*tracing.sizes(x, 2)[:-1], tracing.sizes(w, 2)[0]])


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
    """linf::sorted_dist and linf::sorted_dist_last → linf::SortedDist(x, w; rho, k)."""
    rho, k = float(tracing.constant(rho, "f")), tracing.constant(k, "i")
    return g.op("linf::SortedDist", x, w, rho_f=rho, k_i=k).setType(_with_outputs(x, w))


def _symbolic_shift(g, x, offset, sign, scale, axis=1):
    """linf::shift → linf::Shift(x, offset; sign, scale, axis)."""
    sign, scale = (float(tracing.constant(a, "f")) for a in (sign, scale))
    return g.op("linf::Shift", x, offset, sign_f=sign, scale_f=scale, axis_i=axis).setType(x.type())


def relaxed_class(package, name: str, op, interval_rule, make_blocks, constants=(), fit=shapes.Whole):
    """Returns a Bound class for an operator of (x, *weights, *constants) that is relaxed by lines.

    ``fit`` says how the tensors of the node fit the operator and the rules (``shapes``).
    """

    class BoundRelaxed(alpha.WithWeights, package.bound_ops.BoundOptimizableActivation):
        def __init__(self, attr=None, inputs=None, output_index=0, options=None):
            super().__init__(attr, inputs, output_index, options)
            self.arguments = tuple(attr[c] for c in constants)
            self.requires_input_bounds = [0]
            self.memory, self.fit = linear.Memory(), fit

        def _check(self):
            if any(self.is_input_perturbed(i) for i in range(1, len(self.inputs))):
                raise ValueError("the weight of a distance layer must not be perturbed")
            check_box(self)

        def blocks(self, x, *weights):
            key = (fit.fold(x.lower), fit.fold(x.upper), *weights)
            return self.memory.recall(make_blocks(*key, *self.arguments), *key)

        def forward(self, x, *weights):
            return fit.unfold(op(fit.fold(x), *weights, *self.arguments), x)

        def interval_propagate(self, *v):
            self._check()
            ends = interval_rule(*map(fit.fold, v[0]), *(w[0] for w in v[1:]), *self.arguments)
            return tuple(fit.unfold(end, v[0][0]) for end in ends)

        def bound_backward(self, last_lA, last_uA, x, *weights, start_node=None, unstable_idx=None, **kwargs):
            self._check()
            lA, uA = (mended.dense(a, self.output_shape) for a in (last_lA, last_uA))
            lA, uA = (None if a is None else fit.neurons(a, 1) for a in (lA, uA))
            blocks = self.blocks(x, *(w.forward_value for w in weights))
            shares = self.weights_for(start_node, lA if uA is None else uA, unstable_idx)
            lA, lbias, uA, ubias = linear.back_substitute(blocks, lA, uA, shares)
            lbias, ubias = (b if a is None else fit.per_sample(b, x.lower) for a, b in ((lA, lbias), (uA, ubias)))
            lA, uA = (None if a is None else fit.coefficients(a, x.lower) for a in (lA, uA))
            return [(lA, uA), *((None, None) for _ in weights)], lbias, ubias

        def bound_forward(self, dim_in, x, *weights):
            self._check()
            blocks = self.blocks(x, *(w.lb for w in weights))
            lines = linear.forward_substitute(blocks, *fit.fold_lines((x.lw, x.lb, x.uw, x.ub)))
            return package.linear_bound.LinearBound(*fit.unfold_lines(lines, x.lb, self.output_shape[1:]))

        def build_gradient_node(self, grad_upstream):
            refuse_jacobian(self)

    BoundRelaxed.__name__ = BoundRelaxed.__qualname__ = name
    return BoundRelaxed


def _shift_class(package):
    """Returns the Bound class for ``linf::shift`` and ``linf::shift_last``.

    It is exact, also on coefficients that are kept as image patches.
    """

    class BoundShift(package.bound_ops.Bound):
        def __init__(self, attr=None, inputs=None, output_index=0, options=None):
            super().__init__(attr, inputs, output_index, options)
            self.sign, self.scale, self.axis = attr["sign"], attr["scale"], attr["axis"]

        def _check(self):
            if self.is_input_perturbed(1):
                raise ValueError("the offset of a shift must not be perturbed")
            check_box(self)

        def shifted(self, x, offset):
            """Returns (x + sign·offset)·scale, with one offset for each index of the node's axis."""
            return ops.shift(x.movedim(self.axis, 1), offset, self.sign, self.scale).movedim(1, self.axis)

        def forward(self, x, offset):
            return self.shifted(x, offset)

        def interval_propagate(self, *v):
            self._check()
            (lower, upper), offset = v[0], v[1][0]
            return self.shifted(lower, offset), self.shifted(upper, offset)  # it increases with x, because scale > 0

        def bound_backward(self, last_lA, last_uA, x, offset, **kwargs):
            self._check()
            # (x + o)·s = s·x + s·o: the constant is the value of the operator at 0.
            batch = next(a.shape[1] for a in (last_lA, last_uA) if a is not None)
            zero = offset.forward_value.new_zeros(batch, *self.output_shape[1:])
            constant = self.shifted(zero, offset.forward_value)
            lA, uA = (mended.scaled(a, self.scale) for a in (last_lA, last_uA))
            return [(lA, uA), (None, None)], self.get_bias(last_lA, constant), self.get_bias(last_uA, constant)

        def bound_forward(self, dim_in, x, offset):
            self._check()
            lb, ub = self.shifted(x.lb, offset.lb), self.shifted(x.ub, offset.lb)
            return package.linear_bound.LinearBound(x.lw * self.scale, lb, x.uw * self.scale, ub)

        def build_gradient_node(self, grad_upstream):
            refuse_jacobian(self)

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
    tracing.register_symbolic("linf::max_min", lambda g, x: g.op("linf::MaxMin", x).setType(x.type()))
    tracing.register_symbolic("linf::dist_last", _symbolic_dist)
    tracing.register_symbolic("linf::sorted_dist_last", _symbolic_sorted_dist)
    tracing.register_symbolic("linf::shift_last", functools.partial(_symbolic_shift, axis=-1))
    relaxed = {
        "linf::LinfDist": (
            "BoundLinfDist",
            torch.ops.linf.dist,
            interval.dist,
            linear.dist_blocks,
            ("p",),
            shapes.AlongLast,
        ),
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
            shapes.AlongLast,
        ),
        "linf::MaxMin": ("BoundLinfMaxMin", torch.ops.linf.max_min, pairs.ends, pairs.pair_blocks),
    }
    for node, row in relaxed.items():
        package.register_custom_op(node, relaxed_class(package, *row))
    package.register_custom_op("linf::Shift", _shift_class(package))
    cut_to_intervals(package.BoundedModule)
    alpha.pass_gradients(package.BoundedModule)
    guard_bounded_module(package.BoundedModule)
