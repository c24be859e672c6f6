"""Corrections of auto_LiRPA's wrong bounds, by version; docs/bounds.md has the list.

What cannot be corrected from outside is refused (``bounds.refused``).  ``python -m operators`` (tests/operators) found
both.
"""

import functools
import sys
import types
from collections.abc import Callable

import torch
from torch import nn


def mend(package: types.ModuleType) -> None:
    """Replaces rules inside auto_LiRPA, for every net."""
    {"0.3": _mend_0_3, "0.7.1": _mend_0_7_1}.get(package.__version__, lambda _: None)(package)
    ops = package.bound_ops
    _replace(package, "patches_to_matrix", _for_any_shape)
    ops.BoundPad.bound_backward = _keep_padding(ops.BoundPad.bound_backward)
    ops.BoundSoftmax.interval_propagate = _softmax_interval
    ops.BoundLog.forward = _of_any_number(ops.BoundLog.forward)


# 0.3.


def _mend_0_3(package: types.ModuleType) -> None:
    ops, module = package.bound_ops, package.BoundedModule
    _mend_matmul(package)
    ops.BoundBuffers.__init__ = _of_no_sample(ops.BoundBuffers.__init__)
    ops.BoundDiv.bound_backward = _by_known_denominators(ops.BoundDiv.bound_backward)
    ops.BoundReciprocal.bound_relax = _positive_only(ops.BoundReciprocal.bound_relax)
    ops.BoundReciprocal.interval_propagate = _reciprocals
    ops.BoundTanh.bound_relax_impl = _hold_beyond_limit(ops.BoundTanh.bound_relax_impl)  # BoundSigmoid inherits it
    module._set_input = _know_values(module._set_input)


def _mend_matmul(package: types.ModuleType) -> None:
    """A linear layer without bias is traced as a product.  0.3 gives it a specification C, which it does not take."""
    matmul, linear_bound = package.bound_ops.BoundMatMul, package.linear_bound.LinearBound
    interval_propagate, bound_forward = matmul.interval_propagate, matmul.bound_forward

    @functools.wraps(interval_propagate)
    def interval(self, *v, C=None):
        bounds = interval_propagate(self, *v)
        return bounds if C is None else package.bound_ops.BoundLinear.interval_propagate(None, bounds, C=C)

    @functools.wraps(bound_forward)
    def forward(self, dim_in, x, y, C=None):
        found = bound_forward(self, dim_in, x, y)
        if C is None:
            return found
        positive, negative = (part.transpose(1, 2) for part in (C.clamp_min(0), C.clamp_max(0)))

        def combined(a, b):  # C⁺·a + C⁻·b of (B, *, outputs)
            a, b = (end if end.dim() == 3 else end.unsqueeze(1) for end in (a, b))
            return a @ positive + b @ negative

        lb, ub = combined(found.lb, found.ub).squeeze(1), combined(found.ub, found.lb).squeeze(1)
        return linear_bound(combined(found.lw, found.uw), lb, combined(found.uw, found.lw), ub)

    matmul.interval_propagate, matmul.bound_forward = interval, forward


def _hold_beyond_limit(relax: Callable) -> Callable:
    """0.3 draws lines of tanh as if its inputs lay within ±500.  Beyond that, constants at the output's ends hold."""

    @functools.wraps(relax)
    def relax_everywhere(self, x, func, dfunc):
        relax(self, x, func, dfunc)
        beyond = (x.lower < -self.x_limit) | (x.upper > self.x_limit)
        self.lw, self.uw = (torch.where(beyond, 0, slope) for slope in (self.lw, self.uw))
        self.lb, self.ub = (torch.where(beyond, func(end), b) for end, b in ((x.lower, self.lb), (x.upper, self.ub)))

    return relax_everywhere


def _check_positive(lower) -> None:
    if not (lower > 0).all():
        raise ValueError("auto_LiRPA 0.3 has bounds of 1/x only for positive x")


