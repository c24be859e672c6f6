"""Architectures of linear layers and ReLUs, for the baselines.  Each function returns a spec."""

from .parts import append, check_strides, features, start


def relu_mlp(shape, classes: int, width: int, depth: int, mean=(0.0,), std=1.0, crop: int = 0) -> dict:
    """Baseline: (depth − 1) × [Linear, ReLU], then Linear."""
    spec = start(shape, mean, std, crop)
    append(spec, "flatten")
    for _ in range(depth - 1):
        append(spec, "linear", in_features=features(spec), out_features=width)
        append(spec, "relu")
    append(spec, "linear", in_features=features(spec), out_features=classes)
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
) -> dict:
    """Baseline: convolutions with ReLU, one wide Linear with ReLU, then Linear.

    ``kernel`` is the size of the kernels.  Without it they are 3×3 at stride 1 and 4×4 at stride 2.
    """
    check_strides(channels, strides)
    spec = start(shape, mean, std, crop)
    before = shape[0]
    for after, stride in zip(channels, strides):
        append(
            spec,
            "conv",
            in_channels=before,
            out_channels=after,
            kernel_size=kernel or 2 + stride,
            stride=stride,
            padding=1,
        )
        append(spec, "relu")
        before = after
    append(spec, "flatten")
    append(spec, "linear", in_features=features(spec), out_features=width)
    append(spec, "relu")
    append(spec, "linear", in_features=width, out_features=classes)
    return spec
