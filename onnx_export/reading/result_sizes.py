"""How many numbers the result of an operator has at most.  This is known before it is computed."""

import math
from collections.abc import Callable

import numpy as np
from onnx import AttributeProto, NodeProto

from ..files.tensors import elements_of
from .nodes import attribute

# Each takes a node and its inputs.  If an input does not fit the operator, it raises what NumPy raises.


def _as_many(node: NodeProto, *inputs: np.ndarray) -> int:
    return sum(a.size for a in inputs) + 1


def _broadcast(node: NodeProto, *inputs: np.ndarray) -> int:
    return math.prod(np.broadcast_shapes(*(a.shape for a in inputs)))


def _shape(node: NodeProto, *inputs: np.ndarray) -> int:
    return 64


def _constant(node: NodeProto) -> int:
    (a,) = node.attribute
    return elements_of(a.t) if a.type == AttributeProto.TENSOR else len(a.floats) + len(a.ints) + len(a.strings) + 1


def _gather(node: NodeProto, data: np.ndarray, indices: np.ndarray) -> int:
    axis = attribute(node, "axis", 0)
    return indices.size * math.prod(size for i, size in enumerate(data.shape) if i != axis % data.ndim)


def _expand(node: NodeProto, a: np.ndarray, shape: np.ndarray) -> int:
    shape = [max(1, s) for s in _whole(shape)]
    return math.prod(max(sizes) for sizes in zip(*_padded(list(a.shape), shape)))


def _padded(a: list[int], b: list[int]) -> tuple[list[int], list[int]]:
    most = max(len(a), len(b))
    return [1] * (most - len(a)) + a, [1] * (most - len(b)) + b


def _whole(a: np.ndarray) -> list[int]:
    return [int(n) for n in a.reshape(-1).tolist()]  # Python's numbers do not overflow


def _tile(node: NodeProto, a: np.ndarray, repeats: np.ndarray) -> int:
    return a.size * math.prod(_whole(repeats))


def _filled(node: NodeProto, shape: np.ndarray) -> int:
    return math.prod(_whole(shape))


def _range(node: NodeProto, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> int:
    return math.ceil((limit.item() - start.item()) / delta.item()) + 1


def _pad(node: NodeProto, a: np.ndarray, pads: np.ndarray | None = None, *rest: np.ndarray) -> int:
    pads = _whole(pads) if pads is not None else attribute(node, "pads", [])
    return math.prod(size + sum(max(0, p) for p in pads) for size in a.shape)


def _matmul(node: NodeProto, a: np.ndarray, b: np.ndarray) -> int:
    if a.ndim != 2 or b.ndim != 2:
        raise ValueError("only products of two matrices are computed")
    return a.shape[0] * b.shape[1]


# The operators that are computed: those that exporters apply to weights and to shapes.
RESULT_SIZES: dict[str, Callable[..., int]] = {
    "Constant": _constant,
    "Shape": _shape,
    "Size": _shape,
    "Gather": _gather,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _filled,
    "Range": _range,
    "Pad": _pad,
    "MatMul": _matmul,
    "Abs": _as_many,
    "Cast": _as_many,
    "CastLike": _as_many,
    "Ceil": _as_many,
    "Concat": _as_many,
    "Exp": _as_many,
    "Flatten": _as_many,
    "Floor": _as_many,
    "Identity": _as_many,
    "Log": _as_many,
    "Neg": _as_many,
    "Not": _as_many,
    "Reciprocal": _as_many,
    "ReduceMax": _as_many,
    "ReduceMean": _as_many,
    "ReduceMin": _as_many,
    "ReduceProd": _as_many,
    "ReduceSum": _as_many,
    "Reshape": _as_many,
    "Slice": _as_many,
    "Split": _as_many,
    "Sqrt": _as_many,
    "Squeeze": _as_many,
    "Transpose": _as_many,
    "Unsqueeze": _as_many,
    "Add": _broadcast,
    "And": _broadcast,
    "Clip": _broadcast,
    "Div": _broadcast,
    "Equal": _broadcast,
    "Greater": _broadcast,
    "GreaterOrEqual": _broadcast,
    "Less": _broadcast,
    "LessOrEqual": _broadcast,
    "Max": _broadcast,
    "Min": _broadcast,
    "Mod": _broadcast,
    "Mul": _broadcast,
    "Or": _broadcast,
    "Pow": _broadcast,
    "Sub": _broadcast,
    "Sum": _broadcast,
    "Where": _broadcast,
}
