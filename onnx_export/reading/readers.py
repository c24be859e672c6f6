"""Readers of nodes: each reads one node of an ONNX graph as a layer of the chain."""

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import NodeProto

from linf_plugin.kernels.geometry import Geometry

from ..functions.domain import LINF
from ..functions.library import ATTRIBUTE_TYPES, POINT_DISTANCES
from ..functions.sorted_sums import rho_and_k
from ..writing.settings import PIXELS
from .chain import Chain
from .fold import Varying
from .nodes import attribute


def _shift(chain: Chain, mean: np.ndarray) -> None:
    """x − mean."""
    if chain.layers and len(mean) == chain.shape[1]:
        chain.add("mean_shift", {"running_mean": mean}, num_features=len(mean))
    else:
        chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1.0)


def _sub(chain: Chain, node: NodeProto, x, c) -> None:
    if x is not None:
        raise ValueError("a constant minus a value is not supported")
    _shift(chain, chain.per_channel(c))


def _add(chain: Chain, node: NodeProto, x, c) -> None:
    c = chain.per_channel(c if x is None else x)
    tensors = chain.last("dist", "dist_conv", "sort_dist", "linear", "conv")
    if tensors is not None and "bias" not in tensors and len(c) == chain.shape[1]:
        tensors["bias"] = c
        chain.layers[-1][1]["bias"] = True
    else:
        _shift(chain, -c)


def _mul(chain: Chain, node: NodeProto, x, c) -> None:
    c = c if x is None else x
    if c.size != 1 or c.ndim > len(chain.shape) or not 0 < c.item() < math.inf:
        raise ValueError("a factor must be one positive number")
    mean = np.zeros(1, c.dtype)
    if (shift := chain.last("mean_shift", "normalize")) is not None and chain.layers[-1][1].get("std", 1.0) == 1:
        (mean,) = shift.values()
        chain.layers.pop()
    chain.add("normalize", {"mean": mean}, mean=mean.tolist(), std=1 / c.item())


def _flatten(chain: Chain, node: NodeProto, x, shape=None) -> None:
    size = math.prod(chain.shape[1:])
    if node.op_type == "Flatten":
        right = attribute(node, "axis", 1) == 1
    else:
        batch = np.zeros(len(chain.shape), bool)
        if isinstance(shape, Varying):
            shape, batch = shape.each[0], shape.where
        wanted = [int(s) for s in shape] if shape is not None else []
        n = [chain.shape[0]] if not chain.any_batch or batch[:1].any() else []  # a constant is not the batch
        if wanted[:1] == [0] and not attribute(node, "allowzero", 0):
            n = [0]
        right = not batch[1:].any() and wanted in [[n, size] for n in n] + [[n, -1] for n in n] + [[-1, size]]
    if not right:
        raise ValueError(f"a change of shape from {chain.shape} other than flattening is not supported")
    chain.add("flatten")
    chain.shape = (chain.shape[0], size)


def _slice(chain: Chain, node: NodeProto, x, starts=None, ends=None, axes=None, steps=None) -> None:
    """Slices along some axes of an image.  ``Chain.end_crop`` checks that they give its middle."""
    if len(chain.shape) != 4 or starts is None or ends is None:
        raise ValueError("only slices of images with constant ends are supported")
    axes = range(len(starts)) if axes is None else [axis + 4 if axis < 0 else axis for axis in axes.tolist()]
    steps = [1] * len(starts) if steps is None else steps
    if {len(ends), len(axes), len(steps)} != {len(starts)}:
        raise ValueError("starts, ends, axes and steps must have the same length")
    if len(set(axes)) != len(axes) or not set(axes) <= set(range(4)):
        raise ValueError(f"axes must be different numbers from 0 to 3, got {list(axes)[:8]}")
    for axis, start, end, step in zip(axes, starts, ends, steps):
        if axis == 0 and chain.any_batch and (start, step) == (0, 1) and end >= 2**31 - 1:
            continue
        if axis == 0 and chain.any_batch:
            raise ValueError(
                f"a slice along axis 0 from {start} to {end} in steps of {step} does not keep all of a batch"
            )
        size = chain.shape[axis]
        start, end, step = slice(int(start), int(end), int(step)).indices(size)
        if (start, end) == (0, size) and step == 1:
            continue
        if axis < 2 or step != 1 or end <= start:
            raise ValueError(f"a slice along axis {axis} from {start} to {end} in steps of {step} is not supported")
        chain.slice(axis, start, end)


def _rows(shape: tuple[int, ...], w: np.ndarray) -> tuple[int, ...]:
    """The shape (N, out) that values (N, in) and a weight (out, in) give.  Raises ValueError where they do not fit."""
    if len(shape) != 2 or shape[1:] != w.shape[1:]:
        raise ValueError(f"a weight of shape {w.shape} does not fit a value of shape {shape}")
    return shape[0], len(w)


