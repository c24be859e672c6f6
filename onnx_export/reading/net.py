"""Reads an ONNX graph as a ``Net`` that can be bounded: a chain of nodes, each of which is a layer."""

import math

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto

from linf_plugin.models.net import Net
from linf_plugin.models.spec import MOST_VALUES, check_size
from linf_plugin.state import constants

from ..files.structure import STANDARD_DOMAINS
from ..files.text import said, type_name
from ..functions.domain import LINF
from ..writing.settings import PIXELS
from .chain import Chain
from .fold import BATCHES, Constants, Varying
from .fuse import fuse
from .readers import EITHER, READERS, SIZE_INPUTS, check_call
from .residual import Branch, branches_of, read_residual

OPSETS = range(7, onnx.defs.onnx_opset_version() + 1)  # in all of these the operators mean the same


def logits_of(model: ModelProto) -> str:
    """The name of the output logits, or of the only output.  Raises ValueError if there are several others."""
    names = [o.name for o in model.graph.output]
    if "logits" in names:
        return "logits"
    if len(names) != 1:
        raise ValueError(f"the model must have one output, or one named logits; it has {', '.join(names)}")
    return names[0]


def input_of(model: ModelProto) -> tuple[str, list[int], bool]:
    """The name and the shape of the only input, and whether it is bytes.  The first size is 0 where it may be any."""
    initialized = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in initialized]
    if len(inputs) != 1:
        raise ValueError(f"the model must have one input, it has {len(inputs)}")
    name, tensor = inputs[0].name, inputs[0].type.tensor_type
    batch, *sizes = [d.dim_value for d in tensor.shape.dim] or [0]
    if not sizes or min(sizes) < 1 or batch < 0:
        raise ValueError(f"the input {said(name)} must have sizes that are known, except the first one")
    if math.prod(sizes) > MOST_VALUES:
        raise ValueError(
            f"the input {said(name)} has {math.prod(sizes):,} numbers a sample, at most {MOST_VALUES:,} are read"
        )
    if tensor.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise ValueError(f"the input {said(name)} must be float32, or uint8 pixels, got {type_name(tensor.elem_type)}")
    return name, [batch, *sizes], tensor.elem_type == onnx.TensorProto.UINT8


def _constant(node: NodeProto, name: str, constants: Constants) -> np.ndarray | Varying | None:
    """The constant of this name as a layer takes it: float32 and finite, or whole numbers where it is sizes.

    Returns:
        None, if the name is not that of a constant.

    Raises:
        ValueError: the constant is not of that kind.
    """
    value = constants.get(name) if name else None
    if value is None:
        return None
    array = value.each[0] if isinstance(value, Varying) else value
    if node.op_type in SIZE_INPUTS and not node.domain:
        if array.dtype not in (np.int64, np.int32) or array.ndim != 1:
            shape = array.shape
            raise ValueError(f"the sizes {said(name)} must be a list of int64, got {array.dtype} of shape {shape}")
        if node.op_type == "Reshape":
            return value
    if isinstance(value, Varying):
        raise ValueError(f"the constant {said(name)} depends on the size of the batch")
    if node.op_type in SIZE_INPUTS and not node.domain:
        return array
    if array.dtype != np.float32:
        raise ValueError(f"the constant {said(name)} must be float32, got {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"the constant {said(name)} contains NaN or infinite values")
    if array.size == 0:
        raise ValueError(f"the constant {said(name)} is empty: it has shape {array.shape}")
    return array


def _read(chain: Chain, constants: Constants, node: NodeProto) -> None:
    """Reads one node: a layer, a shape, or an operator on shapes and constants."""
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
            check_call(node)
        if node.op_type not in ("Slice", "Identity"):
            chain.end_crop()
        READERS[node.domain, node.op_type](chain, node, *(_constant(node, n, constants) for n in node.input))
        chain.advance(node.output[0])


def _read_residual(chain: Chain, constants: Constants, node: NodeProto, branch: Branch) -> None:
    """Reads the difference of the value and a branch."""
    if node.input[0] != chain.name:
        raise ValueError("only a chain of layers is supported, in which each value is used once")
    if chain.bytes:
        raise ValueError(f"pixels in bytes must be divided by {PIXELS['byte'][1]} first")
    chain.end_crop()
    read_residual(chain, branch, lambda inner, name: _constant(inner, name, constants))
    chain.advance(node.output[0])


@torch.no_grad()
def to_net(model: ModelProto) -> Net:
    """A ``Net`` that computes the logits of an ONNX model, for bounds and for checkpoints.

    It reads what ``export`` writes: a chain of distances, Gemm, MatMul, Conv, Relu, Tanh, Neg, flattening, slices that
    give the middle square of an image, sums with one constant for each channel, products with one positive constant,
    and residual layers x − Wᵀ·relu(W·x + b).  Distances may be nodes, inlined bodies, or in the broadcast form
    (``fuse_distance``).

    Distances and sums are the same to the bit, unless a constant is computed by a function such as Exp or Pow, which
    runtimes round in different ways.  A sorted sum is read with a ρ and a k that give its coefficients.  If the input
    is uint8 and is divided by 255 first, the ``Net`` takes the result: pixels in [0, 1].

    Nothing in the model is trusted.  The time and the memory that it takes are in proportion to its size.

    Args:
        model: with one input (N, …), float32 or uint8 pixels, and with one output or an output ``logits``.

    Returns:
        The net, in evaluation mode.

    Raises:
        ValueError: there is another operator between the input and the logits; a constant is not float32 and finite,
            or depends on the size of the batch (the message names the node); a function of the domain ``linf`` is not
            that of this package (``check_bodies``); or the model is not whole (``load.check_model``).
    """
    opset = next((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), None)
    if opset not in OPSETS:
        raise ValueError(f"the opset must be one of {OPSETS.start} to {OPSETS.stop - 1}, got {opset}")
    output = logits_of(model)
    fused, constants = fuse(model, [output])
    name, (batch, *sizes), of_bytes = input_of(fused)
    chain = Chain(name, (batch or BATCHES[0], *sizes), not batch, of_bytes)
    branches = branches_of(fused.graph)
    within = {inner.output[0] for branch in branches.values() for inner in branch}
    for node in fused.graph.node:
        if node.output[0] in within:
            continue
        try:
            if (branch := branches.get(node.output[0])) is None:
                _read(chain, constants, node)
            else:
                _read_residual(chain, constants, node, branch)
        except ValueError as error:
            what = f"node {said(node.name or node.output[0])} ({said(node.op_type)[1:-1]})"
            raise ValueError(f"{what}: {error}") from error
    chain.end_crop()
    if chain.name != output or chain.bytes:
        raise ValueError(f"the output {said(output)} does not depend on the input")
    return _build(chain, sizes)


def _build(chain: Chain, shape: list[int]) -> Net:
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
