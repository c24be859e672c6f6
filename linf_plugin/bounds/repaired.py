"""Computations that fail in auto_LiRPA and are made to work, by version; docs/bounds.md has the list.

Bounds that were wrong are in ``mended``.  Here there were none: a shape, a dtype or an assertion stopped the
computation.
"""

import contextlib
import functools
import inspect
import math
import types
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .dtypes import default_dtype

OPTIMISED = ("crown-optimized", "alpha-crown")  # these compute gradients many times by themselves


def repair(package: types.ModuleType) -> None:
    """Replaces code inside auto_LiRPA, for every net."""
    {"0.3": _repair_0_3, "0.7.1": _repair_0_7_1}.get(package.__version__, lambda _: None)(package)
    module, ops = package.BoundedModule, package.bound_ops
    module.IBP_general = _flatten_interval(module.IBP_general, ops)
    module.compute_bounds = _shape_bounds(module.compute_bounds)
    ops.BoundConcat.interval_propagate = _join_boxes(ops.BoundConcat.interval_propagate)
    ops.BoundMaxPool.bound_backward = _with_its_own_weights(ops.BoundMaxPool.bound_backward)
    for name in ("__init__", "forward", "compute_bounds"):
        setattr(module, name, _in_dtype_of_inputs(getattr(module, name)))


# 0.3.


def _repair_0_3(package: types.ModuleType) -> None:
    module, ops = package.BoundedModule, package.bound_ops
    module._convert = _vectors_as_matrix(module._convert, ops)
    module.get_sparse_C = _dense_for_images(module.get_sparse_C, ops)
    module.backward_general = _shape_specification(module.backward_general)
    module.forward_general = _flatten_lines(module.forward_general, ops)
    module.get_optimized_bounds = _count_outputs(module.get_optimized_bounds)
    module.get_alpha_crown_start_nodes = _whole_pools(module.get_alpha_crown_start_nodes, ops)
    ops.BoundConcat.bound_forward = _with_constants(ops.BoundConcat.bound_forward)
    ops.BoundReshape.forward = _keep_samples(ops.BoundReshape.forward)
    ops.BoundMaxPool.init_opt_parameters = _init_pool


def _vectors_as_matrix(convert: Callable, ops) -> Callable:
    """0.3 starts from every sum and difference as if it were an image, if coefficients are kept as patches.

    It should not if the node has no three dimensions, nor if the net has no convolution at all, as in 0.7.1.
    """
    convolutions = tuple(getattr(ops, name) for name in ("BoundConv", "BoundConvTranspose") if hasattr(ops, name))

    @functools.wraps(convert)
    def convert_all(self, *args, **kwargs):
        convert(self, *args, **kwargs)
        nodes = list(self._modules.values())
        images = any(isinstance(node, convolutions) for node in nodes)
        self.conv_mode = self.conv_mode if images else "matrix"
        for node in nodes:
            sum_of_vectors = isinstance(node, (ops.BoundAdd, ops.BoundSub)) and len(node.output_shape) != 4
            if getattr(node, "mode", None) == "patches" and (sum_of_vectors or not images):
                node.mode = "matrix"

    return convert_all


def _dense_for_images(get_sparse_C: Callable, ops) -> Callable:
    """0.3 has a short form of an identity for products with a weight, but not if samples have three dimensions."""

    @functools.wraps(get_sparse_C)
    def specification(self, node, *args, **kwargs):
        if not isinstance(node, ops.BoundLinear) or len(node.output_shape) <= 3:
            return get_sparse_C(self, node, *args, **kwargs)
        return _identity(self, node, self.batch_size), False, None, math.inf

    return specification


def _identity(bounded, node, batch: int) -> Tensor:
    """Returns the identity as a specification of a node, (batch, numbers of a sample, *sample)."""
    shape = node.output_shape[1:]
    eye = torch.eye(math.prod(shape), device=bounded.device)  # in the default dtype, as auto_LiRPA makes it
    return eye.view(1, -1, *shape).expand(batch, -1, *shape)


def _shape_specification(backward: Callable) -> Callable:
    """0.3 takes specifications (B, S, outputs) only for nodes that are vectors."""

    @functools.wraps(backward)
    def backward_general(self, C, node=None, **options):
        if not isinstance(C, Tensor) or C.dim() != 3 or len(node.output_shape) == 2:
            return backward(self, C, node, **options)
        found = backward(self, C.reshape(*C.shape[:2], *node.output_shape[1:]), node, **options)
        return *(None if end is None else end.flatten(1) for end in found[:2]), *found[2:]

    return backward_general


