"""The graph of a traced net as a file holds it: with constants in float32, and scales folded into products.

The function of the file is close to that of the traced net, but it is not the same: a folded weight is rounded once.
The rounding bounds of the traced net cover this (``linf_plugin.graphs.fusion``), because onnxruntime folds too.  The
certificates in the file are about the function of the file.
"""

import copy

import torch
from torch import Tensor, nn

from linf_plugin.graphs.fusion import PRODUCTS, note_fusions
from linf_plugin.graphs.graph import Graph, Node
from linf_plugin.graphs.operations import Affine

Shape = tuple[int, ...]


@torch.no_grad()
def folded(graph: Graph, shapes: list[Shape]) -> Graph:
    """Returns the graph that a file holds.

    An operation factor·(x − centre) + offset becomes a part of the linear layer or the convolution before it, if nobody
    else takes the value of that, and if there is one factor, one centre and one offset for each of its outputs.

    Args:
        graph: from ``capture``; it is not changed.
        shapes: of each value for one sample, that of the input included.

    Returns:
        A new graph in float32, on the CPU, in evaluation mode.
    """
    users, nodes = graph.users(), []
    at, products = {0: 0}, {}  # old value → new value; old value → place of its product in nodes
    for i, (module, inputs, where) in enumerate(graph.nodes):
        value, before = i + 1, inputs[0]
        if isinstance(module, Affine) and len(users[before]) == 1 and before in products:
            place = products[before]
            if _fold(module, nodes[place].module, shapes[value]):
                at[value], products[value] = at[before], place
                continue
        module = _affine(module) if isinstance(module, Affine) else copy.deepcopy(module)
        if isinstance(module, Affine) and not any(steps(module)) and at[before]:  # such as a bias of zeros
            at[value] = at[before]
            if before in products and len(users[before]) == 1:
                products[value] = products[before]
            continue
        nodes.append(Node(module.double(), tuple(at[j] for j in inputs), where))
        at[value] = len(nodes)
        if isinstance(module, PRODUCTS):
            products[value] = len(nodes) - 1
    return noted(Graph(nodes).cpu().float().eval())


def noted(graph: Graph) -> Graph:
    """Notes how often a runtime rounds the terms of each operation of a file, and returns the graph."""
    for module in graph.parts:
        if isinstance(module, PRODUCTS):
            module.later = None
        elif hasattr(module, "fused"):
            module.fused = 0
    return note_fusions(graph)


def _fold(module: Affine, layer: nn.Module, shape: Shape) -> bool:
    """Makes an operation a part of a product.  Returns False, and changes nothing, if that cannot be done."""
    axis = len(shape) - 1 if isinstance(layer, nn.Linear) else 0
    parts = [_by_output(a, shape, axis) for a in (module.factor, module.centre, module.offset)]
    if any(a is None for a in parts):
        return False
    factor, centre, offset = parts
    bias = torch.zeros_like(factor) if layer.bias is None else layer.bias
    layer.bias = nn.Parameter((bias - centre) * factor + offset, requires_grad=False)
    layer.weight = nn.Parameter(_scaled(layer, factor), requires_grad=False)
    return True


def _by_output(a: Tensor, shape: Shape, axis: int) -> Tensor | None:
    """Returns a constant as one number for each output of a product, or None if it has other numbers."""
    full = a.reshape(*[1] * (len(shape) - a.dim()), *a.shape)
    if any(size != 1 for d, size in enumerate(full.shape) if d != axis):
        return None
    return full.flatten().expand(shape[axis])


def _scaled(layer: nn.Module, factor: Tensor) -> Tensor:
    weight = layer.weight
    if not getattr(layer, "transposed", False):
        return weight * factor.view(-1, *[1] * (weight.dim() - 1))
    by_group = weight.unflatten(0, (layer.groups, -1))  # (groups, inputs of a group, outputs of a group, …)
    return (by_group * factor.view(layer.groups, 1, -1, *[1] * (weight.dim() - 2))).flatten(0, 1)


def _affine(module: Affine) -> Affine:
    """Returns the same operation with the numbers that a file holds."""
    return affine(*(a.float().double() for a in (module.factor, module.centre, module.offset)))


def steps(module: Affine) -> tuple[bool, bool, bool]:
    """Returns whether a file subtracts the centre, multiplies by the factor, and adds the offset."""
    factor, centre, offset = module.factor, module.centre, module.offset
    return bool((centre != 0).any()), bool((factor != 1).any()), bool((offset != 0).any())


def affine(factor: Tensor, centre: Tensor, offset: Tensor) -> Affine:
    """Returns the operation that a file computes by at most three nodes.  Each of them rounds once; signs are exact."""
    module = Affine(factor, centre, offset, 0)
    shifts, scales, adds = steps(module)
    module.roundings = shifts + (scales and not bool((factor.abs() == 1).all())) + adds
    return module
