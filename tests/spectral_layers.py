"""Random layers, and their matrices by another way than the package's: an identity batch pushed through ``nn``."""

import random

import torch
from torch import Tensor, nn

from linf_plugin.spectral import Convolution


def operator(layer: nn.Module, *shape: int) -> Tensor:
    """The matrix (outputs, inputs) of a layer on inputs of this shape, in float64."""
    layer = layer.double()
    size = torch.Size(shape).numel()
    with torch.no_grad():
        columns = layer(torch.eye(size, dtype=torch.float64).view(size, *shape)) - layer(
            torch.zeros(1, *shape, dtype=torch.float64)
        )
    return columns.flatten(1).T


def largest(matrix: Tensor) -> float:
    return torch.linalg.svdvals(matrix)[0].item()


def draw(seed: int, most: int = 7, channels: int = 3) -> tuple[nn.Conv2d, tuple[int, int]]:
    """A random convolution and the size of its images: paddings, strides, groups, dilations, even kernels.

    Kernels may be positive, sparse, of rank 1, tiny or huge.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    while True:
        groups = rng.choice((1, 1, 1, 2, 3))
        kernel = rng.choice((1, 2, 3, 3, 4, 5)), rng.choice((1, 2, 3, 3, 4))
        dilation = rng.choice((1, 1, 2, 3)), rng.choice((1, 1, 2))
        stride = rng.choice((1, 1, 1, 2, 3, 5)), rng.choice((1, 1, 1, 2, 3))
        mode, size = rng.choice(("zeros", "circular")), (rng.randint(1, most), rng.randint(1, most))
        padding = rng.choice(
            (
                "same" if stride == (1, 1) else 0,
                tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel)),
                (rng.randint(0, 5), rng.randint(0, 4)),
                0,
            )
        )
        inputs, outputs = groups * rng.randint(1, channels), groups * rng.randint(1, channels)
        settings = {"groups": groups, "bias": False, "padding_mode": mode}
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, **settings)
        try:
            Convolution(layer.weight, layer.stride, layer.padding, layer.dilation, groups, mode, size)
        except ValueError:  # an image smaller than the kernel, which torch refuses too
            continue
        weight = torch.randn(layer.weight.shape, generator=generator)
        kind = rng.choice(("normal", "normal", "positive", "sparse", "rank 1", "tiny", "huge"))
        if kind == "positive":
            weight = weight.abs()
        elif kind == "sparse":
            weight = weight * (torch.rand(weight.shape, generator=generator) < 0.3)
        elif kind == "rank 1":
            weight = weight[:1, :1] * torch.ones_like(weight)
        elif kind in ("tiny", "huge"):
            weight = weight * (1e-30 if kind == "tiny" else 1e30)
        layer.weight.data = weight
        return layer, size
