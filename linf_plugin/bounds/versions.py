"""The differences between versions of auto_LiRPA, and how either is imported.

auto_LiRPA 0.3, from the package index, was written for torch < 1.13 and NumPy 1.  0.7.1, from its repository, runs on
current versions as it is.  ``import_auto_lirpa`` imports either.  What 0.3 needs is lent to it while it is imported, or
patched inside it.  Nothing else sees a change.
"""

import contextlib
import functools
import importlib
import inspect
import sys
import types
import warnings
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

from .. import extras, ops
from .dtypes import default_dtype
from .mended import mend
from .repaired import repair


def _set_opset(version: int) -> None:
    GLOBALS.export_onnx_opset_version = version


@contextlib.contextmanager
def _lent():
    """Lends 0.3, while it is imported, the names that torch and NumPy no longer have."""
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
        # 0.3 replaces the caller's warning filters.  Both versions compile helpers with torch.jit.script, which is
        # deprecated.  Recording keeps both from the caller.
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


def _mend_0_3(package: types.ModuleType) -> None:
    """Replaces code inside auto_LiRPA 0.3 that fails, or that needs things that torch no longer has."""
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
        # Where 0.3 has an α for every neuron, it should drop the indices of unstable neurons, but does not.
        if all(alpha.shape[3:] == self.shape for alpha in self.alpha.values()):
            self.alpha_indices = None

    relu.init_opt_parameters = init_relu
    module = package.BoundedModule
    module.register_parameter = nn.Module.register_parameter  # its own copy refers to torch._six
    named_members = module._named_members
    module._named_members = functools.wraps(named_members)(
        lambda self, get, prefix="", recurse=True, remove_duplicate=True: named_members(self, get, prefix, recurse)
    )


def _wrap_tracing(package: types.ModuleType) -> None:
    """Changes tracing in both versions.

    Biases and means are traced as ``linf::shift``.  The exporter's opset, which a trace changes, is put back.
    """
    general = sys.modules["auto_LiRPA.bound_general"]
    parse_module = general.parse_module

    @functools.wraps(parse_module)
    def parse(*args, **kwargs):
        before = GLOBALS.export_onnx_opset_version
        try:
            with warnings.catch_warnings(), ops.shift_as_one_operator():
                # auto_LiRPA traces with the TorchScript exporter, which warns about itself many times.
                for category in (DeprecationWarning, torch.jit.TracerWarning, UserWarning):
                    warnings.simplefilter("ignore", category)
                return parse_module(*args, **kwargs)
        finally:
            _set_opset(before)

    general.parse_module = parse


@functools.cache
def import_auto_lirpa() -> types.ModuleType:
    """Returns the package auto_LiRPA, made to run on the torch and NumPy that are installed.

    Raises:
        ImportError: it is not installed; the message says how to install it.
    """
    if find_spec("auto_LiRPA") is None:
        raise extras.missing("auto_LiRPA")
    if "auto_LiRPA" in sys.modules:
        package = sys.modules["auto_LiRPA"]
    else:
        with _lent(), extras.named():
            import auto_LiRPA as package
    if package.__version__ == "0.3":
        _mend_0_3(package)
    mend(package)
    repair(package)
    _wrap_tracing(package)
    return package


def float64_by_default():
    """Makes float64 the default dtype while it is open."""
    return default_dtype(torch.float64)


def given_bounds(bounded, bounds: dict) -> dict:
    """Returns intermediate bounds as an argument of ``bounded.compute_bounds``, by the name that this version uses."""
    names = inspect.signature(type(bounded).compute_bounds).parameters
    return {"interm_bounds" if "interm_bounds" in names else "intermediate_layer_bounds": bounds}


def reads_bounds(node) -> bool:
    """Whether the node's relaxation needs bounds of its inputs."""
    return bool(getattr(node, "requires_input_bounds", [])) or getattr(node, "nonlinear", False)


def optimises(node) -> bool:
    """Whether α-CROWN can optimise the node's relaxation."""
    from auto_LiRPA.bound_ops import BoundOptimizableActivation

    return isinstance(node, BoundOptimizableActivation)


def is_input(node) -> bool:
    """Whether the node is an input of the net, whose bounds are the box."""
    return not node.inputs
