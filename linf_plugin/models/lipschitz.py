"""Architectures of layers that are 1-Lipschitz in ℓ2.  Each function returns a spec.

Their layers are forms for training, which ``materialise`` replaces.  Pixels are only shifted: ``std`` is not used,
because a scale would change the Lipschitz bound.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .parts import append, check_strides, features, start


def sll_mlp(shape, classes: int, depth: int, hidden: int, mean=(0.0,), std=1.0, crop: int = 0) -> dict:
    """(depth − 1) dense SLL layers with ``hidden`` rows inside, and normalised rows.  Araujo et al. (2303.03169)."""
    return _dense(start(shape, mean, 1.0, crop), classes, "sll", depth - 1, hidden)


def cpl_mlp(
    shape, classes: int, depth: int, hidden: int, method: str = "gram", mean=(0.0,), std=1.0, crop: int = 0
) -> dict:
    """The same of CPL layers.  Meunier et al. (arXiv 2110.12690).  ``method`` bounds the norm of their weights."""
    return _dense(start(shape, mean, 1.0, crop), classes, "cpl", depth - 1, hidden, method=method)


def aol_mlp(shape, classes: int, depth: int, width: int, mean=(0.0,), std=1.0, crop: int = 0) -> dict:
    """(depth − 1) × [dense AOL layer, MaxMin], and normalised rows.  Prach and Lampert (arXiv 2208.03160)."""
    spec = start(shape, mean, 1.0, crop)
    append(spec, "flatten")
    return _aol_rows(spec, [width] * (depth - 1), classes)


def sll_conv(
    shape,
    classes: int,
    convs: int,
    dense: int,
    width: int,
    inner: int,
    hidden: int,
    kernel: int = 3,
    pool: int = 4,
    block: int = 1,
    mean=(0.0,),
    std=1.0,
    crop: int = 0,
) -> dict:
    """Channels padded with zeros to the width, convolutional SLL layers, a pool, dense SLL layers, normalised rows.

    ``inner`` and ``hidden`` are the rows of W inside a convolutional and a dense layer.  With ``block`` = s the pixels
    of s × s blocks first become channels, so that images have 1/s² of the pixels.  Araujo et al. (2303.03169).
    """
    spec = _convolved(start(shape, mean, 1.0, crop), "sll_conv", convs, width, inner, kernel, pool, block)
    return _dense(spec, classes, "sll", dense, hidden)


def cpl_conv(
    shape,
    classes: int,
    convs: int,
    dense: int,
    width: int,
    inner: int,
    hidden: int,
    kernel: int = 3,
    pool: int = 4,
    block: int = 1,
    method: str = "gram",
    mean=(0.0,),
    std=1.0,
    crop: int = 0,
) -> dict:
    """The same of CPL layers.  Meunier et al. (arXiv 2110.12690).  ``method`` bounds the norm of their weights."""
    spec = start(shape, mean, 1.0, crop)
    spec = _convolved(spec, "cpl_conv", convs, width, inner, kernel, pool, block, method=method)
    return _dense(spec, classes, "cpl", dense, hidden, method=method)


def aol_conv(
    shape,
    classes: int,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    width: int,
    mean=(0.0,),
    std=1.0,
    crop: int = 0,
) -> dict:
    """AOL convolutions and a wide dense AOL layer, each with MaxMin behind it, and normalised rows.

    Kernels are 3×3 at stride 1 and 4×4 at stride 2.  Prach and Lampert (arXiv 2208.03160).
    """
    check_strides(channels, strides)
    spec, before = start(shape, mean, 1.0, crop), shape[0]
    for after, stride in zip(channels, strides):
        geometry = {"kernel_size": 2 + stride, "stride": stride, "padding": 1}
        append(spec, "aol_conv", in_channels=before, out_channels=after, **geometry)
        append(spec, "max_min")
        before = after
    append(spec, "flatten")
    return _aol_rows(spec, [width], classes)


@dataclass(frozen=True)
class Size:
    """A size of the residual nets of Araujo et al. (arXiv 2303.03169); the numbers are arguments of ``sll_conv``."""

    convs: int
    dense: int
    width: int
    inner: int = 5
    hidden: int = 2048


SIZES = {"s": Size(20, 7, 45), "m": Size(30, 10, 60), "l": Size(50, 10, 90), "xl": Size(70, 15, 120)}


def of_size(size: Size) -> Callable[..., dict]:
    """Returns the SLL architecture of a size.  Its arguments replace the published numbers, for small machines."""

    def build(
        shape,
        classes: int,
        convs: int = size.convs,
        dense: int = size.dense,
        width: int = size.width,
        inner: int = size.inner,
        hidden: int = size.hidden,
        mean=(0.0,),
        std=1.0,
        crop: int = 0,
    ) -> dict:
        return sll_conv(shape, classes, convs, dense, width, inner, hidden, mean=mean, std=std, crop=crop)

    return build


def _convolved(
    spec: dict, layer: str, count: int, width: int, inner: int, kernel: int, pool: int, block: int, **arguments
) -> dict:
    channels = spec["input_shape"][0]
    if block > 1:
        append(spec, "unshuffle_pixels", channels=channels, size=block)
    append(spec, "pad_channels", in_channels=channels * block**2, out_channels=width)
    for _ in range(count):
        append(spec, layer, channels=width, inner=inner, kernel_size=kernel, **arguments)
    if pool > 1:
        append(spec, "average_pool", channels=width, size=pool)
    return spec


def _dense(spec: dict, classes: int, layer: str, count: int, hidden: int, **arguments) -> dict:
    append(spec, "flatten")
    for _ in range(count):
        append(spec, layer, features=features(spec), inner=hidden, **arguments)
    return _head(spec, classes)


def _aol_rows(spec: dict, widths, classes: int) -> dict:
    for width in widths:
        append(spec, "aol", in_features=features(spec), out_features=width)
        append(spec, "max_min")
    return _head(spec, classes)


def _head(spec: dict, classes: int) -> dict:
    append(spec, "normalized_rows", in_features=features(spec), out_features=classes)
    return spec
