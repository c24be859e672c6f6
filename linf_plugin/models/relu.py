"""Architectures of linear layers and activations, for the baselines.  Each function returns a spec."""

from collections.abc import Callable
from dataclasses import dataclass

from .parts import append, check_strides, features, hidden_layer, start


def relu_mlp(
    shape,
    classes: int,
    width: int,
    depth: int,
    mean=(0.0,),
    std=1.0,
    crop: int = 0,
    batch_norm: bool = False,
    activation: str = "relu",
) -> dict:
    """Baseline: (depth − 1) × [Linear, activation], then Linear."""
    spec = start(shape, mean, std, crop)
    append(spec, "flatten")
    _rows(spec, [width] * (depth - 1), classes, batch_norm, activation)
    return spec


def relu_conv(
    shape,
    classes: int,
    channels: tuple[int, ...],
    strides: tuple[int, ...],
    width: int,
    mean=(0.0,),
    std=1.0,
    kernel: int | None = None,
    crop: int = 0,
    batch_norm: bool = False,
    activation: str = "relu",
) -> dict:
    """Baseline: convolutions with activations, one wide Linear with an activation, then Linear.

    ``kernel`` is the size of the kernels.  Without it they are 3×3 at stride 1 and 4×4 at stride 2.
    """
    check_strides(channels, strides)
    convs = [(after, kernel or 2 + stride, stride, 1) for after, stride in zip(channels, strides)]
    spec = start(shape, mean, std, crop)
    return _net(spec, shape[0], convs, [width], classes, batch_norm, activation)


@dataclass(frozen=True)
class Layout:
    """A net of the literature.

    convs: (channels as a multiple of the width, kernel, stride, padding) each.  width, hidden: as published; hidden
    are the sizes of the linear layers before the last.  source: the paper.
    """

    convs: tuple[tuple[int, int, int, int], ...]
    width: int
    hidden: tuple[int, ...]
    batch_norm: bool
    source: str


LAYOUTS = {
    "dm-small": Layout(((1, 4, 2, 0), (2, 4, 1, 0)), 16, (100,), False, "Gowal et al., arXiv 1810.12715"),
    "dm-large": Layout(
        ((1, 3, 1, 0), (1, 3, 1, 0), (2, 3, 2, 0), (2, 3, 1, 0), (2, 3, 1, 0)),
        64,
        (512,),
        False,
        "Gowal et al., arXiv 1810.12715",
    ),
    "cnn3": Layout(((1, 5, 2, 2), (2, 4, 2, 1)), 64, (), True, "Mao et al., arXiv 2406.04848"),
    "cnn5": Layout(((1, 3, 1, 1), (1, 4, 2, 1), (2, 4, 2, 1)), 64, (512,), True, "Mao et al., arXiv 2406.04848"),
    "cnn7": Layout(
        ((1, 3, 1, 1), (1, 3, 1, 1), (2, 3, 2, 1), (2, 3, 1, 1), (2, 3, 1, 1)),
        64,
        (512,),
        True,
        "Shi et al., arXiv 2103.17268",
    ),
}


def from_layout(layout: Layout) -> Callable[..., dict]:
    """Returns the architecture of a layout.  Its arguments replace the published widths, for small machines."""

    def build(
        shape,
        classes: int,
        width: int = layout.width,
        hidden: tuple[int, ...] = layout.hidden,
        batch_norm: bool = layout.batch_norm,
        activation: str = "relu",
        mean=(0.0,),
        std=1.0,
        crop: int = 0,
    ) -> dict:
        convs = [(width * times, *geometry) for times, *geometry in layout.convs]
        return _net(start(shape, mean, std, crop), shape[0], convs, hidden, classes, batch_norm, activation)

    build.__doc__ = f"Baseline of {layout.source}."
    return build


def _net(spec: dict, channels: int, convs, hidden, classes: int, batch_norm: bool, activation: str) -> dict:
    for after, kernel, stride, padding in convs:
        geometry = {"kernel_size": kernel, "stride": stride, "padding": padding}
        append(spec, "conv", in_channels=channels, out_channels=after, **geometry)
        hidden_layer(spec, batch_norm, activation)
        channels = after
    append(spec, "flatten")
    _rows(spec, hidden, classes, batch_norm, activation)
    return spec


def _rows(spec: dict, widths, classes: int, batch_norm: bool, activation: str) -> None:
    for width in widths:
        append(spec, "linear", in_features=features(spec), out_features=width)
        hidden_layer(spec, batch_norm, activation)
    append(spec, "linear", in_features=features(spec), out_features=classes)
