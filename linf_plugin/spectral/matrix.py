"""The matrix of a layer on images of one size, from an identity batch that is pushed through the layer."""

import torch
from torch import Tensor

from .geometry import Convolution
from .outward import Matrices, frobenius, gamma, scaled, up
from .power import apply, image_size
from .svd import svd_upper

MOST_ENTRIES = 1 << 24


def matrix(map_: Convolution, group: int = 0, absolute: bool = False) -> Tensor:
    """Returns the matrix (outputs, inputs) of one group of channels, in float64 on the CPU.

    Args:
        map_: the layer.  If it has no size, the images have one pixel or, for a larger kernel, several times its width.
        group: which group; the whole matrix has those of the groups as diagonal blocks.
        absolute: take the absolute values of the weights.

    Raises:
        ValueError: the matrix would have more than ``MOST_ENTRIES`` entries.
    """
    out, inputs = map_.weight.shape[0] // map_.groups, map_.weight.shape[1]
    height, width = image_size(map_)
    one = Convolution(
        map_.weight.detach().double().cpu()[group * out : (group + 1) * out],
        map_.stride,
        map_.padding,
        map_.dilation,
        1,
        map_.padding_mode,
        (height, width),
    )
    columns, rows = inputs * height * width, out * one.outputs[0] * one.outputs[1]
    if rows * columns > MOST_ENTRIES:
        raise ValueError(
            f"size={(height, width)}: the matrix of the layer would have {rows}×{columns} entries, more than "
            f"{MOST_ENTRIES}: take another method"
        )
    images = torch.eye(columns, dtype=torch.float64, device="cpu").view(columns, inputs, height, width)
    return apply(one, images, one.weight.abs() if absolute else one.weight).flatten(1).T.contiguous()


def matrix_upper(map_: Convolution) -> float:
    """Returns an upper bound of ‖A‖₂, with all rounding, for the size of the layer.

    An entry of the matrix is one weight, which float64 convolutions on the CPU give exactly: they multiply it by 1 and
    add zeros.  Only where a circular window sees a pixel several times is it a sum, of at most T weights for T taps; it
    is then off by at most γ_T times the sum of their absolute values.
    """
    taps = map_.weight.shape[-1] * map_.weight.shape[-2]
    wraps = map_.padding_mode == "circular" and any(r >= n for r, n in zip(map_.reach, image_size(map_)))
    bounds = []
    for group in range(map_.groups):
        bound = svd_upper(Matrices(matrix(map_, group)[None])).item()
        if wraps:
            absolute, exponent = scaled(Matrices(matrix(map_, group, absolute=True)[None]))
            bound = up(bound + up(frobenius(absolute).item() * 2.0 ** exponent.item() * gamma(taps), taps + 4), 1)
        bounds.append(bound)
    return max(bounds)
