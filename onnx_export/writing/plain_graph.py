"""Builds a chain of nodes that verifiers read.  Scale, sign and offset of a value wait for the next node."""

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

VERIFIER_OPSET, VERIFIER_IR_VERSION = 13, 7  # those that verifiers were written for


@dataclass(frozen=True)
class Value:
    """The output of a layer: Σ_p mix[p]·v[p] + offset, with one offset for each channel.

    v is a value of the graph, flattened and cut into len(mix) parts of the size of ``shape``.  So scales, signs, means
    and biases wait for a node that takes them in.
    """

    name: str
    shape: tuple[int, ...]  # (C, H, W) or (n,)
    mix: np.ndarray
    offset: np.ndarray

    @property
    def parts(self) -> tuple[int, ...]:
        """The channels of all parts, and the pixels."""
        return len(self.mix) * self.shape[0], *self.shape[1:]


class PlainGraph:
    """A chain of nodes.  Constants stay float64 until the model is made."""

    def __init__(self, flavour: str, shape: tuple[int, ...]):
        self.flavour = flavour
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {"x": shape}  # without the batch
        self.affine: dict[str, tuple[str, str]] = {}  # weight and bias of the node that gives a value

    def node(self, op: str, name: str, shape: tuple[int, ...], *constants: np.ndarray, **attributes) -> str:
        """Appends op(name, *constants), whose result has this shape; returns the name of the result."""
        y = f"{op.lower()}_{len(self.nodes)}"
        names = [f"{y}_{i}" for i in range(len(constants))]
        self.constants |= dict(zip(names, constants))
        self.nodes.append(helper.make_node(op, [name, *names], [y], y, **attributes))
        self.shapes[y] = shape
        if op in ("Conv", "Gemm") and len(names) == 2:
            self.affine[y] = tuple(names)
        return y

    def view(self, name: str, *shape: int) -> str:
        """The same numbers in another shape."""
        return name if self.shapes[name] == shape else self.node("Reshape", name, shape, np.array([-1, *shape]))

    def conv(
        self, name: str, weight: np.ndarray, bias: np.ndarray | None = None, strides=(1, 1), pads=(0, 0, 0, 0)
    ) -> str:
        """Appends a convolution of a value (C, H, W).  The order of pads is top, left, bottom, right.

        Groups and dilation are written as zeros in the weight: Marabou ignores or refuses these attributes of a Conv.
        """
        _, *size = self.shapes[name]
        kernel = weight.shape[2:]
        size = [(size[i] + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i in (0, 1)]
        return self.node(
            "Conv",
            name,
            (len(weight), *size),
            weight,
            *(() if bias is None else (bias,)),
            kernel_shape=kernel,
            strides=strides,
            pads=pads,
        )

    def model(self, classes: int) -> onnx.ModelProto:
        """The model whose output ``logits`` is that of the last node."""
        self.nodes[-1].output[0] = "logits"
        value = helper.make_tensor_value_info
        types = {"f": np.float32, "i": np.int64}
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", TensorProto.FLOAT, (1, *self.shapes["x"]))],
            [value("logits", TensorProto.FLOAT, (1, classes))],
            [numpy_helper.from_array(a.astype(types[a.dtype.kind]), name) for name, a in self.constants.items()],
        )
        opset = helper.make_opsetid("", VERIFIER_OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=VERIFIER_IR_VERSION, producer_name="linf-plugin"
        )


def numbers(a: Tensor) -> np.ndarray:
    """A tensor as a float64 array."""
    return a.detach().cpu().double().numpy()


def given(name: str, shape: tuple[int, ...]) -> Value:
    """A value of the graph that is the output of a layer without further scale or offset."""
    return Value(name, shape, np.ones(1), np.zeros(shape[0]))


def settled(graph: PlainGraph, value: Value, scale: float) -> Value:
    """The same output with the mix [scale] and without offset.

    The node that gives the value takes the rest in, if it is linear and has as many outputs.  Otherwise new nodes do.
    """
    mix, offset = value.mix / scale, value.offset / scale
    name, channels = value.name, value.shape[0]
    weight, bias = graph.affine.get(name, (None, None))
    if weight is not None and len(graph.constants[bias]) == channels and len(mix) == 1:
        graph.constants[weight] = graph.constants[weight] * mix[0]
        graph.constants[bias] = graph.constants[bias] * mix[0] + offset
    else:
        flat = 1, channels, math.prod(value.shape[1:])
        if mix.tolist() != [1]:
            name = graph.conv(graph.view(name, len(mix), *flat[1:]), mix.reshape(1, -1, 1, 1))
        if offset.any():
            if graph.shapes[name][0] != channels:
                name = graph.view(name, *flat)
            shape = graph.shapes[name]
            ones = [1] * (len(shape) - 1 - (shape == flat))
            name = graph.node("Add", name, shape, offset.reshape(-1, *ones))
    return replace(value, name=name, mix=np.array([scale]), offset=np.zeros(channels))