def _linear(chain: Chain, node: NodeProto, x, w, bias=None) -> None:
    a = {k: attribute(node, k, d) for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0), ("transB", 0))}
    if (a["alpha"], a["beta"], a["transA"]) != (1, 1, 0) or x is not None or w is None or w.ndim != 2:
        raise ValueError("only x·W + b and x·Wᵀ + b with constant W and b are supported")
    w = w if a["transB"] else np.ascontiguousarray(w.T)
    chain.shape = _rows(chain.shape, w)
    tensors = {"weight": w}
    if bias is not None:
        tensors["bias"] = np.broadcast_to(chain.per_channel(bias), len(w))
    chain.add("linear", tensors, in_features=w.shape[1], out_features=len(w), bias=bias is not None)


def _window(chain: Chain, node: NodeProto, w: np.ndarray | None) -> dict:
    """The arguments of a convolution with these kernels.  The chain then has the shape of its output."""
    pads = list(attribute(node, "pads", [0] * 4))
    same = len(pads) == 4 and pads[:2] == pads[2:] and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    if w is None or w.ndim != 4 or not same:
        raise ValueError(
            "only two-dimensional convolutions with constant kernels and equal padding on both sides are read"
        )
    channels = chain.shape[1]
    if len(chain.shape) != 4 or w.shape[1] < 1 or channels % w.shape[1]:
        raise ValueError(f"kernels of shape {w.shape} do not fit a value of shape {chain.shape}")
    groups = channels // w.shape[1]
    if not node.domain and attribute(node, "group", 1) != groups:
        raise ValueError(f"kernels of shape {w.shape} do not fit a value of shape {chain.shape} in its groups")
    if list(attribute(node, "kernel_shape", w.shape[2:])) != list(w.shape[2:]):
        raise ValueError(f"the kernels have shape {w.shape}, and the node says another one")
    conv = {
        "stride": list(attribute(node, "strides", [1, 1])),
        "padding": pads[:2],
        "dilation": list(attribute(node, "dilations", [1, 1])),
        "groups": groups,
    }
    for name, least in (("stride", 1), ("padding", 0), ("dilation", 1)):
        if len(conv[name]) != 2 or min(conv[name]) < least:
            raise ValueError(f"{name} must be two numbers of at least {least}, got {conv[name][:4]}")
    chain.shape = Geometry(**conv).output_shape(chain.shape, w.shape)
    return {"in_channels": channels, "out_channels": len(w), "kernel_size": list(w.shape[2:])} | conv


def _conv(chain: Chain, node: NodeProto, x, w, bias=None) -> None:
    window, tensors = _window(chain, node, w), {"weight": w}
    if bias is not None:
        if bias.shape != (len(w),):
            raise ValueError(f"a bias of shape {bias.shape} does not fit kernels of shape {w.shape}")
        tensors["bias"] = bias
    chain.add("conv", tensors, **window, bias=bias is not None)


def check_call(node: NodeProto) -> None:
    """Checks that a node of the domain ``linf`` has the inputs, outputs and attributes of its function."""
    body = POINT_DISTANCES[node.op_type].to_function_proto()
    right = len(node.input) == len(body.input) and all(node.input) and len(node.output) == len(body.output)
    if {a.name for a in node.attribute} != set(body.attribute) or not right:
        names = ", ".join(body.attribute) or "none"
        raise ValueError(f"it must have {len(body.input)} inputs, {len(body.output)} output and the attributes {names}")
    for a in node.attribute:
        if a.type != ATTRIBUTE_TYPES[a.name]:
            raise ValueError(f"its attribute {a.name} is of another type")


def _dist(chain: Chain, node: NodeProto, x, w) -> None:
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


def _cast(chain: Chain, node: NodeProto, x) -> None:
    if not chain.bytes or attribute(node, "to") != onnx.TensorProto.FLOAT:
        raise ValueError("only a Cast of pixels in bytes to float32 is supported")


def _div(chain: Chain, node: NodeProto, x, c) -> None:
    if not chain.bytes or x is not None or c.size != 1 or c.ndim > len(chain.shape) or c.item() != PIXELS["byte"][1]:
        raise ValueError("only the division of pixels in bytes by their range is supported")
    chain.bytes = False  # the pixels are now those that a ``Net`` takes


def _plain(layer: str) -> Callable:
    return lambda chain, node, x: chain.add(layer)


# (domain, operator) → function that reads a node.  It gets the inputs of the node: constants, and None for the chain.
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
EITHER = {"Add", "Mul", "Sub", "Gemm", "MatMul"}  # the chain may be any input of these, or their reader refuses it
SIZE_INPUTS = {"Reshape", "Slice"}  # the other inputs of these are whole numbers, not weights
