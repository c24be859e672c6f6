"""Tests whether an onnxruntime session multiplies float32 numbers as the certificates in its file assume.

Each product of a file is put into a small model of its own, which runs with the same options and providers as the file.
linf_plugin/float32/products.py says which numbers it gets, and why the results are known exactly.
"""

import functools
import math
import os
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from linf_plugin.float32.products import (
    IMAGES,
    ROWS,
    PaddedWindows,
    batches,
    convolution_error,
    first_wrong,
    linear_error,
    transposed_error,
)
from linf_plugin.process import check_environment

from ..files.seal import CLAIMED_OUTPUTS
from ..functions.domain import OPSET

CUDA = "CUDAExecutionProvider"


class LessThanFloat32(RuntimeError):
    """A product is computed with less than float32, or it cannot be tested that it is not."""


class _Trial:
    """A model of one node: x → node → y.  The second operand is a constant of the model, or an input w."""

    def __init__(self, node: onnx.NodeProto, ranks: tuple[int, int], constant: bool, open_session: Callable):
        self.node, self.ranks, self.constant, self.open_session = node, ranks, constant, open_session
        self.session: onnxruntime.InferenceSession | None = None

    def model(self, w: np.ndarray, outputs: int) -> onnx.ModelProto:
        value = functools.partial(helper.make_tensor_value_info, elem_type=TensorProto.FLOAT)
        node = onnx.NodeProto()
        node.CopyFrom(self.node)
        names = ["x", "w", "bias"][: len(self.node.input)]
        del node.input[:], node.output[:]
        node.input.extend(names)
        node.output.append("y")
        inputs, constants = [value("x", shape=[None] * self.ranks[0])], []
        if self.constant:
            constants.append(numpy_helper.from_array(w, "w"))
        else:
            inputs.append(value("w", shape=[None] * self.ranks[1]))
        if "bias" in names:
            constants.append(numpy_helper.from_array(np.zeros(outputs, np.float32), "bias"))
        graph = helper.make_graph([node], "trial", inputs, [value("y", shape=None)], constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def __call__(self, x: Tensor, w: Tensor, outputs: int) -> Tensor:
        w = w.contiguous().numpy()
        if self.session is None:  # w is the same in every batch
            self.session = self.open_session(self.model(w, outputs).SerializeToString())
        feeds = {"x": x.contiguous().numpy()} | ({} if self.constant else {"w": w})
        return torch.from_numpy(self.session.run(None, feeds)[0])


def _attributes(node: onnx.NodeProto) -> dict:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


# Each gives the errors of the products of an operator, by a name of the inputs, for ``first_wrong``.  x and w are the
# shapes of its operands.


def _gemm(node: onnx.NodeProto, trial: _Trial, x: Sequence[int | None], w: Sequence[int]) -> dict[str, Callable]:
    given = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0} | _attributes(node)
    if given["transA"] or given["alpha"] != 1 or len(w) != 2:
        raise LessThanFloat32(
            f"{node.op_type} {node.name!r} has transA or alpha, and no certificate is written with such a node"
        )
    out, features = w if given["transB"] else reversed(w)
    like = torch.empty(out, features)
    return {
        f"{n} inputs of shape ({features},)": functools.partial(
            linear_error, lambda x, w: trial(x, w if given["transB"] else w.t(), out), (n,), like
        )
        for n in batches(out * features, ROWS)
    }


def _matmul(
    node: onnx.NodeProto, trial: _Trial, x: Sequence[int | None], w: Sequence[int | None]
) -> dict[str, Callable]:
    if len(w) not in (2, 3):
        raise LessThanFloat32(
            f"MatMul {node.name!r} has {len(w)} dimensions, and no certificate is written with such a node"
        )
    rows, (features, out) = tuple(x[1:-1]), w[-2:]

    def multiply(x: Tensor, w: Tensor) -> Tensor:
        return trial(x, w.t() if trial.ranks[1] == 2 else w.t().expand(len(x), features, out), out)

    return {
        f"{n} inputs of shape {(*rows, features)}": functools.partial(
            linear_error, multiply, (n, *rows), torch.empty(out, features)
        )
        for n in batches(math.prod(rows) * out * features, ROWS)
    }


def _windows(node: onnx.NodeProto, w: Sequence[int]) -> tuple[PaddedWindows, dict]:
    """Where the windows of a convolution lie, with one row of pixels if it has one dimension; and its attributes."""
    dims = len(w) - 2
    given = {"auto_pad": b"NOTSET", "group": 1, "strides": [1] * dims, "dilations": [1] * dims, "pads": [0] * 2 * dims}
    given |= _attributes(node)
    if given["auto_pad"] != b"NOTSET" or dims not in (1, 2):
        raise LessThanFloat32(
            f"{node.op_type} {node.name!r} has auto_pad or {dims} dimensions, and no certificate is written with such "
            "a node"
        )
    begins, ends = ([0] * (2 - dims) + given["pads"][i : i + dims] for i in (0, dims))
    stride, dilation = ([1] * (2 - dims) + given[name] for name in ("strides", "dilations"))
    pads = begins[1], ends[1], begins[0], ends[0]
    return PaddedWindows(stride, dilation, given["group"], pads), given


