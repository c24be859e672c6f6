"""Which operations a runtime may fold into the product of matrices before them.

onnxruntime folds batch normalisation, and constant factors and offsets, into the weights of a convolution or a linear
layer, also if numbers are moved in between.  It also starts the sum of a convolution at another value, to which the
convolution is added (a residual connection).  The terms then pass the roundings of both, in one sum.  Bounds of
rounding must hold for both forms.
"""

import math

import torch
from torch import Tensor, nn

from .graph import Graph
from .operations import Add, Affine, Gather

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
ROUNDINGS = 13  # of a weight or a bias that one operation is folded into, at most
LEAST_FACTOR = 2.0**-900


def fan_in(layer: nn.Module) -> int:
    """Returns how many products a linear layer or a convolution adds up for one output, at most."""
    if getattr(layer, "transposed", False):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return math.prod(layer.weight.shape[1:])


def later_roundings(layer: nn.Module) -> int:
    """Returns how often a term of a product is rounded for what may be folded into it, at most."""
    later = getattr(layer, "later", None)
    return 0 if later is None else later.roundings


def per_channel(product: nn.Module, a: Tensor) -> Tensor | None:
    """Returns a constant of an operation behind a product as one number for each output; None if it is none."""
    out = product.out_features if isinstance(product, nn.Linear) else product.out_channels
    if a.numel() == 1:
        return a.reshape(1).expand(out)
    if isinstance(product, nn.Linear):
        return a.reshape(out) if a.numel() == out and a.shape[-1] == out else None
    dims = product.weight.dim() - 2
    return a.reshape(out) if tuple(a.shape) == (out, *[1] * dims) else None


class Later(nn.Module):
    """What is folded into a product.

    Attributes:
        roundings: how often a term is rounded for it, at most.
        least: (out, 1, …), broadcasts to the outputs: a folded weight is at least this part of the weight.
        most: the same: it is at most this multiple of the weight, in each step of folding.
    """

    least: Tensor
    most: Tensor

    def __init__(self, product: nn.Module):
        super().__init__()
        shape = (-1,) if isinstance(product, nn.Linear) else (-1, *[1] * (product.weight.dim() - 2))
        ones = torch.ones(1, dtype=torch.float64).view(shape)
        self.roundings = 0
        self.register_buffer("least", ones)
        self.register_buffer("most", ones)

    def add(self, product: nn.Module, module: Affine | Add, moved: bool) -> None:
        """Adds one operation; ``moved``: whether numbers are moved between the product and it."""
        if isinstance(module, Add):  # its other value becomes the start of the sum
            self.roundings += 1
            return
        factor = module.factor.abs()
        factor = torch.where(factor == 0, 1.0, factor)  # what is multiplied by zero has no error
        channels = None if moved else per_channel(product, factor)
        least, most = factor.aminmax() if channels is None else (channels, channels)
        shape = (-1, *self.least.shape[1:])
        self.roundings += ROUNDINGS
        self.least = (self.least * least.clamp_max(1).reshape(shape)).clamp_min(LEAST_FACTOR)
        self.most = self.most * most.clamp_min(1).reshape(shape)


def note_fusions(graph: Graph) -> Graph:
    """Tells every product, and every operation that may be folded into it, how often terms are then rounded."""
    users = graph.users()
    reached: dict[int, tuple[int, bool]] = {}  # node → the product whose outputs it gives, and whether they are moved
    folded: list[tuple[Affine | Add, nn.Module]] = []  # operations, each with its product
    for i, (module, inputs, _) in enumerate(graph.nodes):
        for value in inputs:
            before = value - 1
            if before < 0 or len(users[value]) != 1 or (len(inputs) > 1 and not isinstance(module, Add)):
                continue
            if isinstance(graph.parts[before], PRODUCTS):
                product, moved = before, False
            else:
                product, moved = reached.get(before, (None, False))
            if product is None or not isinstance(module, (Add, Affine, Gather)):
                continue
            layer = graph.parts[product]
            if not isinstance(module, Add):  # a sum of two values is the end: nothing after it is folded
                reached[i] = product, moved or isinstance(module, Gather)
            if not isinstance(module, Gather):
                if getattr(layer, "later", None) is None:
                    layer.later = Later(layer).eval()
                layer.later.add(layer, module, moved)
                folded.append((module, layer))
    for module, layer in folded:
        module.fused = max(module.fused, fan_in(layer) + 1 + later_roundings(layer))
    return graph
