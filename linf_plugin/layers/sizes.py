"""Computes the tensors of a layer and the shape of its output from its arguments in a spec, before memory is allocated.

A function ``tensors`` maps the arguments to {name: shape}.  A function ``after`` maps (arguments, shape of one sample)
to (shape after the layer, coordinate pairs that it costs).  The shape is None if the layer does not take the sample.
"""

import math
from collections.abc import Callable

from ..kernels.geometry import output_size

MOST_VALUES = 2**25  # numbers of one sample before and after each layer

Shape = tuple[int, ...]


def _both(value) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


# Functions ``tensors``.


def no_tensors(a: dict) -> dict[str, Shape]:
    return {}


def mean(a: dict) -> dict[str, Shape]:
    return {"mean": (len(a["mean"]),)}


def running_mean(a: dict) -> dict[str, Shape]:
    return {"running_mean": (a["num_features"],)}


def normalised(a: dict) -> dict[str, Shape]:
    per_channel = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (a["num_features"],))
    return {**per_channel, "num_batches_tracked": ()}


def top(a: dict) -> dict[str, Shape]:
    return {"top": (a["num_features"],)}


def _with_bias(a: dict, weight: Shape) -> dict[str, Shape]:
    return {"weight": weight, **({"bias": weight[:1]} if a.get("bias", True) else {})}


def rows(a: dict) -> dict[str, Shape]:
    return _with_bias(a, (a["out_features"], a["in_features"]))


def kernels(a: dict) -> dict[str, Shape]:
    return _with_bias(a, (a["out_channels"], a["in_channels"] // a.get("groups", 1), *_both(a["kernel_size"])))


def inner_rows(a: dict) -> dict[str, Shape]:
    return _with_bias(a, (a["inner"], a["features"]))


def inner_kernels(a: dict) -> dict[str, Shape]:
    return _with_bias(a, (a["inner"], a["channels"], *_both(a.get("kernel_size", 3))))


def with_q(tensors: Callable[[dict], dict[str, Shape]]) -> Callable[[dict], dict[str, Shape]]:
    return lambda a: tensors(a) | {"q": (a["inner"],)}


def circulant_rows(a: dict) -> dict[str, Shape]:
    out = (a.get("out_features", a["features"]),)
    return {"column": (a["features"],), "diagonal": out, **({"bias": out} if a.get("bias", True) else {})}


# Functions ``after``.


def same(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape, 0


def after_flattening(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    """The dimensions start_dim and end_dim count the batch dimension too, which must not be flattened."""
    start, end = (d + 1 + len(shape) if d < 0 else d for d in (a.get("start_dim", 1), a.get("end_dim", -1)))
    fits = 1 <= start <= end <= len(shape)
    return (*shape[: start - 1], math.prod(shape[start - 1 : end]), *shape[end:]) if fits else None, 0


def after_crop(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    fits = len(shape) == 3 and min(shape[1:]) >= a["size"]
    return (shape[0], a["size"], a["size"]) if fits else None, 0


def after_normalize(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if len(a["mean"]) in (1, shape[0]) else None, 0


def after_channels(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if shape[0] == a["num_features"] else None, 0


def after_row_features(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if shape == (a["num_features"],) else None, 0


def after_image_channels(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if len(shape) == 3 and shape[0] == a["num_features"] else None, 0


def after_pairs(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if shape[0] % 2 == 0 else None, 0


def after_rows(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    fits = shape[-1] == a["in_features"]
    return (*shape[:-1], a["out_features"]) if fits else None, math.prod(shape) * a["out_features"]


def after_windows(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    """Raises ValueError if the padded input would be too large."""
    if len(shape) != 3 or shape[0] != a["in_channels"]:
        return None, 0
    kernel, stride, dilation = (_both(v) for v in (a["kernel_size"], a.get("stride", 1), a.get("dilation", 1)))
    padding = a.get("padding", 0)
    if padding == "same":
        if stride != (1, 1):
            return None, 0
        kernel, padding = tuple(k + 1 - k % 2 for k in kernel), tuple(d * (k // 2) for k, d in zip(kernel, dilation))
    padding = (0, 0) if padding == "valid" else _both(padding)
    if math.prod((shape[0], *(side + 2 * q for side, q in zip(shape[1:], padding)))) > MOST_VALUES:
        raise ValueError(f"its padded input would have more than {MOST_VALUES:,} numbers")
    sides = [output_size(*sizes) for sizes in zip(shape[1:], kernel, stride, padding, dilation)]
    pairs = a["in_channels"] // a.get("groups", 1) * a["out_channels"] * math.prod((*kernel, *sides))
    return (a["out_channels"], *sides) if min(sides) > 0 else None, pairs


def after_residual_rows(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    return shape if shape[-1] == a["features"] else None, 2 * math.prod(shape) * a["inner"]


def after_residual_windows(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    kernel = _both(a.get("kernel_size", 3))
    if any(k % 2 == 0 for k in kernel):
        raise ValueError(f"kernel_size must be odd, so that images keep their size, got {a['kernel_size']!r}")
    there = {"in_channels": a["channels"], "out_channels": a["inner"], "kernel_size": kernel}
    found, pairs = after_windows(there | {"padding": tuple(k // 2 for k in kernel)}, shape)
    return shape if found else None, 2 * pairs


def after_circulant(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    """The pairs are those of the linear layer that replaces the layer."""
    out = a.get("out_features", a["features"])
    if out > a["features"]:
        raise ValueError(f"out_features must be at most features={a['features']}, got {out}")
    return (*shape[:-1], out) if shape[-1] == a["features"] else None, math.prod(shape) * out


def after_padding(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    if a["out_channels"] < a["in_channels"]:
        raise ValueError(f"out_channels must be at least in_channels={a['in_channels']}, got {a['out_channels']}")
    fits = len(shape) == 3 and shape[0] == a["in_channels"]
    return (a["out_channels"], *shape[1:]) if fits else None, 0


def after_unshuffling(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    size = a["size"]
    fits = len(shape) == 3 and shape[0] == a["channels"] and not any(side % size for side in shape[1:])
    return (shape[0] * size**2, *(side // size for side in shape[1:])) if fits else None, 0


def after_pool(a: dict, shape: Shape) -> tuple[Shape | None, int]:
    fits = len(shape) == 3 and shape[0] == a["channels"] and min(shape[1:]) >= a["size"]
    return (shape[0], *(side // a["size"] for side in shape[1:])) if fits else None, 0
