"""Checks the spec of a net and computes how large the net is, before memory is allocated."""

import math
from collections.abc import Callable, Iterator

from ..layers import checks
from ..layers.facts import FACTS, LAYERS
from ..layers.sizes import MOST_VALUES

MOST_LAYERS = 10_000
MOST_PAIRS = 2**33  # coordinate pairs of one sample


def check_spec(spec: dict) -> None:
    """Checks that a spec has the parts that ``Net`` describes, and known layers with arguments that they take.

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
        _named("input_shape of spec", checks.count, size)
    _named("normal_head of spec", checks.flag, spec.get("normal_head", False))
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
    if not isinstance(name, str) or name not in LAYERS:
        raise ValueError(f"spec names the unknown layer {str(name)[:80]!r}; known: {', '.join(LAYERS)}")
    facts = FACTS[LAYERS[name]]
    required, optional = facts.needed, facts.optional
    for argument, value in arguments.items():
        if argument not in required and argument not in optional:
            raise TypeError(f"layer {i} of spec, {name}, has the unknown argument {str(argument)[:80]!r}")
        _named(f"{argument} of layer {i} of spec, {name},", (required | optional)[argument], value)
    if missing := [argument for argument in required if argument not in arguments]:
        raise TypeError(f"layer {i} of spec, {name}, lacks the argument {missing[0]!r}")
    groups = arguments.get("groups", 1)
    if groups > 1 and (arguments["in_channels"] % groups or arguments["out_channels"] % groups):
        raise ValueError(f"groups of layer {i} of spec, {name}, must divide in_channels and out_channels")


# Sizes.


def tensor_shapes(spec: dict) -> dict[str, tuple[int, ...]]:
    """Returns {name: shape} of the tensors in the state of a ``Net`` with this spec, in order."""
    return {
        f"{i}.{tensor}": shape
        for i, (name, arguments) in enumerate(spec["layers"])
        for tensor, shape in FACTS[LAYERS[name]].tensors(arguments).items()
    }


def values(spec: dict) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yields (shape, pairs) of one sample after each layer.  Raises ValueError if a layer does not take its input."""
    shape = tuple(spec["input_shape"])
    for i, (name, a) in enumerate(spec["layers"]):
        before = shape
        try:
            shape, pairs = FACTS[LAYERS[name]].after(a, shape)
        except ValueError as error:
            raise ValueError(f"layer {i} of spec, {name}: {error}") from error
        if shape is None:
            raise ValueError(f"layer {i} of spec, {name}, does not take a value of shape {before}")
        yield shape, pairs


def check_size(spec: dict) -> None:
    """Checks that the layers of a spec fit each other, and that one sample needs at most ``MOST_VALUES`` numbers and
    ``MOST_PAIRS`` pairs.

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
                "more than this package accepts from a file"
            )
