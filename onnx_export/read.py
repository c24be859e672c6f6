"""An ONNX graph back to a ``Net`` that can be bounded: a chain of nodes, each read as a layer."""

import math
from collections.abc import Callable

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto

from linf_plugin.kernels import windows
from linf_plugin.models import Net

from .functions import LINF
from .fuse import DISTANCES, attribute, evaluate, fuse, live_nodes

ANY_BATCH = 7919  # stands for a batch of any size: a prime that no other size in a model is likely to be


class _Chain:
    """The layers read so far, and the one value that runs through them: its ``name`` and its ``shape``."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        self.name, self.shapes = name, {name: shape}
        self.shape = shape
        self.layers: list[tuple[str, dict, dict]] = []  # name and arguments for a spec, tensors
        self.image: tuple[int, ...] | None = None  # what slices, one an axis, are taken of
        self.corner: list[int] = []

    def add(self, layer: str, tensors: dict | None = None, **arguments) -> None:
        self.end_crop()
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
        self.name, self.shapes[name] = name, self.shape

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
    tensors = chain.last("dist", "dist_conv", "linear", "conv")
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
        n = chain.shape[0]
        wanted = [int(s) for s in shape] if shape is not None else []
        if not attribute(node, "allowzero", 0):
            wanted = [s or chain.shape[i] for i, s in enumerate(wanted)]
        right = wanted in ([n, size], [n, -1], [-1, size])
    if not right:
        raise ValueError(f"a change of shape from {chain.shape} other than flattening is not supported")
    chain.add("flatten")
    chain.shape = (chain.shape[0], size)


def _slice(chain: _Chain, node: NodeProto, x, starts=None, ends=None, axes=None, steps=None) -> None:
    """Whatever is left of an axis, from the first to before the last; ``_Chain.end_crop`` says what of."""
    if len(chain.shape) != 4 or starts is None or ends is None:
        raise ValueError("only slices of images with constant ends are supported")
    axes = range(len(starts)) if axes is None else [axis + 4 if axis < 0 else axis for axis in axes.tolist()]
    if len(set(axes)) != len(axes) or not set(axes) <= set(range(4)):
        raise ValueError(f"axes must be different ones of 0 to 3, got {list(axes)}")
    for axis, start, end, step in zip(axes, starts, ends, [1] * len(starts) if steps is None else steps, strict=True):
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
    if w is None or w.ndim != 4 or pads[:2] != pads[2:] or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError(
            "only two-dimensional convolutions with constant kernels and the same padding on both sides"
        )
    channels = chain.shape[1]
    conv = {
        "stride": list(attribute(node, "strides", [1, 1])), "padding": pads[:2],
        "dilation": list(attribute(node, "dilations", [1, 1])), "groups": channels // w.shape[1],
    }
    chain.shape = windows.output_shape(chain.shape, w.shape, tuple(conv.values()))
    return {"in_channels": channels, "out_channels": len(w), "kernel_size": list(w.shape[2:])} | conv


def _conv(chain: _Chain, node: NodeProto, x, w, bias=None) -> None:
    tensors = {"weight": w} if bias is None else {"weight": w, "bias": bias}
    chain.add("conv", tensors, **_window(chain, node, w), bias=bias is not None)


def _dist(chain: _Chain, node: NodeProto, x, w) -> None:
    p = attribute(node, "p", math.inf)
    if node.op_type.endswith("Conv"):
        chain.add("dist_conv", {"weight": w}, **_window(chain, node, w), bias=False, p=p)
    else:
        chain.shape = _rows(chain.shape, w)
        chain.add("dist", {"weight": w}, in_features=w.shape[1], out_features=len(w), bias=False, p=p)


def _plain(layer: str) -> Callable:
    return lambda chain, node, x: chain.add(layer)


# (domain, operator) → reads a node; its inputs come as constants, None where the chain enters
READERS = {
    ("", "Sub"): _sub, ("", "Add"): _add, ("", "Mul"): _mul,
    ("", "Slice"): _slice, ("", "Reshape"): _flatten, ("", "Flatten"): _flatten,
    ("", "Gemm"): _linear, ("", "MatMul"): _linear, ("", "Conv"): _conv,
    ("", "Neg"): _plain("negate"), ("", "Relu"): _plain("relu"), ("", "Tanh"): _plain("tanh"),
    ("", "Identity"): lambda chain, node, x: None,
} | {(LINF.domain, name): _dist for name in DISTANCES}


def _logits(model: ModelProto) -> str:
    names = [o.name for o in model.graph.output]
    if "logits" in names:
        return "logits"
    if len(names) != 1:
        raise ValueError(f"the model must have one output, or one named logits; it has {', '.join(names)}")
    return names[0]


def _input(model: ModelProto) -> tuple[str, tuple[int, ...]]:
    """The name and the shape of the one input, ``ANY_BATCH`` for a batch of any size."""
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    if len(inputs) != 1:
        raise ValueError(f"the model must have one input, it has {len(inputs)}")
    tensor = inputs[0].type.tensor_type
    batch, *sizes = [d.dim_value for d in tensor.shape.dim] or [0]
    if not sizes or 0 in sizes:
        raise ValueError(f"the input {inputs[0].name} must have sizes that are known, but for the first")
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        raise ValueError(f"the input {inputs[0].name} must be float32")
    return inputs[0].name, (batch or ANY_BATCH, *sizes)


def _read(chain: _Chain, known: dict, node: NodeProto, opsets) -> None:
    """Takes one node in: a layer, the shape of a value, or what is computed from shapes and constants."""
    moving = [n for n in node.input if n and n not in known]
    if not moving:
        if node.output[0] not in known:
            known.update(zip(node.output, evaluate(node, [known[n] for n in node.input if n], opsets)))
    elif node.op_type == "Shape" and not node.domain and moving[0] in chain.shapes:
        of = np.empty(chain.shapes[node.input[0]], np.bool_)
        known.update(zip(node.output, evaluate(node, [of], opsets)))
    elif (node.domain, node.op_type) not in READERS:
        raise ValueError("this operator is not supported")
    elif moving != [chain.name]:
        raise ValueError("only a chain of layers is supported, in which each value is used once")
    else:
        READERS[node.domain, node.op_type](chain, node, *(known.get(n) for n in node.input))
        chain.advance(node.output[0])


@torch.no_grad()
def to_net(model: ModelProto) -> Net:
    """A ``Net`` in evaluation mode that computes the logits of an ONNX model, for bounds and for checkpoints.

    Supported is what ``export`` writes, with distances as nodes, as inlined bodies, or in the broadcast form
    (``fuse_distance``): a chain of distances, Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, slices to the middle
    square of an image, sums with one constant a channel and products with one positive constant.  Distances and sums
    are the same to the bit.

    Args:
        model: with one float32 input (N, …), and one output or one that is named ``logits``.

    Raises:
        ValueError: something else is in the way from the input to the logits, and the message names the node; or a
            function of the domain ``linf`` computes something else than its name says (``check_bodies``).
    """
    fused, known = fuse(model)
    output, (name, shape) = _logits(fused), _input(fused)
    chain = _Chain(name, shape)
    for node in live_nodes(fused.graph, [output]):
        try:
            _read(chain, known, node, fused.opset_import)
        except ValueError as error:
            raise ValueError(f"node {node.name or node.output[0]!r} ({node.op_type}): {error}") from error
    chain.end_crop()
    if chain.name != output:
        raise ValueError(f"the output {output} does not depend on the input")
    return _build(chain, shape)


def _build(chain: _Chain, shape: tuple[int, ...]) -> Net:
    net = Net({
        "input_shape": list(shape[1:]), "layers": [[name, arguments] for name, arguments, _ in chain.layers],
    })
    net.load_state_dict({
        f"{i}.{name}": torch.from_numpy(np.array(a))
        for i, (*_, tensors) in enumerate(chain.layers) for name, a in tensors.items()
    })
    return net.eval()