def _positive_only(relax: Callable) -> Callable:
    """For negative x, 0.3 draws the lines of 1/x on the wrong side."""

    @functools.wraps(relax)
    def relax_positive(self, x, *args, **options):
        _check_positive(x.lower)
        return relax(self, x, *args, **options)

    return relax_positive


def _reciprocals(self, *v):
    """Returns intervals of 1/x.  Those of 0.3 are float32 numbers for every dtype of x."""
    lower, upper = v[0]
    _check_positive(lower)
    return 1 / upper, 1 / lower


def _know_values(set_input: Callable) -> Callable:
    """0.3 forgets the values of nodes that depend on no perturbed input, such as constants and computed weights.

    Its interval of the product of two such nodes is the square of one, and linear rules that read the value fail.
    """

    @functools.wraps(set_input)
    def set_and_know(self, *x, **options):
        set_input(self, *x, **options)
        for node in self._modules.values():
            if not node.perturbed and node.name not in self.root_name:
                value = self.get_forward_value(node)
                node.lower, node.upper = node.interval = value, value

    return set_and_know


def _of_no_sample(init: Callable) -> Callable:
    """0.3 always takes the first dimension of what is computed from buffers for that of the samples."""

    @functools.wraps(init)
    def init_buffers(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.from_input = False

    return init_buffers


def _by_known_denominators(backward: Callable) -> Callable:
    """0.3 relaxes a division by weights as if these had a dimension of samples, and takes another dimension for it."""

    @functools.wraps(backward)
    def of_division(self, last_lA, last_uA, x, y):
        if y.perturbed:
            return backward(self, last_lA, last_uA, x, y)
        lA, uA = (dense(a, self.output_shape) for a in (last_lA, last_uA))
        value = y.forward_value
        lA, uA = (None if a is None else self.broadcast_backward(a / value, x) for a in (lA, uA))
        return [(lA, uA), (None, None)], 0, 0

    return of_division


# 0.7.1.


def _mend_0_7_1(package: types.ModuleType) -> None:
    bounds = sys.modules["auto_LiRPA.concretize_bounds"]
    bounds.forward_concretize = _add_up_roots(bounds.forward_concretize)
    package.bound_ops.BoundSoftmax._softmax_lse_upper = _softmax_upper


def _add_up_roots(concretize: Callable) -> Callable:
    """In forward mode, 0.7.1 takes the coefficients of every perturbed input from the columns of the first one."""

    @functools.wraps(concretize)
    def of_all_roots(self, lower, upper, lw, uw, **options):
        roots = [root for root in self.roots() if getattr(root, "perturbation", None) is not None]
        if len(roots) <= 1:
            return concretize(self, lower, upper, lw, uw, **options)
        begin = 0
        for root in roots:
            lA, uA = (w.reshape(self.batch_size, self.dim_in, -1)[:, begin : begin + root.dim].mT for w in (lw, uw))
            begin += root.dim
            ends = (
                root.perturbation.concretize(root.center, A, sign=sign, aux=root.aux) for A, sign in ((lA, -1), (uA, 1))
            )
            lower, upper = (b + end.view(b.shape) for b, end in zip((lower, upper), ends))
        return lower, upper, False

    return of_all_roots


def _softmax_upper(self, lower, upper, x0, softmax0, largest0, sum0, eps):
    """Returns a linear bound above softmax.  If probabilities are small, 0.7.1 takes a tangent of exp, which is below
    exp, for its chord.

    log softmax_i lies between the ends of ``_log_softmax_ends``, and between these exp is at most its chord.
    log softmax_i is concave, so it is at most its tangent at x0.

    Returns:
        J and b of softmax ≤ J·x + b; J is given as (D, u, v), for diag(D) − u vᵀ.
    """
    low, high = _log_softmax_ends(lower, upper)
    width, most = high - low, high.exp()
    narrow = width < 1e-7  # there the tangent at the upper end is the chord, up to rounding
    slope = torch.where(narrow, most, (most - low.exp()) / torch.where(narrow, 1, width))
    at_x0 = x0 - largest0 - sum0.log()
    bias = most + slope * (at_x0 - high) - slope * (x0 - (softmax0 * x0).sum(-1, keepdim=True))
    return (slope, slope, softmax0), bias


# Both versions.


def _replace(package: types.ModuleType, name: str, wrap: Callable) -> None:
    """Wraps a function in all modules of auto_LiRPA, because they import names from each other."""
    modules = [m for path, m in sys.modules.items() if path.startswith(package.__name__) and hasattr(m, name)]
    wrapped = {original: wrap(original) for original in {getattr(module, name) for module in modules}}
    for module in modules:
        setattr(module, name, wrapped[getattr(module, name)])


def _for_any_shape(to_matrix: Callable) -> Callable:
    """When both versions write patches as a matrix, they take the height of a padded image for its width.

    This is wrong unless both are equal, so they are made equal here.  What is added to the right or below is cut off
    again with the padding.
    """

    @functools.wraps(to_matrix)
    def of_a_square(pieces, input_shape, stride, padding, *args, **options):
        left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
        spread = options.get("inserted_zeros", args[2] if len(args) > 2 else 0) + 1
        height, width = ((size - 1) * spread + 1 for size in input_shape[-2:])
        excess = height + top + bottom - (width + left + right)
        padding = left, right + max(excess, 0), top, bottom + max(-excess, 0)
        return to_matrix(pieces, input_shape, stride, padding, *args, **options)

    return of_a_square


def _of_any_number(forward: Callable) -> Callable:
    """For both versions the logarithm of every number below 1e-12 is −27.6, that of 1e-12."""

    @functools.wraps(forward)
    def logarithm(self, x):
        return forward(self, x) if self.loss_fusion else x.log()

    return logarithm


def _softmax_interval(self, *v):
    """Returns intervals of softmax.

    Both versions add 1e-12 to the denominator and compute it as a difference.  This is wrong if one number is far above
    the others.
    """
    ends = _log_softmax_ends(*(end.movedim(self.axis, -1) for end in v[0]))
    return tuple(end.exp().movedim(-1, self.axis) for end in ends)


def _log_softmax_ends(lower, upper):
    """Yields the least and the largest logarithm of softmax over the last dimension.

    At the least, the one number is at its lower end and all others are at their upper ends; at the largest, vice versa.
    """
    own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)
    for end, other in ((lower, upper), (upper, lower)):
        yield nn.functional.logsigmoid(end - other.unsqueeze(-2).masked_fill(own, -torch.inf).logsumexp(-1))


