"""Checks of the arguments of layers in a spec.  Each check raises TypeError or ValueError.  Its message continues a
sentence that begins with the name of the argument."""

import math
from collections.abc import Callable
from numbers import Integral, Real

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def count(value, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"must be an int, got {type(value).__name__}")
    if not least <= value < 2**31:
        raise ValueError(f"must be at least {least} and below 2³¹, got {value}")


def flag(value) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"must be True or False, got {type(value).__name__}")


def number(value) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"must be a number, got {type(value).__name__}")
    if not math.isfinite(value):
        raise ValueError(f"must be finite, got {value}")


def positive(value) -> None:
    number(value)
    if not value > 0:
        raise ValueError(f"must be positive and finite, got {value}")


def not_negative(value) -> None:
    number(value)
    if not value >= 0:
        raise ValueError(f"must be finite and at least 0, got {value}")


def momentum(value) -> None:
    number(value)
    if not 0 < value <= 1:
        raise ValueError(f"must lie in (0, 1], got {value}")


def numbers(value) -> None:
    if not isinstance(value, (list, tuple)) or not value:
        raise TypeError("must be a list of numbers")
    for each in value:
        number(each)


def steps(value) -> None:
    if value is not None:
        count(value, 0)


def pair(least: int) -> Callable:
    def check(value) -> None:
        both = value if isinstance(value, (list, tuple)) else (value, value)
        if len(both) != 2:
            raise ValueError(f"must be an int or a pair of ints, got {len(both)} of them")
        for each in both:
            count(each, least)

    return check


def padding(value) -> None:
    if value not in ("same", "valid"):
        pair(0)(value)


def dimension(value) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or not -8 <= value < 8:
        raise ValueError(f"must be a dimension, got {value}")


def only(*allowed) -> Callable:
    def check(value) -> None:
        if value not in allowed or type(value) is not type(allowed[0]):
            raise ValueError(f"must be {' or '.join(map(repr, allowed))}")

    return check
