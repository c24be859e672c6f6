"""The one place that knows versions and private modules of torch.onnx and auto_LiRPA.

auto_LiRPA 0.3 (package index) was written for torch < 1.13 and NumPy 1; 0.7.1 (its repository) runs on
current ones as it is.  ``import_auto_lirpa`` imports either.  What 0.3 needs is lent to it while it is
imported, or patched inside it; nothing else sees a change.
"""

import contextlib
import functools
import importlib
import inspect
import sys
import types
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import nn
from torch.onnx._internal.torchscript_exporter import (
    symbolic_helper,
    symbolic_opset11,  # noqa: F401  (torch imports opsets 9 and 10 by itself; loss fusion needs OneHot of 11)
    symbolic_opset12,  # noqa: F401  (the opset that auto_LiRPA traces with)
)
from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

from . import ops

INSTALL_AUTO_LIRPA = "pip install --no-deps auto-LiRPA==0.3"


def _set_opset(version: int) -> None:
    GLOBALS.export_onnx_opset_version = version


@contextlib.contextmanager
def _lent():
    """Names that 0.3 imports and that torch and NumPy no longer have, for as long as it is imported."""
    arraysetops = types.ModuleType("numpy.lib.arraysetops")
    arraysetops.isin = np.isin
    lend_module = "numpy.lib.arraysetops" not in sys.modules and find_spec("numpy.lib.arraysetops") is None
    helper = importlib.import_module("torch.onnx.symbolic_helper")  # its public name is another module object
    lend_setter = not hasattr(helper, "_set_opset_version")
    if lend_module:
        sys.modules["numpy.lib.arraysetops"] = arraysetops
    if lend_setter:
        helper._set_opset_version = _set_opset
    try:
        # 0.3 replaces the caller's warning filters; both versions compile helpers with torch.jit.script,
        # which is deprecated.  Recording keeps these to ourselves.
        with warnings.catch_warnings(record=True):
            yield
    finally:
        if lend_module:
            del sys.modules["numpy.lib.arraysetops"]
        if lend_setter:
            del helper._set_opset_version


class _Graph:
    """A traced graph whose nodes can be subscripted by attribute name, as they could before torch 2."""

    def __init__(self, graph):
        self._graph = graph

    def __getattr__(self, name):
        return getattr(self._graph, name)

    def nodes(self):
        return (_Node(n) for n in self._graph.nodes())


class _Node:
    def __init__(self, node):
        self._node = node

    def __getattr__(self, name):
        return getattr(self._node, name)

    def __getitem__(self, key):
        return symbolic_helper._node_get(self._node, key)


def _mend_matmul(package: types.ModuleType) -> None:
    """A linear layer without bias is traced as a product, which 0.3 asks to take a specification C and which cannot."""
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
    """0.3 draws lines of tanh as if its inputs lay within ±500; where they may not, its output's ends hold."""

    @functools.wraps(relax)
    def relax_everywhere(self, x, func, dfunc):
        relax(self, x, func, dfunc)
        beyond = (x.lower < -self.x_limit) | (x.upper > self.x_limit)
        self.lw, self.uw = (torch.where(beyond, 0, slope) for slope in (self.lw, self.uw))
        self.lb, self.ub = (
            torch.where(beyond, func(end), b) for end, b in ((x.lower, self.lb), (x.upper, self.ub))
        )

    return relax_everywhere


def _check_positive(lower) -> None:
    if not (lower > 0).all():
        raise ValueError("auto_LiRPA 0.3 has bounds of 1/x for positive x only")


def _positive_only(relax: Callable) -> Callable:
    """0.3 draws the lines of 1/x for negative x on the wrong side."""

    @functools.wraps(relax)
    def relax_positive(self, x, *args, **options):
        _check_positive(x.lower)
        return relax(self, x, *args, **options)

    return relax_positive


def _reciprocals(self, *v):
    """Intervals of 1/x.  0.3's own are float32 numbers whatever x is."""
    lower, upper = v[0]
    _check_positive(lower)
    return 1 / upper, 1 / lower


def _know_values(set_input: Callable) -> Callable:
    """0.3 forgets the values of what depends on no perturbed input, such as a weight computed in the graph.  Its
    interval of the product of two of them is the square of one, and linear rules fail where they read the value."""

    @functools.wraps(set_input)
    def set_and_know(self, *x, **options):
        set_input(self, *x, **options)
        for node in self._modules.values():
            if node.inputs and not node.perturbed:
                value = self.get_forward_value(node)
                node.lower, node.upper = node.interval = value, value

    return set_and_know


def _of_no_sample(init: Callable) -> Callable:
    """0.3 takes the first dimension of what is computed from buffers for the samples, whatever it is."""

    @functools.wraps(init)
    def init_buffers(self, *args, **kwargs):
        init(self, *args, **kwargs)
        self.from_input = False

    return init_buffers


