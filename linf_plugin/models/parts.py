"""The parts of architectures.  Each function adds layers to a spec."""

import math

from .spec import values

ACTIVATIONS = {"relu": "relu", "ramp": "ramp", "max-min": "max_min"}  # name in a recipe → layer of a spec


def start(shape, mean, std, crop: int = 0, clip: float = 0.0) -> dict:
    """Returns a new spec that normalises pixels.  With ``crop`` it takes only the middle crop × crop pixels.

    With ``clip`` = c, pixels below c first become 0, pixels above 1 − c become 1, and a pixel x between them becomes
    (x − c)/(1 − 2c).  If a pixel is at most c − ε away from 0 or 1, a change by ε then has no effect.  Intervals
    use that.  The Lipschitz bound does not; it grows by the factor 1/(1 − 2c).
    """
    if not 0 <= clip < 0.5:
        raise ValueError(f"clip must lie in [0, 0.5), got {clip}")
    spec = {"input_shape": list(shape), "layers": []}
    if clip:  # these layers give 1 − max(0, 1 − max(0, a)) minus 1; the smaller mean below adds the 1 again
        append(spec, "normalize", mean=[clip], std=1 - 2 * clip)
        append(spec, "relu")
        append(spec, "negate")
        append(spec, "normalize", mean=[-1.0], std=1.0)
        append(spec, "relu")
        append(spec, "negate")
        mean = [m - 1 for m in mean]
    append(spec, "normalize", mean=list(mean), std=std)
    if crop:
        append(spec, "crop", size=crop)
    return spec


def append(spec: dict, name: str, **arguments) -> None:
    spec["layers"].append([name, arguments])


def features(spec: dict) -> int:
    """Returns the size of the flattened output of the layers so far."""
    *_, (shape, _) = values(spec)
    return math.prod(shape)


def dist_features(spec: dict, widths, layer: str = "dist", identity_init: bool = True, **arguments) -> None:
    for width in widths:
        append(
            spec,
            layer,
            in_features=features(spec),
            out_features=width,
            bias=False,
            identity_init=identity_init,
            **arguments,
        )
        append(spec, "mean_shift", num_features=width)


def head(spec: dict, classes: int, hidden: int | None, normal: bool = False, layer: str = "dist", **arguments) -> None:
    """Adds the logits: the negated distances of ``layer``, or with ``hidden`` a Linear–tanh–Linear head.

    ``normal`` sets "normal_head", which ``Net`` explains.
    """
    inputs = features(spec)
    if hidden is None:
        append(spec, layer, in_features=inputs, out_features=classes, **arguments)
        append(spec, "negate")
    else:
        append(spec, "linear", in_features=inputs, out_features=hidden)
        append(spec, "tanh")
        append(spec, "linear", in_features=hidden, out_features=classes)
        if normal:
            spec["normal_head"] = True


def hidden_layer(spec: dict, batch_norm: bool, activation: str) -> None:
    """Adds what follows a linear layer or a convolution: batch normalisation, if asked for, and an activation.

    Raises:
        ValueError: the activation is not in ``ACTIVATIONS``.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r:.80}")
    *_, (shape, _) = values(spec)
    channels = {"num_features": shape[0]}
    if batch_norm:
        append(spec, "batch_norm" if len(shape) == 3 else "batch_norm_rows", **channels)
    append(spec, ACTIVATIONS[activation], **(channels if activation == "ramp" else {}))


def check_strides(channels, strides) -> None:
    if len(channels) != len(strides):
        raise ValueError(f"strides must be as many as channels: got {len(strides)} and {len(channels)}")
