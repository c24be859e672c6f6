"""An ONNX graph back to a ``Net`` that can be bounded: a chain of nodes, each read as a layer."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto

from linf_plugin.kernels import windows
from linf_plugin.models.net import Net
from linf_plugin.models.spec import MOST_LAYERS, MOST_VALUES, check_size
from linf_plugin.state import constants

from ..files.structure import STANDARD
from ..files.text import said, type_name
from ..functions.domain import LINF
from ..functions.library import ATTRIBUTE_TYPES, POINT_DISTANCES
from ..functions.sorted_sums import rho_and_k
from ..writing.certificate import PIXELS
from .fold import BATCHES, Constants, Varying, attribute
from .fuse import fuse

OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)  # what the operators here mean since then


class _Chain:
    """The layers read so far, and the one value that runs through them: its ``name`` and its ``shape``.

    ``any_batch``: whether the first size stands for any, as ``BATCHES[0]``.  ``bytes``: whether the value is of pixels
    in bytes, that is, not yet divided by their range.
    """

    def __init__(self, name: str, shape: tuple[int, ...], any_batch: bool, of_bytes: bool):
        self.name, self.shapes = name, {name: shape}
        self.shape, self.any_batch, self.bytes = shape, any_batch, of_bytes
        self.layers: list[tuple[str, dict, dict]] = []  # name and arguments for a spec, tensors
        self.image: tuple[int, ...] | None = None  # what slices, one an axis, are taken of
        self.corner: list[int] = []

    def add(self, layer: str, tensors: dict | None = None, **arguments) -> None:
        if len(self.layers) == MOST_LAYERS:
            raise ValueError(f"more than {MOST_LAYERS:,} layers are not read")
        self.layers.append((layer, arguments, tensors or {}))

    def slice(self, axis: int, start: int, end: int) -> None:
        """Takes what lies between the ends along one axis of an image."""
        if self.image is None:
            self.image, self.corner = self.shape, [0] * len(self.shape)
        self.corner[axis] += start
        self.shape = (*self.shape[:axis], end - start, *self.shape[axis + 1 :])

    def end_crop(self) -> None:
        """Makes one layer of the slices so far."""
        if self.image is None:
            return
        size, sides = self.shape[-1], self.image[2:]
        if self.shape[2:] != (size, size) or self.corner[2:] != [(side - size) // 2 for side in sides]:
            raise ValueError(
                f"of slices, only those to the middle square of an image are supported: got {self.shape[2:]} pixels "
                f"from {tuple(self.corner[2:])} on, of {sides}"
            )
        self.image = None
        self.add("crop", size=size)

    def advance(self, name: str) -> None:
        if min(self.shape) < 1:
            raise ValueError(f"its value would have the shape {self.shape}")
        if math.prod(self.shape[1:]) > MOST_VALUES:
            raise ValueError(f"its value would have more than {MOST_VALUES:,} numbers a sample")
        self.name, self.shapes[name] = name, self.shape

    def sizes_of(self, node: NodeProto) -> np.ndarray | Varying:
        """What a node Shape of a value of the chain gives."""
        which = slice(attribute(node, "start", 0), attribute(node, "end"))
        shape = self.shapes[node.input[0]]
        each = [np.array((batch, *shape[1:])[which], np.int64) for batch in BATCHES]
        return Varying(*each) if self.any_batch else np.array(shape[which], np.int64)

    def last(self, *layers: str) -> dict | None:
        """The tensors of the last layer if it is one of these."""
        return self.layers[-1][2] if self.layers and self.layers[-1][0] in layers else None

    def per_channel(self, a: np.ndarray) -> np.ndarray:
        """a as (C,), or as (1,) if it is the same number for all."""
        full = (1,) * (len(self.shape) - a.ndim) + a.shape
        if len(full) != len(self.shape) or full[1] not in (1, self.shape[1]) or a.size != full[1]:
            raise ValueError(f"a constant of shape {a.shape} is not one number a channel of {self.shape}")
        return a.reshape(-1)


def _shift(chain: _Chain, mean: np.ndarray) -> None:
    """x − mean."""
    if chain.layers and len(mean) == chain.shape[1]:
        chain.add("mean_shift", {"running_mean": mean}, num_features=len(mean))
    else:
        chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1.0)


def _sub(chain: _Chain, node: NodeProto, x, c) -> None:
    if x is not None:
        raise ValueError("a constant minus a value is not supported")
    _shift(chain, chain.per_channel(c))


def _add(chain: _Chain, node: NodeProto, x, c) -> None:
    c = chain.per_channel(c if x is None else x)
    tensors = chain.last("dist", "dist_conv", "sort_dist", "linear", "conv")
    if tensors is not None and "bias" not in tensors and len(c) == chain.shape[1]:
        tensors["bias"] = c
        chain.layers[-1][1]["bias"] = True
    else:
        _shift(chain, -c)


def _mul(chain: _Chain, node: NodeProto, x, c) -> None:
    c = c if x is None else x
    if c.size != 1 or c.ndim > len(chain.shape) or not 0 < c.item() < math.inf:
        raise ValueError("a factor must be one positive number")
    mean = np.zeros(1, c.dtype)
    if (shift := chain.last("mean_shift", "normalize")) is not None and chain.layers[-1][1].get("std", 1.0) == 1:
        (mean,) = shift.values()
        chain.layers.pop()
    chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1 / c.item())


def _flatten(chain: _Chain, node: NodeProto, x, shape=None) -> None:
    size = math.prod(chain.shape[1:])
    if node.op_type == "Flatten":
        right = attribute(node, "axis", 1) == 1
    else:
        batch = np.zeros(len(chain.shape), bool)
        if isinstance(shape, Varying):
            shape, batch = shape.each[0], shape.where
        wanted = [int(s) for s in shape] if shape is not None else []
        n = [chain.shape[0]] if not chain.any_batch or batch[:1].any() else []  # a number of its own is no batch
        if wanted[:1] == [0] and not attribute(node, "allowzero", 0):
            n = [0]
        right = not batch[1:].any() and wanted in [[n, size] for n in n] + [[n, -1] for n in n] + [[-1, size]]
    if not right:
        raise ValueError(f"a change of shape from {chain.shape} other than flattening is not supported")
    chain.add("flatten")
    chain.shape = (chain.shape[0], size)


def _slice(chain: _Chain, node: NodeProto, x, starts=None, ends=None, axes=None, steps=None) -> None:
    """Whatever is left of an axis, from the first to before the last; ``_Chain.end_crop`` says what of."""
    if len(chain.shape) != 4 or starts is None or ends is None:
        raise ValueError("only slices of images with constant ends are supported")
    axes = range(len(starts)) if axes is None else [axis + 4 if axis < 0 else axis for axis in axes.tolist()]
    steps = [1] * len(starts) if steps is None else steps
    if {len(ends), len(axes), len(steps)} != {len(starts)}:
        raise ValueError("starts, ends, axes and steps must be as many")
    if len(set(axes)) != len(axes) or not set(axes) <= set(range(4)):
        raise ValueError(f"axes must be different ones of 0 to 3, got {list(axes)[:8]}")
    for axis, start, end, step in zip(axes, starts, ends, steps):
        if axis == 0 and chain.any_batch and (start, step) == (0, 1) and end >= 2**31 - 1:
            continue
        if axis == 0 and chain.any_batch:
            raise ValueError(f"a slice along axis 0 from {start} to {end} in steps of {step} is not of all of a batch")
        size = chain.shape[axis]
        start, end, step = slice(int(start), int(end), int(step)).indices(size)
        if (start, end) == (0, size) and step == 1:
            continue
        if axis < 2 or step != 1 or end <= start:
            raise ValueError(f"a slice along axis {axis} from {start} to {end} in steps of {step} is not supported")
        chain.slice(axis, start, end)


def _rows(shape: tuple[int, ...], w: np.ndarray) -> tuple[int, ...]:
    """The shape of (N, in) × (out, in) → (N, out)."""
    if len(shape) != 2 or shape[1:] != w.shape[1:]:
        raise ValueError(f"a weight of shape {w.shape} does not fit a value of shape {shape}")
    return shape[0], len(w)


def _linear(chain: _Chain, node: NodeProto, x, w, bias=None) -> None:
    a = {k: attribute(node, k, d) for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    if (a["alpha"], a["beta"], a["transA"]) != (1, 1, 0) or x is not None or w is None or w.ndim != 2:
        raise ValueError("only x·W + b and x·Wᵀ + b with constant W and b are supported")
    w = w if a["transB"] else np.ascontiguousarray(w.T)
    chain.shape = _rows(chain.shape, w)
    tensors = {"weight": w}
    if bias is not None:
        tensors["bias"] = np.broadcast_to(chain.per_channel(bias), len(w))
    chain.add("linear", tensors, in_features=w.shape[1], out_features=len(w), bias=bias is not None)


def _window(chain: _Chain, node: NodeProto, w: np.ndarray | None) -> dict:
    """Arguments of a convolution with these kernels; moves the chain's shape on."""
    pads = list(attribute(node, "pads", [0] * 4))
    same = len(pads) == 4 and pads[:2] == pads[2:] and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    if w is None or w.ndim != 4 or not same:
        raise ValueError("only two-dimensional convolutions with constant kernels and the same padding on both sides")
    channels = chain.shape[1]
    if len(chain.shape) != 4 or w.shape[1] < 1 or channels % w.shape[1]:
        raise ValueError(f"kernels of shape {w.shape} do not fit a value of shape {chain.shape}")
    groups = channels // w.shape[1]
    if not node.domain and attribute(node, "group", 1) != groups:
        raise ValueError(f"kernels of shape {w.shape} do not fit a value of shape {chain.shape} in its groups")
    if list(attribute(node, "kernel_shape", w.shape[2:])) != list(w.shape[2:]):
        raise ValueError(f"the kernels have shape {w.shape}, which is not what the node says")
    conv = {
        "stride": list(attribute(node, "strides", [1, 1])),
        "padding": pads[:2],
        "dilation": list(attribute(node, "dilations", [1, 1])),
        "groups": groups,
    }
    for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if len(conv[name]) != 2 or min(conv[name]) < least:
            raise ValueError(f"{name} must be two numbers of at least {least}, got {conv[name][:4]}")
    chain.shape = windows.output_shape(chain.shape, w.shape, tuple(conv.values()))
    return {"in_channels": channels, "out_channels": len(w), "kernel_size": list(w.shape[2:])} | conv


