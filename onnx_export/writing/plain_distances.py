"""The largest distance, or a sorted sum, in nodes that verifiers read.

Verifiers know ReLU, and some of them know MaxPool.  Few know Abs, ReduceMax, Sub or TopK.  So the largest |x − w| is

- in the flavour "maxpool": x − w and w − x side by side, under one MaxPool;
- in the flavour "relu": relu(x − w) + relu(w − x), and a tournament of max(a, b) = b + relu(a − b).

Sorted sums are tournaments of sorted lists, in ReLUs in both flavours: a MaxPool does not give the second largest.
"""

from collections.abc import Callable

import numpy as np

from .comparators import compare, merge, stages
from .plain_graph import PlainGraph


def pooled(
    graph: PlainGraph, name: str, shape: tuple, select: np.ndarray, weight: np.ndarray
) -> tuple[str, np.ndarray]:
    """max_i |x_ki − w_ki| by one MaxPool over both signs and all i, (out, 1, windows)."""
    out, (_, features, windows) = len(weight), shape
    signs = np.array([1.0, -1.0])
    both = np.einsum("s,op->osp", signs, select).reshape(2 * out, -1, 1, 1)
    y = graph.conv(graph.view(name, *shape), both)
    y = graph.node("Add", y, graph.shapes[y], -np.einsum("s,oi->osi", signs, weight).reshape(2 * out, features, 1))
    y = graph.view(y, out, 2 * features, windows)
    kernel = (2 * features, 1)
    return graph.node("MaxPool", y, (out, 1, windows), kernel_shape=kernel, strides=kernel), np.ones(1)


def compared(
    graph: PlainGraph, name: str, shape: tuple, select: np.ndarray, weight: np.ndarray, c: tuple[float, ...] = (1.0,)
) -> tuple[str, np.ndarray]:
    """Σ_j c_j·|x_k − w_k|_(j) in ReLUs, with |t|_(j) in descending order: (channels, out·windows, 1).

    Sorted lists of the largest values so far are merged in pairs, in the same way for all outputs.  If one list is left
    over, it is merged with zeros.  Zeros are never above an absolute value, and len(c) is at most the number of
    features, so they do not change the sum of the largest len(c).
    """
    out, (parts, features, windows) = len(weight), shape
    if windows == 1:
        name = graph.view(name, parts, 1, features)
    else:
        name = graph.node("Transpose", graph.view(name, *shape), (parts, windows, features), perm=[0, 1, 3, 2])
    y = graph.conv(name, np.concatenate([select, -select])[:, :, None, None])
    y = graph.node("Add", y, graph.shapes[y], np.concatenate([-weight, weight])[:, None, :])
    y = graph.view(graph.node("Relu", y, graph.shapes[y]), 2, out * windows, features)
    wires = [np.ones(2)]  # a sorted list; its entries are combinations of the channels
    while features > 1:
        size, odd = len(wires), features % 2
        live = dict(enumerate(np.kron(np.eye(2), np.array(wires))))
        comparators, order = merge(list(range(size)), list(range(size, 2 * size)))
        order = order[: len(c)]
        kernel = (1, 2)
        for pairs, needed in stages(comparators, order):
            rows, live = compare(live, pairs, needed)
            rows = rows.reshape(len(rows), kernel[1], 1, -1).transpose(0, 3, 2, 1)
            y = graph.conv(y, rows, strides=kernel, pads=(0, 0, 0, odd))
            y = graph.node("Relu", y, graph.shapes[y])
            kernel, odd = (1, 1), 0
        wires = [live[w] for w in order]
        features = (features + 1) // 2
    return y, sum(a * w for a, w in zip(c, wires))


# Flavour → (graph, v, its shape (parts, in, windows), select (out, parts), weight (out, in)) → (result, its mix).
# Output k is about x_k − w_k, where x_k is the sum of v's parts with coefficients select[k].
DISTANCE_NODES: dict[str, Callable] = {"maxpool": pooled, "relu": compared}