def _flatten_lines(forward: Callable, ops) -> Callable:
    """The same in forward mode: the specification is applied to the flattened node."""

    @functools.wraps(forward)
    def forward_general(self, C=None, node=None, **options):
        if C is not None and len(node.output_shape) != 2:
            flat = ops.BoundFlatten({"axis": 1, "device": self.device}, [node], 0, self.bound_opts)
            flat.name, flat.input_shape, flat.output_name = f"{node.name}/flat", node.output_shape, []
            node = flat
        return forward(self, C, node, **options)

    return forward_general


def _count_outputs(optimise: Callable) -> Callable:
    """For α-CROWN of a node that is no vector, 0.3 counts only the last dimension as outputs."""

    @functools.wraps(optimise)
    def get_optimized_bounds(self, x=None, aux=None, C=None, **options):
        final = self[options.get("final_node_name") or self.final_name]
        if C is None and x is not None and len(final.output_shape) != 2:
            C = _identity(self, final, len(next(a for a in tree_leaves(x) if isinstance(a, Tensor)))).flatten(2)
        return optimise(self, x=x, aux=aux, C=C, **options)

    return get_optimized_bounds


def _keep_samples(reshape: Callable) -> Callable:
    """0.3 has the number of samples of the trace as a constant, for example in ``x.view(x.size(0), -1)``.

    A node that depends on the input keeps its samples in the first dimension.  So where the trace has its own number of
    samples, a shape begins with the number of samples that there are now.
    """

    @functools.wraps(reshape)
    def forward(self, x, shape):
        if self.from_input and x.dim() and len(shape):
            if not hasattr(self, "keeps_samples"):  # the first call is that of the trace
                self.keeps_samples = int(shape[0]) == len(x)
            if self.keeps_samples:
                shape = [len(x), *(int(a) for a in shape[1:])]
        return reshape(self, x, shape)

    return forward


def _with_constants(forward: Callable) -> Callable:
    """In forward mode 0.3 cannot join what depends on the input with what does not, which has no coefficients."""

    @functools.wraps(forward)
    def bound_forward(self, dim_in, *x):
        return forward(self, dim_in, *(part if part.lw is not None else constant(part, dim_in) for part in x))

    def constant(part, dim_in):
        zeros = part.lb.new_zeros(len(part.lb), dim_in, *part.lb.shape[1:])
        return type(part)(zeros, part.lb, zeros, part.ub)

    return bound_forward


def _whole_pools(start_nodes: Callable, ops) -> Callable:
    """0.3 asserts that only ReLUs start from some of the neurons of an image.  A maximum pool has α for all neurons."""

    @functools.wraps(start_nodes)
    def get_alpha_crown_start_nodes(self, node, *args, **options):
        if not isinstance(node, ops.BoundMaxPool):
            return start_nodes(self, node, *args, **options)
        sparse = self.bound_opts["sparse_intermediate_bounds"]
        self.bound_opts["sparse_intermediate_bounds"] = False
        try:
            return start_nodes(self, node, *args, **options)
        finally:
            self.bound_opts["sparse_intermediate_bounds"] = sparse

    return get_alpha_crown_start_nodes


def _init_pool(self, start_nodes) -> None:
    """Makes the α of a maximum pool.  0.3 takes the batch of the trace, and a shape for the number of outputs."""
    self.alpha = OrderedDict()
    for name, size, _ in start_nodes:
        if name != "_forward":
            count = size if isinstance(size, int) else math.prod(size)
            self.alpha[name] = _pool_weights(self, count)
            self.init[name] = False


# 0.7.1.


def _repair_0_7_1(package: types.ModuleType) -> None:
    pool = package.bound_ops.BoundMaxPool
    pool._init_opt_parameters_impl = _own_dtype(pool._init_opt_parameters_impl)
    package.BoundedModule._set_used_nodes = _forget_used(package.BoundedModule._set_used_nodes)


def _forget_used(set_used_nodes: Callable) -> Callable:
    """If another node is bounded than at the last call, 0.7.1 also wants bounds for nodes that come after it."""

    @functools.wraps(set_used_nodes)
    def set_anew(self, final):
        if final.name != self.last_final_node_name:
            for node in self.nodes():
                node.used = False
        set_used_nodes(self, final)

    return set_anew