def _conv(chain: _Chain, node: NodeProto, x, w, bias=None) -> None:
    window, tensors = _window(chain, node, w), {"weight": w}
    if bias is not None:
        if bias.shape != (len(w),):
            raise ValueError(f"a bias of shape {bias.shape} does not fit kernels of shape {w.shape}")
        tensors["bias"] = bias
    chain.add("conv", tensors, **window, bias=bias is not None)


def _check_call(node: NodeProto) -> None:
    """That a node of the domain ``linf`` gives its function what that takes."""
    body = POINT_DISTANCES[node.op_type].to_function_proto()
    right = len(node.input) == len(body.input) and all(node.input) and len(node.output) == len(body.output)
    if {a.name for a in node.attribute} != set(body.attribute) or not right:
        names = ", ".join(body.attribute) or "none"
        raise ValueError(f"it must have {len(body.input)} inputs, {len(body.output)} output and the attributes {names}")
    for a in node.attribute:
        if a.type != ATTRIBUTE_TYPES[a.name]:
            raise ValueError(f"its attribute {a.name} is of another type")


def _dist(chain: _Chain, node: NodeProto, x, w) -> None:
    p = attribute(node, "p", math.inf)
    if node.op_type.startswith("Lp") and not 1 <= p < math.inf:
        raise ValueError(f"p must be at least 1 and finite, got {p}")
    if node.op_type.endswith("Conv"):
        chain.add("dist_conv", {"weight": w}, **_window(chain, node, w), bias=False, p=p)
        return
    chain.shape = _rows(chain.shape, w)
    sizes = {"in_features": w.shape[1], "out_features": len(w), "bias": False}
    if node.op_type == "SortDist":
        rho, k = rho_and_k(attribute(node, "coefficients"), w.shape[1])
        chain.add("sort_dist", {"weight": w}, **sizes, rho=rho, k=k)
    else:
        chain.add("dist", {"weight": w}, **sizes, p=p)