def _keep_padding(backward: Callable) -> Callable:
    """In linear bounds, both versions forget the constant that a padding with other values than 0 adds."""

    @functools.wraps(backward)
    def with_constant(self, last_lA, last_uA, x, *rest, **options):
        A, lbias, ubias = backward(self, last_lA, last_uA, x, *rest, **options)
        if not self.value:
            return A, lbias, ubias
        batch = next(a.shape[1] for a in (last_lA, last_uA) if a is not None)
        value = torch.as_tensor(self.value)
        constant = nn.functional.pad(value.new_zeros(batch, *self.input_shape[1:]), self.padding, value=value.item())
        return A, lbias + self.get_bias(last_lA, constant), ubias + self.get_bias(last_uA, constant)

    return with_constant


# Coefficients.


def dense(A, output_shape):
    """Returns coefficients of a node's output as a tensor (S, B, *output), also if auto_LiRPA keeps image patches."""
    if A is None or isinstance(A, torch.Tensor):
        return A
    return A.to_matrix(output_shape).transpose(0, 1)  # there the batch comes first


def scaled(A, factor: float):
    """Returns factor·A for every form in which auto_LiRPA keeps coefficients."""
    if A is None or factor == 1:
        return A
    return A * factor if isinstance(A, torch.Tensor) else A.create_similar(A.patches * factor)
