"""onnx2torch: how it is imported, which operators it knows, and what becomes of the module that it makes."""

import importlib
import importlib.metadata
import sys
from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType

import torch
from onnx import ModelProto
from torch import Tensor, fx, nn

from linf_plugin import extras

from ..files.text import said

LIBRARY = "onnx2torch"
LAST_OPSET = 17  # onnx2torch reads nearly every operator of this opset, and few of later ones


def _imported(name: str) -> ModuleType:
    """Imports a module of onnx2torch.

    onnx2torch imports torchvision for two operators, NonMaxSuppression and RoiAlign.  No classifier has these, and
    torchvision often cannot be imported: it is not there, or it was built for another torch than the one that is.  A
    module without functions then stands in for it, only while onnx2torch is imported.
    """
    if f"{LIBRARY}.{name}" in sys.modules:
        return sys.modules[f"{LIBRARY}.{name}"]
    stand_ins: dict[str, ModuleType] = {}
    try:
        importlib.import_module("torchvision.ops")
    except Exception:  # one built for another torch may raise anything
        stand_ins = {name: ModuleType(name) for name in ("torchvision", "torchvision.ops")}
        stand_ins["torchvision"].ops = stand_ins["torchvision.ops"]
        stand_ins["torchvision.ops"].roi_align = None
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        return importlib.import_module(f"{LIBRARY}.{name}")
    except ImportError as error:
        raise extras.missing(LIBRARY) from error
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def version() -> str:
    """Returns the version of onnx2torch.  Raises ImportError if it is not installed; the message says how to."""
    _imported("converter")
    return importlib.metadata.version(LIBRARY)


def unknown_operators(model: ModelProto) -> list[str]:
    """Returns the names of the operators in a graph that onnx2torch does not know, each once."""
    versions = {o.domain: o.version for o in model.opset_import}
    get_converter, found = _imported("node_converters").get_converter, {}
    for node in model.graph.node:
        try:
            get_converter(node.op_type, versions.get(node.domain, 1), node.domain)
        except NotImplementedError:
            found[f"{node.domain}::{node.op_type}" if node.domain else node.op_type] = None
    return list(found)


def to_torch(model: ModelProto) -> nn.Module:
    """Returns the module that onnx2torch makes of a graph, in evaluation mode.

    Sizes that are constants become arguments: tracing cannot follow sizes that are read from a tensor.  A chain of
    layers becomes an ``nn.Sequential``.

    Args:
        model: in the form of ``plain_form``.

    Raises:
        ValueError: onnx2torch does not convert it; the message says why.
    """
    convert = _imported("converter").convert
    try:
        found = convert(model)
    except Exception as error:  # its converters may raise anything on a graph that they do not expect
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{LIBRARY} does not convert it: {type(error).__name__}: {reason}") from error
    for node in found.graph.nodes:
        if node.op == "call_module":
            _fix_sizes(found, node)
    found.graph.eliminate_dead_code()
    found.delete_all_unused_submodules()
    found.recompile()
    return (_chain(found) or found).eval()


# Modules in which sizes are arguments.


class Reshape(nn.Module):
    """Gives each sample another shape."""

    def __init__(self, sizes: tuple[int, ...]):
        super().__init__()
        self.sizes = sizes

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.sizes)

    def extra_repr(self) -> str:
        return str(self.sizes)


class Slice(nn.Module):
    """Takes a part of each sample.  parts: for each axis, from the first on, (start, end, step ≥ 1)."""

    def __init__(self, parts: tuple[tuple[int | None, int | None, int], ...]):
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        return x[tuple(slice(*part) for part in self.parts)]

    def extra_repr(self) -> str:
        return str(self.parts)


def _reshape(module: nn.Module, shape: Tensor) -> nn.Module:
    batch, *sizes = shape.tolist()
    if batch != 0:  # ``plain_form`` writes 0, which keeps the size
        raise ValueError(f"a Reshape to {shape.tolist()} is not supported")
    return Reshape(tuple(sizes))


def _slice(
    module: nn.Module, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> nn.Module:
    given = range(len(starts)) if axes is None else axes.tolist()
    if min(given) < 0 or (steps is not None and int(steps.min()) < 1):
        raise ValueError("a Slice along axes counted from the last one, or in negative steps, is not supported")
    parts: list[tuple[int | None, int | None, int]] = [(None, None, 1)] * (max(given) + 1)
    by = [1] * len(given) if steps is None else steps.tolist()
    for axis, start, end, step in zip(given, starts.tolist(), ends.tolist(), by):
        parts[axis] = (start, end, step)
    return Slice(tuple(parts))


def _split(module: nn.Module, split: Tensor) -> nn.Module:
    static = _imported("node_converters.split").OnnxSplit
    return static(num_splits=module.num_splits, axis=module.axis, split=split.tolist())


def _pad(module: nn.Module, pads: Tensor, value: Tensor | None = None) -> nn.Module:
    static = _imported("node_converters.pad").OnnxPadStatic
    modes = {"replicate": "edge"}  # PyTorch's name → ONNX's
    return static.create_from_onnx_params(
        pads.tolist(), modes.get(module.mode, module.mode), 0.0 if value is None else float(value)
    )


def _resize(
    module: nn.Module, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> nn.Module:
    by = [] if scales is None else scales.tolist()
    if module.onnx_mode != "nearest" or by[:2] != [1, 1]:
        raise ValueError("a Resize is supported only if it repeats the nearest pixels by fixed scales")
    return nn.Upsample(scale_factor=tuple(by[2:]), mode="nearest")


def _function(module: nn.Module) -> nn.Module:
    return nn.Tanh() if module.function is torch.tanh else module


# Type of onnx2torch's module → function that makes a module without constant inputs of it and of these.
STATIC: dict[str, Callable[..., nn.Module]] = {
    "OnnxReshape": _reshape,
    "OnnxSlice": _slice,
    "OnnxSplit13": _split,
    "OnnxPadDynamic": _pad,
    "OnnxResize": _resize,
    "OnnxFunction": _function,
}


def _fix_sizes(model: fx.GraphModule, node: fx.Node) -> None:
    """Replaces the module that a node calls, if its other inputs are constants and ``STATIC`` has a row for it."""
    module = model.get_submodule(node.target)
    make = STATIC.get(type(module).__name__)
    x, *rest = node.args
    fixed = [*rest, *node.kwargs.values()]
    if make is None or not all(isinstance(a, fx.Node) and a.op == "get_attr" for a in fixed):
        return
    constants = [model.get_buffer(a.target) for a in rest]
    by_name = {name: model.get_buffer(a.target) for name, a in node.kwargs.items()}
    try:
        static = make(module, *constants, **by_name)
    except ValueError as error:
        raise ValueError(f"node {said(str(node.target))}: {error}") from error
    model.set_submodule(node.target, static)
    node.args, node.kwargs = (x,), {}


def _chain(model: fx.GraphModule) -> nn.Sequential | None:
    """The same net as a sequence of layers, if each of its nodes reads only the one before."""
    first, *nodes, last = model.graph.nodes
    layers, before = [], first
    for node in nodes:
        if node.op != "call_module" or node.args != (before,) or node.kwargs or len(before.users) != 1:
            return None
        layers.append((str(node.target), model.get_submodule(node.target)))
        before = node
    return nn.Sequential(OrderedDict(layers)) if last.args == (before,) else None