def _cast(chain: _Chain, node: NodeProto, x) -> None:
    if not chain.bytes or attribute(node, "to") != onnx.TensorProto.FLOAT:
        raise ValueError("only a Cast of pixels in bytes to float32 is supported")


def _div(chain: _Chain, node: NodeProto, x, c) -> None:
    if not chain.bytes or x is not None or c.size != 1 or c.ndim > len(chain.shape) or c.item() != PIXELS["byte"][1]:
        raise ValueError("only the division of pixels in bytes by their range is supported")
    chain.bytes = False  # the pixels are now what a ``Net`` takes


def _plain(layer: str) -> Callable:
    return lambda chain, node, x: chain.add(layer)


# (domain, operator) → reads a node; its inputs come as constants, None where the chain enters
READERS = {
    ("", "Sub"): _sub,
    ("", "Add"): _add,
    ("", "Mul"): _mul,
    ("", "Cast"): _cast,
    ("", "Div"): _div,
    ("", "Slice"): _slice,
    ("", "Reshape"): _flatten,
    ("", "Flatten"): _flatten,
    ("", "Gemm"): _linear,
    ("", "MatMul"): _linear,
    ("", "Conv"): _conv,
    ("", "Neg"): _plain("negate"),
    ("", "Relu"): _plain("relu"),
    ("", "Tanh"): _plain("tanh"),
    ("", "Identity"): lambda chain, node, x: None,
} | {(LINF.domain, name): _dist for name in POINT_DISTANCES}
EITHER = {"Add", "Mul", "Sub", "Gemm", "MatMul"}  # the chain may be any of their inputs, or they say why not
SIZES = {"Reshape", "Slice"}  # their further inputs are whole numbers, not weights


