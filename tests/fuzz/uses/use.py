"""What a use of an operator is, and how its arguments are drawn."""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

Shape = tuple[int, ...]  # of one sample
Arguments = dict  # as JSON has them
FRACTIONS = (-2.0, -1.5, -0.75, -0.375, 0.125, 0.25, 0.5, 0.75, 1.25, 2.5, 3.0)  # float32 numbers


def anything(r: random.Random, *shapes: Shape) -> Arguments | None:
    return {}


class Use(NamedTuple):
    """One way to use an operator.

    Attributes:
        run: (value or values, **arguments) → value; each value is (N, *).  If there is ``make``, the module that it
            made is called instead.
        draw: (generator, shapes of the values) → arguments, or None if these shapes do not fit.
        takes: how many values it takes.
        make: arguments → the module that holds the weights.
    """

    run: Callable | None = None
    draw: Callable[..., Arguments | None] = anything
    takes: int = 1
    make: Callable[..., nn.Module] | None = None


def of_rank(least: int, most: int, draw: Callable[..., Arguments | None] = anything) -> Callable:
    """Draws arguments if the first value has so many dimensions, without that of the samples."""
    return lambda r, *shapes: draw(r, *shapes) if least <= len(shapes[0]) <= most else None


def dim(r: random.Random, shape: Shape) -> int:
    """A dimension of a value, counted from either side, but not that of the samples."""
    d = r.randint(1, len(shape))
    return d if r.random() < 0.6 else d - len(shape) - 1


def size(shape: Shape, d: int) -> int:
    """The size of a dimension that ``dim`` gave."""
    return shape[d - 1 if d > 0 else d]


def along(draw: Callable[[random.Random, Shape, int, int], Arguments | None]) -> Callable:
    """Draws a dimension ``dim``, and further arguments by (generator, shape, dimension, its size)."""

    def drawn(r: random.Random, *shapes: Shape) -> Arguments | None:
        if not shapes[0]:
            return None
        d = dim(r, shapes[0])
        rest = draw(r, shapes[0], d, size(shapes[0], d))
        return None if rest is None else {"dim": d, **rest}

    return drawn


def alike(draw: Callable[..., Arguments | None] = anything) -> Callable:
    """Draws arguments if all values have one shape."""
    return lambda r, *shapes: draw(r, *shapes) if len(set(shapes)) == 1 else None


def some(r: random.Random, count: int) -> list[int]:
    """Some of the numbers 0 to count − 1, at least one, in order."""
    return sorted(r.sample(range(count), r.randint(1, count)))


def divisor(r: random.Random, n: int) -> int:
    return r.choice([d for d in range(1, n + 1) if n % d == 0])


def folded(r: random.Random, shape: Shape) -> list[int]:
    """Another shape of as many numbers."""
    left, sizes = math.prod(shape), []
    while len(sizes) < 3 and r.random() < 0.7:
        sizes.append(divisor(r, left))
        left //= sizes[-1]
    sizes.append(left)
    r.shuffle(sizes)
    return sizes
