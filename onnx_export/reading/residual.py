"""Reads x − Wᵀ·relu(W·x + b) in a graph as one layer."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto

from .chain import Chain
from .nodes import producers_of
from .readers import READERS

READ_PRODUCTS = ("Gemm", "MatMul", "Conv")


class Branch(NamedTuple):
    """The nodes of a branch, in order: W·x + b, relu, Wᵀ·h."""

    first: NodeProto
    relu: NodeProto
    second: NodeProto


def branches_of(graph: GraphProto) -> dict[str, Branch]:
    """The branches that are subtracted from their own input: name of the difference → its branch.

    The values within a branch are used once.  Nothing is known of the weights yet.
    """
    producers, found = producers_of(graph), {}
    uses = Counter([name for node in graph.node for name in node.input] + [o.name for o in graph.output])

    def only(name: str, *operators: str) -> NodeProto | None:
        node = producers.get(name)
        right = node is not None and not node.domain and node.op_type in operators and node.input and uses[name] == 1
        return node if right else None

    for node in graph.node:
        if node.domain or node.op_type != "Sub" or len(node.input) != 2:
            continue
        second = only(node.input[1], *READ_PRODUCTS)
        relu = second and only(second.input[0], "Relu")
        first = relu and only(relu.input[0], *READ_PRODUCTS)
        if first and first.input[0] == node.input[0]:
            found[node.output[0]] = Branch(first, relu, second)
    return found


def read_residual(chain: Chain, branch: Branch, constant: Callable[[NodeProto, str], np.ndarray | None]) -> None:
    """Adds the layer to the chain, whose value is the input of the branch.

    Args:
        chain: the layers so far.
        branch: of ``branches_of``.
        constant: (node, name) → the constant of this name, or None if it is the value of the chain.

    Raises:
        ValueError: the second product is not Wᵀ·h with the W of the first one, or the convolution changes the size of
            images, or a node is not read.
    """
    inside = Chain(chain.name, chain.shape, chain.any_batch, False)
    for node in branch:
        READERS["", node.op_type](inside, node, *(constant(node, name) for name in node.input))
        inside.advance(node.output[0])
    (name, sizes, tensors), _, (_, back, adjoint) = inside.layers
    w = tensors["weight"]
    turned = w.T if name == "linear" else w.swapaxes(0, 1)[:, :, ::-1, ::-1]
    if "bias" in adjoint or not np.array_equal(adjoint["weight"], turned):
        raise ValueError("a value minus another one is only read as x − Wᵀ·relu(W·x + b), with one W")
    if name == "linear":
        chain.add("potential", tensors, features=w.shape[1], inner=len(w), bias=sizes["bias"])
        return
    wanted = {"stride": [1, 1], "dilation": [1, 1], "groups": 1, "padding": [k // 2 for k in w.shape[2:]]}
    if any(conv[key] != value for conv in (sizes, back) for key, value in wanted.items()) or not all(
        k % 2 for k in w.shape[2:]
    ):
        raise ValueError("in x − Wᵀ·relu(W·x + b) convolutions must have odd kernels and keep the size of images")
    arguments = {"channels": w.shape[1], "inner": len(w), "kernel_size": list(w.shape[2:]), "bias": sizes["bias"]}
    chain.add("potential_conv", tensors, **arguments)