def _logits(model: ModelProto) -> str:
    names = [o.name for o in model.graph.output]
    if "logits" in names:
        return "logits"
    if len(names) != 1:
        raise ValueError(f"the model must have one output, or one named logits; it has {', '.join(names)}")
    return names[0]


def _input(model: ModelProto) -> tuple[str, list[int], bool]:
    """The name and the shape of the one input, the first size 0 where it may be any; whether it is in bytes."""
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    if len(inputs) != 1:
        raise ValueError(f"the model must have one input, it has {len(inputs)}")
    name, tensor = inputs[0].name, inputs[0].type.tensor_type
    batch, *sizes = [d.dim_value for d in tensor.shape.dim] or [0]
    if not sizes or min(sizes) < 1 or batch < 0:
        raise ValueError(f"the input {said(name)} must have sizes that are known, but for the first")
    if math.prod(sizes) > MOST_VALUES:
        raise ValueError(
            f"the input {said(name)} has {math.prod(sizes):,} numbers a sample, at most {MOST_VALUES:,} are read"
        )
    if tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise ValueError(f"the input {said(name)} must be float32, or uint8 pixels, got {type_name(tensor.elem_type)}")
    return name, [batch, *sizes], tensor.elem_type == onnx.TensorProto.UINT8


def _constant(node: NodeProto, name: str, constants: Constants) -> np.ndarray | Varying | None:
    """An input of a node as a layer takes it: float32 and finite, or whole numbers where these are sizes."""
    value = constants.get(name) if name else None
    if value is None:
        return None
    array = value.each[0] if isinstance(value, Varying) else value
    if node.op_type in SIZES and not node.domain:
        if array.dtype not in (np.int64, np.int32) or array.ndim != 1:
            shape = array.shape
            raise ValueError(f"the sizes {said(name)} must be a list of int64, got {array.dtype} of shape {shape}")
        if node.op_type == "Reshape":
            return value
    if isinstance(value, Varying):
        raise ValueError(f"the constant {said(name)} depends on the size of the batch")
    if node.op_type in SIZES and not node.domain:
        return array
    if array.dtype != np.float32:
        raise ValueError(f"the constant {said(name)} must be float32, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"the constant {said(name)} contains NaN or infinite values")
    if array.size == 0:
        raise ValueError(f"the constant {said(name)} is empty: it has shape {array.shape}")
    return array


def _read(chain: _Chain, constants: Constants, node: NodeProto) -> None:
    """Takes one node in: a layer, the shape of a value, or what is computed from shapes and constants."""
    moving = [n for n in node.input if n and not constants.has(n)]
    if not moving:
        if not constants.has(node.output[0]):
            constants.compute(node)
    elif node.op_type == "Shape" and not node.domain and moving[0] in chain.shapes:
        constants.add(node.output[0], chain.sizes_of(node))
    elif (node.domain, node.op_type) not in READERS:
        raise ValueError("this operator is not supported")
    elif moving != [chain.name]:
        raise ValueError("only a chain of layers is supported, in which each value is used once")
    elif node.op_type not in EITHER and node.input[0] != chain.name:
        raise ValueError("a layer whose weights are computed from the input is not supported")
    elif chain.bytes and node.op_type not in ("Cast", "Div", "Identity"):
        raise ValueError(f"pixels in bytes must be divided by {PIXELS['byte'][1]} first")
    else:
        if node.domain == LINF.domain:
            _check_call(node)
        if node.op_type not in ("Slice", "Identity"):
            chain.end_crop()
        READERS[node.domain, node.op_type](chain, node, *(_constant(node, n, constants) for n in node.input))
        chain.advance(node.output[0])


@torch.no_grad()
def to_net(model: ModelProto) -> Net:
    """A ``Net`` in evaluation mode that computes the logits of an ONNX model, for bounds and for checkpoints.

    Supported is what ``export`` writes, with distances as nodes, as inlined bodies, or in the broadcast form
    (``fuse_distance``): a chain of distances, Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, slices to the middle
    square of an image, sums with one constant a channel and products with one positive constant.  Distances and sums
    are the same to the bit, unless a constant is computed by a function such as Exp or Pow, which each runtime rounds
    in its own way.

    A sorted sum is read with a ρ and k that have its very coefficients.  Where the input is uint8, and first divided by
    255, the ``Net`` is of what comes out of that: pixels in [0, 1].

    Nothing in the model is trusted: what is computed for it takes time and memory in proportion to its size.

    Args:
        model: with one input (N, …), float32 or uint8 pixels, and one output or one that is named ``logits``.

    Raises:
        ValueError: something else is in the way from the input to the logits, a constant is not float32 and finite, or
            depends on the size of the batch, and the message names the node; a function of the domain ``linf`` computes
            something else than its name says (``check_bodies``); or the model is not whole (``load.check_model``).
    """
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD), None)
    if opset not in OPSETS:
        raise ValueError(f"the opset must be one of {OPSETS.start} to {OPSETS.stop - 1}, got {opset}")
    output = _logits(model)
    fused, constants = fuse(model, [output])
    name, (batch, *sizes), of_bytes = _input(fused)
    chain = _Chain(name, (batch or BATCHES[0], *sizes), not batch, of_bytes)
    for node in fused.graph.node:
        try:
            _read(chain, constants, node)
        except ValueError as error:
            what = f"node {said(node.name or node.output[0])} ({said(node.op_type)[1:-1]})"
            raise ValueError(f"{what}: {error}") from error
    chain.end_crop()
    if chain.name != output or chain.bytes:
        raise ValueError(f"the output {said(output)} does not depend on the input")
    return _build(chain, sizes)


def _build(chain: _Chain, shape: list[int]) -> Net:
    spec = {"input_shape": shape, "layers": [[name, arguments] for name, arguments, _ in chain.layers]}
    check_size(spec)
    with torch.random.fork_rng(devices=[]):
        net = Net(spec)
    net.load_state_dict(
        constants(net)
        | {
            f"{i}.{name}": torch.from_numpy(np.array(a))
            for i, (*_, tensors) in enumerate(chain.layers)
            for name, a in tensors.items()
        }
    )
    return net.eval()
