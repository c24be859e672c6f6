"""What a spec of a net may hold, and how large the net is that it describes: known before anything is allocated."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real

from ..arguments import check_k, check_p, check_rho
from ..kernels.windows import output_size

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
MOST_LAYERS = 10_000
MOST_VALUES = 2**25  # numbers a sample, before and after each layer
MOST_PAIRS = 2**33  # coordinate pairs a sample


# What arguments may be.  Each raises TypeError or ValueError; the message begins after the argument's name.


def _count(value, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"must be an int, got {type(value).__name__}")
    if not least <= value < 2**31:
        raise ValueError(f"must be at least {least} and below 2³¹, got {value}")


def _flag(value) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"must be True or False, got {type(value).__name__}")


def _number(value) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")


def _positive(value) -> None:
    _number(value)
    if not value > 0:
        raise ValueError(f"must be positive and finite, got {value}")


def _momentum(value) -> None:
    _number(value)
    if not 0 < value <= 1:
        raise ValueError(f"must lie in (0, 1], got {value}")


def _numbers(value) -> None:
    if not isinstance(value, (list, tuple)) or not value:
        raise TypeError("must be a list of numbers")
    for number in value:
        _number(number)


def _pair(least: int) -> Callable:
    def check(value) -> None:
        pair = value if isinstance(value, (list, tuple)) else (value, value)
        if len(pair) != 2:
            raise ValueError(f"must be an int or a pair of ints, got {len(pair)} of them")
        for number in pair:
            _count(number, least)

    return check


def _padding(value) -> None:
    if value not in ("same", "valid"):
        _pair(0)(value)


def _dimension(value) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not -8 <= value < 8:
        raise ValueError(f"must be a dimension, got {value}")


def _only(*allowed) -> Callable:
    def check(value) -> None:
        if value not in allowed or type(value) is not type(allowed[0]):
            raise ValueError(f"must be {' or '.join(map(repr, allowed))}")

    return check


_LINEAR = {"in_features": _count, "out_features": _count}
_CONV = {"in_channels": _count, "out_channels": _count, "kernel_size": _pair(1)}
_WINDOWS = {"stride": _pair(1), "padding": _pair(0), "dilation": _pair(1), "groups": _count, "bias": _flag}
_DISTANCE = {"bias": _flag, "p": check_p, "identity_init": _flag}

# Layer → the arguments that it needs, and those that it may have.
ARGUMENTS: dict[str, tuple[dict[str, Callable], dict[str, Callable]]] = {
    "normalize": ({"mean": _numbers, "std": _positive}, {}),
    "crop": ({"size": _count}, {}),
    "flatten": ({}, {"start_dim": _dimension, "end_dim": _dimension}),
    "dist": (_LINEAR, _DISTANCE),
    "dist_conv": (_CONV, _WINDOWS | _DISTANCE),
    "sort_dist": (_LINEAR | {"rho": check_rho}, _DISTANCE | {"k": check_k, "group": _count}),
    "mean_shift": ({"num_features": _count}, {"momentum": _momentum}),
    "negate": ({}, {}),
    "linear": (_LINEAR, {"bias": _flag}),
    "conv": (_CONV, _WINDOWS | {"padding": _padding, "padding_mode": _only(*PADDING_MODES)}),
    "relu": ({}, {"inplace": _flag}),
    "tanh": ({}, {}),
}


def check_spec(spec: dict) -> None:
    """That a spec has the parts that ``Net`` describes, and known layers with the arguments that they take.

    Raises:
        ValueError, TypeError: the message names the layer, its place and the argument.
    """
    if not isinstance(spec, dict) or not {"input_shape", "layers"} <= spec.keys():
        raise ValueError("spec must be a dict with input_shape and layers")
    if unknown := [key for key in spec if key not in ("input_shape", "layers", "normal_head")]:
        raise ValueError(f"spec has the unknown part {unknown[0]!r}")
    shape, layers = spec["input_shape"], spec["layers"]
    if not isinstance(shape, (list, tuple)) or not 0 < len(shape) <= 8:
        raise ValueError("input_shape of spec must be a list of sizes")
    for size in shape:
        _named("input_shape of spec", _count, size)
    _named("normal_head of spec", _flag, spec.get("normal_head", False))
    if not isinstance(layers, (list, tuple)) or len(layers) > MOST_LAYERS:
        raise ValueError(f"layers of spec must be a list of at most {MOST_LAYERS:,}")
    for i, layer in enumerate(layers):
        if not isinstance(layer, (list, tuple)) or len(layer) != 2 or not isinstance(layer[1], dict):
            raise ValueError(f"layer {i} of spec must be a name and a dict of arguments")
        _check_layer(i, *layer)


def _named(name: str, check: Callable, value) -> None:
    try:
        check(value)
    except (TypeError, ValueError) as error:
        text = str(error)
        raise type(error)(f"{name} {text if text.startswith('must') else '– ' + text}") from error


def _check_layer(i: int, name, arguments: dict) -> None:
    if not isinstance(name, str) or name not in ARGUMENTS:
        raise ValueError(f"spec names the unknown layer {str(name)[:80]!r}; known: {', '.join(ARGUMENTS)}")
    required, optional = ARGUMENTS[name]
    for argument, value in arguments.items():
        if argument not in required and argument not in optional:
            raise TypeError(f"layer {i} of spec, {name}, has the unknown argument {str(argument)[:80]!r}")
        _named(f"{argument} of layer {i} of spec, {name},", (required | optional)[argument], value)
    if missing := [argument for argument in required if argument not in arguments]:
        raise TypeError(f"layer {i} of spec, {name}, lacks the argument {missing[0]!r}")
    if name in ("conv", "dist_conv"):
        groups = arguments.get("groups", 1)
        if arguments["in_channels"] % groups or arguments["out_channels"] % groups:
            raise ValueError(f"groups of layer {i} of spec, {name}, must divide in_channels and out_channels")


# Sizes.


def _both(value) -> tuple[int, int]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def tensor_shapes(spec: dict) -> dict[str, tuple[int, ...]]:
    """The tensors that the state of a ``Net`` of this spec has, in order, and their shapes."""
    found = {}
    for i, (name, a) in enumerate(spec["layers"]):
        if name == "normalize":
            found[f"{i}.mean"] = (len(a["mean"]),)
        elif name == "mean_shift":
            found[f"{i}.running_mean"] = (a["num_features"],)
        elif name in ("dist", "sort_dist", "linear"):
            found[f"{i}.weight"] = (a["out_features"], a["in_features"])
        elif name in ("conv", "dist_conv"):
            channels = a["in_channels"] // a.get("groups", 1)
            found[f"{i}.weight"] = (a["out_channels"], channels, *_both(a["kernel_size"]))
        if f"{i}.weight" in found and a.get("bias", True):
            found[f"{i}.bias"] = found[f"{i}.weight"][:1]
    return found


def _after(name: str, a: dict, shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, int]:
    """(shape, pairs) of one sample after a layer, without a shape where it does not take the one before."""
    if name == "flatten":
        return _after_flattening(shape, a.get("start_dim", 1), a.get("end_dim", -1)), 0
    if name == "crop":
        fits = len(shape) == 3 and min(shape[1:]) >= a["size"]
        return (shape[0], a["size"], a["size"]) if fits else None, 0
    if name == "normalize":
        return shape if len(a["mean"]) in (1, shape[0]) else None, 0
    if name == "mean_shift":
        return shape if shape[0] == a["num_features"] else None, 0
    if name in ("dist", "sort_dist", "linear"):
        fits = shape[-1] == a["in_features"]
        return (*shape[:-1], a["out_features"]) if fits else None, math.prod(shape) * a["out_features"]
    if name in ("dist_conv", "conv"):
        return _after_windows(a, shape)
    return shape, 0


def _after_flattening(shape: tuple[int, ...], start: int, end: int) -> tuple[int, ...] | None:
    """Both ends count the batch, of which nothing is flattened away."""
    start, end = (d + 1 + len(shape) if d < 0 else d for d in (start, end))
    fits = 1 <= start <= end <= len(shape)
    return (*shape[: start - 1], math.prod(shape[start - 1 : end]), *shape[end:]) if fits else None


def _after_windows(a: dict, shape: tuple[int, ...]) -> tuple[tuple[int, ...] | None, int]:
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


def values(spec: dict) -> Iterator[tuple[tuple[int, ...], int]]:
    """(shape, pairs) of one sample after each layer.  Raises ValueError where a layer does not take what comes."""
    shape = tuple(spec["input_shape"])
    for i, (name, a) in enumerate(spec["layers"]):
        before = shape
        try:
            shape, pairs = _after(name, a, shape)
        except ValueError as error:
            raise ValueError(f"layer {i} of spec, {name}: {error}") from error
        if shape is None:
            raise ValueError(f"layer {i} of spec, {name}, does not take a value of shape {before}")
        yield shape, pairs


def check_size(spec: dict) -> None:
    """That the layers of a spec fit each other, and that one sample takes at most ``MOST_VALUES`` and ``MOST_PAIRS``.

    Raises:
        ValueError: the message names the layer.
    """
    total = 0
    if math.prod(spec["input_shape"]) > MOST_VALUES:
        raise ValueError(f"input_shape of spec has more than {MOST_VALUES:,} numbers")
    for i, (shape, pairs) in enumerate(values(spec)):
        total += pairs
        if math.prod(shape) > MOST_VALUES or total > MOST_PAIRS:
            raise ValueError(
                f"layer {i} of spec, {spec['layers'][i][0]}, gives {math.prod(shape):,} numbers for {pairs:,} pairs, "
                "more than are taken from a file"
            )