def _own_dtype(init: Callable) -> Callable:
    """0.7.1 makes the α of a maximum pool in float32 for every net, so that they do not add up to 1 in float64."""

    @functools.wraps(init)
    def init_pool(self, size_spec, name_start):
        found = init(self, size_spec, name_start)
        return found if found is None else _pool_weights(self, size_spec)

    return init_pool


# Both versions.


def _pool_weights(pool, count: int) -> Tensor:
    """Returns zeros (1, S, B, C, out H, out W, kernel H, kernel W), which auto_LiRPA fills at the first use."""
    x = pool.inputs[0].lower
    return x.new_zeros(1, count, *x.shape[:2], *pool.output_shape[-2:], *pool.kernel_size).requires_grad_()


def _with_its_own_weights(backward: Callable) -> Callable:
    """Both versions use the α of a maximum pool also for coefficients that they do not fit: of some of the outputs, or
    as patches.  Such coefficients take the lines without α.
    """

    @functools.wraps(backward)
    def bound_backward(self, last_lA, last_uA, x, start_node=None, **options):
        A = last_uA if last_lA is None else last_lA
        alpha = (self.alpha or {}).get(getattr(start_node, "name", None))
        fits = alpha is not None and isinstance(A, Tensor) and alpha.shape[1] in (1, len(A))
        if self.opt_stage != "opt" or fits:
            return backward(self, last_lA, last_uA, x, start_node=start_node, **options)
        stage, self.opt_stage = self.opt_stage, None
        try:
            return backward(self, last_lA, last_uA, x, start_node=start_node, **options)
        finally:
            self.opt_stage = stage

    return bound_backward


def _join_boxes(interval_propagate: Callable) -> Callable:
    """Both versions put the ε of all inputs into one array, which fails if some ε are tensors and some are numbers."""

    @functools.wraps(interval_propagate)
    def of_boxes(self, *v):
        balls = [getattr(interval, "ptb", None) for interval in v]
        if any(ball is not None and getattr(ball, "norm", math.inf) != math.inf for ball in balls):
            return interval_propagate(self, *v)
        return tuple(self.forward(*ends) for ends in zip(*v))

    return of_boxes


def _flatten_interval(interval: Callable, ops) -> Callable:
    """Both versions apply specifications (B, S, outputs) only to intervals of vectors."""

    @functools.wraps(interval)
    def IBP_general(self, node=None, C=None, **options):
        if C is None or len(node.output_shape) == 2:
            return interval(self, node=node, C=C, **options)
        ends = tuple(end.flatten(1) for end in interval(self, node=node, **options))
        return ops.BoundLinear.interval_propagate(None, ends, C=C.flatten(2))

    return IBP_general


def _shape_bounds(compute: Callable) -> Callable:
    """Without a specification, some methods give flat bounds of a node that is no vector.  They get its shape."""
    signature = inspect.signature(compute)

    @functools.wraps(compute)
    def compute_bounds(self, *args, **kwargs):
        found = compute(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs).arguments
        final = self[given.get("final_node_name") or self.final_name]
        if given.get("C") is not None or len(final.output_shape) == 2 or not isinstance(found, tuple):
            return found

        def shaped(end):
            flat = isinstance(end, Tensor) and end.dim() > 0
            return end.reshape(len(end), *final.output_shape[1:]) if flat else end

        for side in ("lower", "upper"):
            if isinstance(getattr(final, side, None), Tensor):
                setattr(final, side, shaped(getattr(final, side)))
        return *map(shaped, found[:2]), *found[2:]

    return compute_bounds


def _in_dtype_of_inputs(method: Callable) -> Callable:
    """Both versions make constants in the default dtype, which does not fit nets of another one.

    So the dtype of the inputs is the default while they compute.  Methods that optimise also need gradients, even if
    the caller has switched them off.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def computed(self, *args, **kwargs):
        given = signature.bind(self, *args, **kwargs).arguments
        inputs = [given.get(name) for name in ("global_input", "x") if given.get(name) is not None]
        if not inputs:  # those of the last call are meant
            inputs = [getattr(node, "value", None) for node in self._modules.values()]
        dtype = next((a.dtype for a in tree_leaves(inputs) if isinstance(a, Tensor) and a.is_floating_point()), None)
        with default_dtype(dtype), contextlib.ExitStack() as during:
            if str(given.get("method")).lower() in OPTIMISED:
                during.enter_context(torch.enable_grad())
            return method(self, *args, **kwargs)

    return computed