def _as_image(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of an image, with one row of pixels if there is one dimension."""
    return tuple(shape) if len(shape) == 3 else (shape[0], 1, *shape[1:])


def _convolved(trial: _Trial, dims: int, outputs: int) -> Callable[[Tensor, Tensor], Tensor]:
    def convolve(x: Tensor, w: Tensor) -> Tensor:
        return trial(x, w, outputs) if dims == 2 else trial(x.squeeze(2), w.squeeze(2), outputs).unsqueeze(2)

    return convolve


def _conv(node: onnx.NodeProto, trial: _Trial, x: Sequence[int | None], w: Sequence[int]) -> dict[str, Callable]:
    geometry, _ = _windows(node, w)
    like, shape = torch.empty(w[0], *_as_image(w[1:])), _as_image(x[1:])
    convolve = _convolved(trial, len(w) - 2, w[0])
    return {
        f"{n} inputs of shape {tuple(x[1:])}": functools.partial(
            convolution_error, convolve, geometry, (n, *shape), like
        )
        for n in batches(math.prod(shape[1:]) * like.numel(), IMAGES)
    }


def _conv_transpose(
    node: onnx.NodeProto, trial: _Trial, x: Sequence[int | None], w: Sequence[int]
) -> dict[str, Callable]:
    geometry, given = _windows(node, w)
    if "output_shape" in given or geometry.pads[0] != geometry.pads[1] or geometry.pads[2] != geometry.pads[3]:
        raise LessThanFloat32(
            f"ConvTranspose {node.name!r} has an output_shape or uneven pads, and no certificate is written with such "
            "a node"
        )
    like, shape = torch.empty(w[0], *_as_image(w[1:])), _as_image(x[1:])
    convolve = _convolved(trial, len(w) - 2, w[1] * geometry.groups)
    return {
        f"{n} inputs of shape {tuple(x[1:])}": functools.partial(
            transposed_error, convolve, geometry, (n, *shape), like
        )
        for n in batches(math.prod(shape[1:]) * like.numel(), IMAGES)
    }


PRODUCT_TRIALS = {"Gemm": _gemm, "MatMul": _matmul, "Conv": _conv, "ConvTranspose": _conv_transpose}


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int | None, ...]]:
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            shapes[value.name] = tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
    return shapes


def _constants(graph: onnx.GraphProto) -> set[str]:
    """The names of values that do not depend on an input.  A runtime computes them once."""
    names = {t.name for t in graph.initializer} | {""}
    for node in graph.node:
        if all(name in names for name in node.input):
            names.update(node.output)
    return names


_passed: set[tuple] = set()


def _products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes whose products the certificates of a model rest on; none if it has no certificates."""
    if set(CLAIMED_OUTPUTS).isdisjoint(o.name for o in model.graph.output):
        return []
    return [node for node in model.graph.node if node.op_type in PRODUCT_TRIALS and node.domain in ("", "ai.onnx")]


def unfit_for_cuda(model: onnx.ModelProto) -> str | None:
    """The reason why a GPU must not compute a model, or None."""
    if any(node.op_type in ("Conv", "ConvTranspose") for node in _products(model)):
        return (
            "it has certificates and convolutions, which cuDNN may compute by transforms that no bound of the rounding "
            "error covers"
        )
    return None


def check_arithmetic(
    path: str | os.PathLike,
    model: onnx.ModelProto,
    options: onnxruntime.SessionOptions,
    providers: Sequence[str | tuple[str, dict]],
) -> None:
    """Checks that sessions with these options and providers compute the products of a certified file in float32.

    Each product is tested once in a process.  Files without certificates pass.

    Args:
        path: of the file, for messages.
        model: its content; weights may lie beside the file.
        options, providers: those of the session that runs it.

    Raises:
        LessThanFloat32: a product is computed with less, or a convolution on a GPU may be.  The message names the node
            or the environment variable.
    """
    nodes = _products(model)
    if not nodes:
        return
    if any(CUDA in (p, p[0]) for p in providers):
        try:
            check_environment("cuda", "multiply")
        except RuntimeError as error:
            raise LessThanFloat32(str(error)) from error
        if (reason := unfit_for_cuda(model)) is not None:
            raise LessThanFloat32(f"{path} is not computed on a GPU, {reason}: open it with device='cpu'")
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError as error:
        raise LessThanFloat32(f"the shapes in {path} are not known: {error}") from error
    shapes, constants = _shapes(graph), _constants(graph)
    open_session = functools.partial(onnxruntime.InferenceSession, sess_options=options, providers=providers)
    for node in nodes:
        x, w = (shapes.get(name) for name in node.input[:2])
        constant = node.input[1] in constants
        if x is None or w is None or None in (*x[1:], *w[not constant :]):
            raise LessThanFloat32(f"the shapes of {node.op_type} {node.name!r} in {path} are not known: export it anew")
        attributes = tuple(sorted((k, str(v)) for k, v in _attributes(node).items()))
        key = node.op_type, attributes, x[1:], w[not constant :], constant, str(providers), options.intra_op_num_threads
        if key in _passed:
            continue
        trial = _Trial(node, (len(x), len(w)), constant, open_session)
        if wrong := first_wrong(PRODUCT_TRIALS[node.op_type](node, trial, x, w)):
            raise LessThanFloat32(
                f"{node.op_type} {node.name!r} in {path} is not computed in float32 by onnxruntime "
                f"{onnxruntime.__version__} here: {wrong}, which the certificates in the file do not cover"
            )
        _passed.add(key)
