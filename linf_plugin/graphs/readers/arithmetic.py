"""Sums, differences, products and quotients: of two values, and of a value and a constant."""

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from ..operations import TINY, Add, Affine, Multiply, Scale, Shift, normalisation
from ..values import Builder, Size, Unknown, Value
from .moves import Arguments


def number(value: float | int) -> float:
    """Returns a number of the program as float32 arithmetic reads it."""
    if isinstance(value, Size):
        raise Unknown("it computes with the number of samples, so each sample depends on the others")
    return torch.tensor(float(value), dtype=torch.float32).item()


def constant(value, x: Value) -> Tensor:
    """Returns a constant as float64, in a shape that broadcasts to that of one sample of x."""
    if not isinstance(value, Tensor):
        return torch.tensor(number(value), dtype=torch.float64)
    dims, value = len(x.of(1)), value.float().double()  # also whole numbers are read as float32
    if value.dim() < dims:
        return value
    if value.dim() > dims or value.shape[0] != 1:
        raise Unknown(f"its constant has shape {tuple(value.shape)}, which does not treat all samples in the same way")
    return value.squeeze(0) if x.rows is None else value


def matched(b: Builder, x: Value, shapes: list[Callable[[int], tuple[int, ...]]]) -> Value:
    """Returns x, expanded so that it has the shape of the result of an operator on tensors of these shapes."""

    def whole(samples: int) -> tuple[int, ...]:
        return torch.broadcast_shapes(x.of(samples), *(shape(samples) for shape in shapes))

    if all(whole(n) == x.of(n) for n in (2, 3)):
        return x
    return b.move(lambda samples, xs: xs[0].expand(whole(samples)), x)


def with_constant(b: Builder, x: Value, value) -> tuple[Value, Tensor]:
    """Returns x and a constant, so that the constant broadcasts to one sample of x."""
    if isinstance(value, Tensor):
        x = matched(b, x, [lambda _: tuple(value.shape)])
    return x, constant(value, x)


def pair(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    """Returns both values in one shape."""
    x, y = matched(b, x, [y.of]), matched(b, y, [x.of])
    if x.of(2) != y.of(2) or x.rows != y.rows:
        raise Unknown(f"its values have shapes {x.of(2)} and {y.of(2)} for two samples")
    return x, y


def _times(b: Builder, x, factor: float):
    """Returns x times a number of the program, which is mostly 1."""
    if factor == 1:
        return x
    if isinstance(x, Value):
        return b.like(Scale(constant(factor, x), roundings=0 if factor == -1 else 1), x)
    raise Unknown("it scales a constant (alpha): scale it before it is stored")


def _sum(sign: int) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        x, y = a["self"], _times(b, a["other"], a.get("alpha", 1))
        if isinstance(x, Value) and isinstance(y, Value):
            return b.like(Add(sign), *pair(b, x, y))
        if isinstance(x, Value):
            x, c = with_constant(b, x, y)
            return b.like(Shift(sign * c), x)
        y, c = with_constant(b, y, x)
        return b.like(Affine(torch.tensor(float(sign)), torch.zeros(()), c, 1), y)

    return read


def _reversed_difference(b: Builder, a: Arguments) -> Value:
    return _sum(-1)(b, {"self": a["other"], "other": a["self"], "alpha": a["alpha"]})


def _product(b: Builder, a: Arguments) -> Value:
    x, y = a["self"], a["other"]
    if isinstance(x, Value) and isinstance(y, Value):
        return b.like(Multiply(), *pair(b, x, y))
    x, y = (x, y) if isinstance(x, Value) else (y, x)
    x, c = with_constant(b, x, y)
    return b.like(Scale(c, 0 if bool((c.abs() == 1).all()) else 1), x)


def _square(b: Builder, a: Arguments) -> Value:
    if a.get("exponent", 2) != 2:
        raise Unknown(f"its exponent is {a['exponent']}, and only squares are known")
    return b.like(Multiply(), a["self"], a["self"])


def _quotient(b: Builder, a: Arguments) -> Value:
    if isinstance(a["other"], Value):
        raise Unknown("it divides by a value that depends on the input: multiply by constants only")
    if a.get("rounding_mode"):
        raise Unknown("it rounds quotients to whole numbers")
    x, c = with_constant(b, a["self"], a["other"])
    if bool((c.abs() < TINY).any()):
        raise Unknown(f"it divides by {c.abs().min().item():g}, which float32 may take for zero")
    return b.like(Scale(1 / c, 3), x)


def _negative(b: Builder, a: Arguments) -> Value:
    return _times(b, a["self"], -1)


def _batch_norm(b: Builder, a: Arguments) -> Value:
    x = a["input"]
    if a.get("training"):
        raise Unknown("it normalises by the mean of the batch: call model.eval() before certifying")
    if a["running_mean"] is None or a["running_var"] is None:
        raise Unknown("it has no running statistics, so that samples depend on each other")
    if x.rows is not None:
        raise Unknown("the rows of its input are joined with the samples")
    try:
        module = normalisation(
            a["running_mean"], a["running_var"], a["weight"], a["bias"], number(a["eps"]), len(x.shape)
        )
        return b.like(module, x)
    except ValueError as error:
        raise Unknown(str(error)) from error


ARITHMETIC: dict[str, Callable] = {
    "aten.add": _sum(1),
    "aten.sub": _sum(-1),
    "aten.subtract": _sum(-1),
    "aten.rsub": _reversed_difference,
    "aten.mul": _product,
    "aten.multiply": _product,
    "aten.div": _quotient,
    "aten.divide": _quotient,
    "aten.true_divide": _quotient,
    "aten.square": _square,
    "aten.pow": _square,
    "aten.neg": _negative,
    "aten.negative": _negative,
    "aten.batch_norm": _batch_norm,
    "aten._native_batch_norm_legit_no_training": lambda b, a: [_batch_norm(b, a)],
}

# What a program computes with sizes, such as the number of samples.
OF_SIZES: dict[str, Callable] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "floordiv": operator.floordiv,
    "neg": operator.neg,
}