def _by_known_denominators(backward: Callable) -> Callable:
    """0.3 relaxes a division by weights as if they had samples, and takes another dimension for these."""

    @functools.wraps(backward)
    def of_division(self, last_lA, last_uA, x, y):
        if y.perturbed:
            return backward(self, last_lA, last_uA, x, y)
        lA, uA = (dense(a, self.output_shape) for a in (last_lA, last_uA))
        value = y.forward_value
        lA, uA = (None if a is None else self.broadcast_backward(a / value, x) for a in (lA, uA))
        return [(lA, uA), (None, None)], 0, 0

    return of_division


def _mend_0_3(package: types.ModuleType) -> None:
    """Replaces, inside auto_LiRPA 0.3, what relies on things that torch no longer has, and rules that are wrong."""
    parse = sys.modules["auto_LiRPA.parse_graph"]
    parse_graph = parse.parse_graph
    parse.parse_graph = functools.wraps(parse_graph)(
        lambda graph, inputs, params: parse_graph(_Graph(graph), inputs, params)
    )
    relu = package.bound_ops.BoundRelu
    init_opt_parameters = relu.init_opt_parameters

    @functools.wraps(init_opt_parameters)
    def init_relu(self, start_nodes):
        init_opt_parameters(self, start_nodes)
        # It forgets to forget the indices of unstable neurons where it keeps an α for every neuron.
        if all(alpha.shape[3:] == self.shape for alpha in self.alpha.values()):
            self.alpha_indices = None

    relu.init_opt_parameters = init_relu
    _mend_matmul(package)
    buffers = package.bound_ops.BoundBuffers
    buffers.__init__ = _of_no_sample(buffers.__init__)
    division = package.bound_ops.BoundDiv
    division.bound_backward = _by_known_denominators(division.bound_backward)
    reciprocal = package.bound_ops.BoundReciprocal
    reciprocal.bound_relax = _positive_only(reciprocal.bound_relax)
    reciprocal.interval_propagate = _reciprocals
    module = package.BoundedModule
    module.register_parameter = nn.Module.register_parameter  # its own copy refers to torch._six
    named_members = module._named_members
    module._named_members = functools.wraps(named_members)(
        lambda self, get, prefix="", recurse=True, remove_duplicate=True: named_members(self, get, prefix, recurse)
    )
    module._set_input = _know_values(module._set_input)
    tanh = package.bound_ops.BoundTanh  # BoundSigmoid inherits it
    tanh.bound_relax_impl = _hold_beyond_limit(tanh.bound_relax_impl)


def _add_up_roots(concretize: Callable) -> Callable:
    """0.7.1, in forward mode, takes the coefficients of every perturbed input from the columns of the first."""

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


def _for_any_shape(to_matrix: Callable) -> Callable:
    """Both versions take the height of a padded image for its width where they write patches as a matrix: wrong unless
    both are equal, and so they are made here.  What is added to the right or below is cut off again with the padding."""

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
    """Both versions take numbers below 1e-12 for 1e-12, and their logarithms for −27.6."""

    @functools.wraps(forward)
    def logarithm(self, x):
        return forward(self, x) if self.loss_fusion else x.log()

    return logarithm


def _softmax_interval(self, *v):
    """Both versions add 1e-12 to the denominator, and find it by a difference: wrong where one number is far above the
    others.  Here softmax_i ≥ sigmoid(l_i − log Σ_{j≠i} exp u_j), and ≤ the same with the ends exchanged."""
    lower, upper = (end.movedim(self.axis, -1) for end in v[0])
    own = torch.eye(lower.shape[-1], dtype=torch.bool, device=lower.device)
    ends = (
        torch.sigmoid(end - other.unsqueeze(-2).masked_fill(own, -torch.inf).logsumexp(-1))
        for end, other in ((lower, upper), (upper, lower))
    )
    return tuple(end.movedim(-1, self.axis) for end in ends)


def _replace(package: types.ModuleType, name: str, wrap: Callable) -> None:
    """In all modules of auto_LiRPA, which import names from each other."""
    modules = [m for path, m in sys.modules.items() if path.startswith(package.__name__) and hasattr(m, name)]
    wrapped = {original: wrap(original) for original in {getattr(module, name) for module in modules}}
    for module in modules:
        setattr(module, name, wrapped[getattr(module, name)])


def _keep_padding(backward: Callable) -> Callable:
    """Both versions forget, in linear bounds, what a padding that is not 0 adds."""

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


def _mend_0_7_1(package: types.ModuleType) -> None:
    """Replaces a rule of auto_LiRPA 0.7.1 that is wrong."""
    bounds = sys.modules["auto_LiRPA.concretize_bounds"]
    bounds.forward_concretize = _add_up_roots(bounds.forward_concretize)


