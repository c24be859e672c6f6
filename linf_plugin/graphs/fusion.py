"""Which operations a runtime may fold into the product of matrices before them.

onnxruntime folds batch normalisation, and constant factors and offsets, into the weights of a convolution or a linear
layer.  Its terms then pass the roundings of both, in one sum.  Bounds of rounding must hold for both forms.
"""

import math

from torch import nn

from .graph import Graph
from .operations import Affine

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
ROUNDINGS = 13  # of a weight or a bias that one operation is folded into, at most


def fan_in(layer: nn.Module) -> int:
    """Returns how many products a linear layer or a convolution adds up for one output, at most."""
    if getattr(layer, "transposed", False):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return math.prod(layer.weight.shape[1:])


def note_fusions(graph: Graph) -> Graph:
    """Tells every product, and every operation that may be folded into it, how often terms are then rounded."""
    users, folded_into = graph.users(), {}
    for i, (module, inputs, _) in enumerate(graph.nodes):
        before = inputs[0] - 1
        if not isinstance(module, Affine) or before < 0 or len(users[inputs[0]]) != 1:
            continue
        product = before if isinstance(graph.parts[before], PRODUCTS) else folded_into.get(before)
        if product is None:
            continue
        folded_into[i] = product
        layer = graph.parts[product]
        layer.later_roundings = getattr(layer, "later_roundings", 0) + ROUNDINGS
    for i, product in folded_into.items():
        layer = graph.parts[product]
        graph.parts[i].fused = fan_in(layer) + 1 + layer.later_roundings
    return graph
