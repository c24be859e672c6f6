"""Architectures of distance layers.  Each function returns a spec."""

from .parts import append, check_strides, dist_features, head, start


# All architectures take the shape (C, H, W), the number of classes, mean and std of the pixels, and crop, for images
# that are larger than the net needs.  Some take clip.  ``start`` explains the last four.  Those without convolutions
# also take the shape (F,), for rows of F numbers.
def linf_mlp(
    shape, classes: int, width: int, depth: int, mean=(0.0,), std=1.0, crop: int = 0, clip: float = 0.0
) -> dict:
    """ℓ∞-dist net: (depth − 1) × [distance, mean shift], then a distance layer with bias and a negation."""
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
    """Convolutional ℓ∞-dist net: 3×3 distance layers with mean shifts, one wide distance layer, then the logits."""
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
    """SortNet: as ``linf_mlp``, or as ``linf_mlp_head`` if ``hidden`` is given, but with sorted sums after the first
    layer.  The inputs of the first layer are pixels, which must not be dropped.  Zhang et al. (arXiv 2210.01787).

    ``identity_first`` is the ``identity_init`` of the first layer, and ``identity_init`` that of the sorted sums.  With
    it, an output starts as a copy of an input and falls by about 10 whenever this input is dropped.
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