def _wrap_tracing(package: types.ModuleType) -> None:
    """Both versions: biases and means are traced as ``linf::shift``, and the exporter's opset, which a trace
    changes, is put back."""
    general = sys.modules["auto_LiRPA.bound_general"]
    parse_module = general.parse_module

    @functools.wraps(parse_module)
    def parse(*args, **kwargs):
        before = GLOBALS.export_onnx_opset_version
        try:
            with warnings.catch_warnings(), ops.shift_as_one_operator():
                # auto_LiRPA traces by way of the TorchScript exporter, which says so at length.
                for category in (DeprecationWarning, torch.jit.TracerWarning, UserWarning):
                    warnings.simplefilter("ignore", category)
                return parse_module(*args, **kwargs)
        finally:
            _set_opset(before)

    general.parse_module = parse


@functools.cache
def import_auto_lirpa() -> types.ModuleType:
    """The package auto_LiRPA, made to run on the torch and NumPy that are installed.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    if find_spec("auto_LiRPA") is None:
        raise ImportError(
            f"linf_plugin.bounds needs auto_LiRPA. Install it with\n    {INSTALL_AUTO_LIRPA}\n"
            "(--no-deps, because its metadata ask for an old torch)"
        )
    if "auto_LiRPA" in sys.modules:
        package = sys.modules["auto_LiRPA"]
    else:
        with _lent():
            import auto_LiRPA as package
    if package.__version__ == "0.3":
        _mend_0_3(package)
    if package.__version__ == "0.7.1":
        _mend_0_7_1(package)
    _replace(package, "patches_to_matrix", _for_any_shape)
    pad = package.bound_ops.BoundPad
    pad.bound_backward = _keep_padding(pad.bound_backward)
    package.bound_ops.BoundSoftmax.interval_propagate = _softmax_interval
    logarithm = package.bound_ops.BoundLog
    logarithm.forward = _of_any_number(logarithm.forward)
    _wrap_tracing(package)
    return package


@contextlib.contextmanager
def float64_by_default():
    """Bounds in float64 need this: auto_LiRPA makes tables and identity matrices in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def constant(value, kind: str):
    """A constant argument of a symbolic function: kind "f" float, "i" int, "is" list of ints."""
    return symbolic_helper._maybe_get_const(value, kind)


def sizes(value, dims: int) -> list[int | None]:
    """The sizes of a traced tensor with ``dims`` dimensions; None where the trace does not know one."""
    return value.type().varyingSizes() or [None] * dims


def register_symbolic(name: str, symbolic: Callable) -> None:
    """How the tracer writes the operator ``name`` (for every opset from 9 on)."""
    torch.onnx.register_custom_op_symbolic(name, symbolic, 9)


def give_functions(protos) -> None:
    """Puts ONNX functions into the model that ``torch.onnx.export(dynamo=True)`` writes, while it translates an
    operator whose node calls them.

    The exporter converts every model to the opset that was asked for, which inlines its functions.  Up to there
    the model has another opset, which functions without an opset of their own take over.  Where an exporter keeps
    no list of functions, the node stays without a body.
    """
    from onnxscript import evaluator

    functions = getattr(evaluator.default(), "functions", None)
    if not isinstance(functions, dict):
        return
    for proto in protos:
        proto.ClearField("opset_import")
        functions[proto.domain, proto.name, ""] = types.SimpleNamespace(to_function_proto=lambda proto=proto: proto)


def dense(A, output_shape):
    """Coefficients of a node's output as a tensor (S, B, *output), also where auto_LiRPA keeps image patches."""
    if A is None or isinstance(A, torch.Tensor):
        return A
    return A.to_matrix(output_shape).transpose(0, 1)  # batch first there


def scaled(A, factor: float):
    """factor·A for any form in which auto_LiRPA keeps coefficients."""
    if A is None or factor == 1:
        return A
    return A * factor if isinstance(A, torch.Tensor) else A.create_similar(A.patches * factor)


def given_bounds(bounded, bounds: dict) -> dict:
    """The keyword argument of ``bounded.compute_bounds`` for intermediate bounds, whose name depends on the version."""
    names = inspect.signature(type(bounded).compute_bounds).parameters
    return {"interm_bounds" if "interm_bounds" in names else "intermediate_layer_bounds": bounds}


def reads_bounds(node) -> bool:
    """Whether the node's relaxation is made on bounds of its inputs."""
    return bool(getattr(node, "requires_input_bounds", [])) or getattr(node, "nonlinear", False)


def optimises(node) -> bool:
    """Whether α-CROWN has something to choose in the node's relaxation."""
    from auto_LiRPA.bound_ops import BoundOptimizableActivation

    return isinstance(node, BoundOptimizableActivation)


def is_input(node) -> bool:
    """Whether the node is an input of the net, whose bounds are the box."""
    return not node.inputs
