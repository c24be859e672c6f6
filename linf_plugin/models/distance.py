"""Architectures of distance layers, as specs."""

from .parts import append, check_strides, dist_features, head, start


# Arguments of all architectures: shape (C, H, W) and number of classes, mean and std of the pixels, and for images
# larger than what the net is to see, crop; some have clip.  ``start`` says what these do.
def linf_mlp(
    shape, classes: int, width: int, depth: int, mean=(0.0,), std=1.0, crop: int = 0, clip: float = 0.0
) -> dict:
    """ℓ∞-dist net: (depth − 1) × [distance, mean shift], then a distance layer with bias, negated."""
    spec = start(shape, mean, std, crop, clip)
    append(spec, "flatten")
    dist_features(spec, [width] * (depth - 1))
    head(spec, classes, None)
    return spec


def linf_mlp_head(
    shape,
    classes: int,
    width: int,
    depth: int,
    hidden: int,
    mean=(0.0,),
    std=1.0,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """ℓ∞-dist net+MLP: depth × [distance, mean shift], then Linear–tanh–Linear."""
    spec = start(shape, mean, std, crop)
    append(spec, "flatten")
    dist_features(spec, [width] * depth)
    head(spec, classes, hidden, normal_head)
    return spec


def linf_conv(
    shape,
    classes: int,
    mean=(0.0,),
    std=1.0,
    channels: tuple[int, ...] = (96, 96, 192, 192, 192),
    strides: tuple[int, ...] = (1, 1, 2, 1, 1),
    width: int = 1024,
    hidden: int | None = None,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """Convolutional ℓ∞-dist net: 3×3 distances with mean shift, one wide distance layer, then logits."""
    check_strides(channels, strides)
    spec = start(shape, mean, std, crop)
    before = shape[0]
    for after, stride in zip(channels, strides):
        append(
            spec,
            "dist_conv",
            in_channels=before,
            out_channels=after,
            kernel_size=3,
            stride=stride,
            padding=1,
            bias=False,
            identity_init=True,
        )
        append(spec, "mean_shift", num_features=after)
        before = after
    append(spec, "flatten")
    dist_features(spec, [width])
    head(spec, classes, hidden, normal_head)
    return spec


def sortnet_mlp(
    shape,
    classes: int,
    width: int,
    depth: int,
    rho: float,
    k: int = 10,
    group: int = 32,
    identity_init: bool = False,
    hidden: int | None = None,
    mean=(0.0,),
    std=1.0,
    identity_first: bool = True,
    normal_head: bool = False,
    crop: int = 0,
) -> dict:
    """SortNet: ``linf_mlp``, or with ``hidden`` ``linf_mlp_head``, with sorted sums after the first layer, whose
    inputs are pixels.  Zhang et al. (arXiv 2210.01787).

    ``identity_init`` is that of the sorted sums: an output that starts as a copy falls by about 10 whenever its
    input is dropped.  ``identity_first`` is that of the first layer.
    """
    spec = start(shape, mean, std, crop)
    append(spec, "flatten")
    sort = {"layer": "sort_dist", "rho": rho, "k": k, "group": group}
    kinds = [{}, *[sort] * depth]
    features = depth - 1 if hidden is None else depth
    for i, kind in enumerate(kinds[:features]):
        dist_features(spec, [width], identity_init=identity_init if i else identity_first, **kind)
    head(spec, classes, hidden, normal_head, **kinds[features])
    return spec
