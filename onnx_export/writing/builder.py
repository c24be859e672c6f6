"""Builds an ONNX graph: its nodes, its constants, and the shape of each value.

The names in the graph depend only on the net.  So ``verify`` can write a file anew from what it holds, and compare the
two.  Weights are initializers under their names in the net.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ..functions.domain import OPSET

IR_VERSION = 10
PRODUCER = "linf-plugin"


class Graph:
    """The nodes and the constants so far.

    Attributes:
        shapes: the shape of each float32 value, without the first size.
        rows_each: how many rows a sample has in a value; 1 where a value is not listed, since its first size is then
            the batch.
    """

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.rows_each: dict[str, int] = {}

    def constant(self, name: str, value) -> str:
        """Adds an initializer, unless one of this name is there; returns its name.  Python numbers become float32 or
        int64."""
        if isinstance(value, Tensor):
            value = value.detach().cpu().numpy()
        elif not isinstance(value, np.ndarray):
            value = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        self.constants.setdefault(name, value)
        return name

    def nodes_of(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes) -> list[str]:
        """Adds a node; returns the names of its outputs."""
        names = [f"h{len(self.nodes)}" + (f".{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, names[0], domain=domain, **attributes))
        if op != "Reshape":  # all others keep the first size
            each = next((self.rows_each[name] for name in inputs if name in self.rows_each), 1)
            self.rows_each |= dict.fromkeys(names, each) if each > 1 else {}
        return names

    def node(self, op: str, *inputs: str, shape: tuple[int, ...] | None = None, **attributes) -> str:
        """Adds a node with one output; returns its name.

        shape: of one sample, or of one row, where the output is float32.
        """
        (name,) = self.nodes_of(op, *inputs, **attributes)
        if shape is not None:
            self.shapes[name] = shape
        return name

    def same(self, op: str, x: str, *inputs: str, **attributes) -> str:
        """Adds a node whose output has the shape of x."""
        return self.node(op, x, *inputs, shape=self.shapes[x], **attributes)

    def shifted(self, op: str, x: str, name: str, offset: Tensor) -> str:
        """x + offset or x − offset, with one number for each channel."""
        channels = offset.reshape(-1, *[1] * (len(self.shapes[x]) - 1))
        return self.same(op, x, self.constant(name, channels))

    def called(self, old: str, new: str) -> str:
        """Gives the value of a node another name."""
        for node in self.nodes:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]
        self.shapes[new] = self.shapes.pop(old, None)
        return new

    def reshaped(self, x: str, sizes: list[int], shape: tuple[int, ...]) -> str:
        """x in other sizes; ``shape`` is that of one sample, or of one row."""
        target = self.constant("to " + ",".join(map(str, sizes)), sizes)
        return self.node("Reshape", x, target, shape=shape)

    def rows(self, *values: str) -> list[str]:
        """Values (N, …, in) as (rows, in)."""
        *more, last = self.shapes[values[0]]
        found = [self.reshaped(x, [-1, last], (last,)) if more else x for x in values]
        if math.prod(more) > 1:
            self.rows_each |= dict.fromkeys(found, math.prod(more))
        return found

    def unrows(self, x: str, like: str) -> str:
        """A value (rows, out), made from ``rows`` of the value ``like``, as (N, …, out)."""
        *more, _ = self.shapes[like]
        (out,) = self.shapes[x]
        return self.reshaped(x, [-1, *more, out], (*more, out)) if more else x


def model_of(g: Graph, inputs: list[tuple], outputs: list[tuple]) -> onnx.ModelProto:
    """The model with this graph.  Inputs and outputs are (name, type, shape of a sample)."""

    def value(name: str, kind: int, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        rows = g.rows_each.get(name)  # a name of its own: a runtime plans memory by the names of sizes
        return helper.make_tensor_value_info(name, kind, [f"{rows}*batch" if rows else "batch", *shape])

    ends = {name for name, *_ in (*inputs, *outputs)}
    known = [(name, TensorProto.FLOAT, s) for name, s in g.shapes.items() if name not in ends and s is not None]
    graph = helper.make_graph(
        g.nodes,
        "net",
        [value(*a) for a in inputs],
        [value(*a) for a in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in g.constants.items()],
        value_info=[value(*a) for a in known],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER)
