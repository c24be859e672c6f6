"""Functions of each number by itself."""

import math
from collections.abc import Callable

from torch import Tensor, nn

from ..operations import Clamp, Elu, Largest, Scale, Slope, Softplus
from ..values import Builder, Unknown, Value
from .arithmetic import constant, number
from .moves import Arguments


def _of(make: Callable[[], nn.Module]) -> Callable[[Builder, Arguments], Value]:
    return lambda b, a: b.like(make(), a["self"])


def _clamp(low: str | None, high: str | None) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        ends = []
        for name, default in ((low, -math.inf), (high, math.inf)):
            end = a.get(name) if name else None
            if isinstance(end, Tensor) and end.numel() != 1:
                raise Unknown("its ends are tensors: give it numbers")
            ends.append(default if end is None else number(end))
        if not ends[0] <= ends[1]:
            raise Unknown(f"its ends {ends[0]:g} and {ends[1]:g} are not in order")
        return b.like(Clamp(*ends), a["self"])

    return read


def _slope(b: Builder, x: Value, slope: Tensor) -> Value:
    if not bool((slope >= 0).all()):
        raise Unknown(f"a slope is {slope.min().item():g}: it must be at least 0")
    return b.like(Slope(slope), x)


def _leaky_relu(b: Builder, a: Arguments) -> Value:
    return _slope(b, a["self"], constant(a["negative_slope"], a["self"]))


def _prelu(b: Builder, a: Arguments) -> Value:
    x, slope = a["self"], a["weight"].double().flatten()
    if x.rows is not None and slope.numel() > 1:
        raise Unknown("the rows of its input are joined with the samples")
    return _slope(b, x, slope.view(-1, *[1] * (len(x.shape) - 1)) if slope.numel() > 1 else slope.view(()))


def _elu(b: Builder, a: Arguments) -> Value:
    alpha = number(a["alpha"])
    if (a["scale"], a["input_scale"]) != (1, 1) or not 0 <= alpha <= 1:
        raise Unknown("an ELU is known for 0 ≤ alpha ≤ 1 and scales of 1, where it is convex")
    return b.like(Elu(alpha), a["self"])


def _softplus(b: Builder, a: Arguments) -> Value:
    beta, threshold = number(a["beta"]), number(a["threshold"])
    if not (2.0**-20 <= beta <= 2.0**20 and 10 <= threshold <= 80):
        raise Unknown("a softplus is known for beta from 2⁻²⁰ to 2²⁰ and a threshold from 10 to 80")
    return b.like(Softplus(beta, threshold), a["self"])


def _absolute(b: Builder, a: Arguments) -> Value:
    x = a["self"]
    opposite = b.like(Scale(constant(-1, x), roundings=0), x)
    index, _ = b.index(lambda samples, xs: xs[0], (x,))
    return b.like(Largest(index.unsqueeze(-1).repeat_interleave(2, -1) + index.new_tensor([0, x.numbers])), x, opposite)


FUNCTIONS: dict[str, Callable] = {
    "aten.relu": _of(nn.ReLU),
    "aten.tanh": _of(nn.Tanh),
    "aten.sigmoid": _of(nn.Sigmoid),
    "aten.relu6": lambda b, a: b.like(Clamp(0.0, 6.0), a["self"]),
    "aten.hardtanh": _clamp("min_val", "max_val"),
    "aten.clamp": _clamp("min", "max"),
    "aten.clip": _clamp("min", "max"),
    "aten.clamp_min": _clamp("min", None),
    "aten.clamp_max": _clamp(None, "max"),
    "aten.leaky_relu": _leaky_relu,
    "aten.prelu": _prelu,
    "aten._prelu_kernel": _prelu,
    "aten.elu": _elu,
    "aten.softplus": _softplus,
    "aten.abs": _absolute,
}
