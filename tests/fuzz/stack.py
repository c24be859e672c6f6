"""A net that grows layer by layer, by names of stages: what the families of this package's layers share."""

import random
from collections.abc import Callable

import torch

from linf_plugin.models.net import LAYERS


class Stack:
    """Layers so far, and the shape of what they give."""

    def __init__(self, r: random.Random, shape: tuple[int, ...], p: float, classes: int):
        self.r, self.p, self.classes, self.shape, self.layers = r, p, classes, shape, []

    def add(self, name: str, **arguments) -> None:
        self.layers.append([name, arguments])
        with torch.no_grad():
            self.shape = tuple(LAYERS[name](**arguments).eval()(torch.zeros(1, *self.shape)).shape[1:])

    def fully_connected(self, name: str, out: int | None = None, **arguments) -> None:
        out = out or self.r.choice((1, 3, 5, 8, 17))
        self.add(name, in_features=self.shape[0], out_features=out, bias=self.r.random() < 0.8, **arguments)

    def shift(self) -> None:
        if self.r.random() < 0.7:
            self.add("mean_shift", num_features=self.shape[0])

    def sort(self) -> dict:
        return {"rho": self.r.choice((0.05, 0.3, 0.7, 1.0)), "k": self.r.choice((1, 4, 10))}

    def windows(self, rectangular: bool) -> dict:
        """Arguments of a convolution that fits."""
        r, side = self.r, min(self.shape[1:])
        kernel, padding = r.randint(1, min(3, side)), r.randint(0, 1)
        dilation = 2 if kernel == 2 and side > 2 and r.random() < 0.5 else 1
        groups = r.choice([g for g in (1, 1, 2, 3) if self.shape[0] % g == 0])
        sizes = {"kernel_size": kernel, "stride": r.randint(1, 2), "padding": padding, "dilation": dilation}
        if rectangular and r.random() < 0.5:
            sizes["kernel_size"], sizes["stride"] = [r.randint(1, kernel), kernel], [r.randint(1, 2), 1]
        if dilation == 2 and r.random() < 0.5:
            sizes["dilation"] = r.choice(([1, 2], [2, 1]))
        return {
            "in_channels": self.shape[0],
            "out_channels": groups * r.randint(1, 3),
            "groups": groups,
            "bias": r.random() < 0.7,
            **sizes,
        }

    def grow(self, stages: str, table: dict[str, Callable[["Stack"], object]]) -> None:
        """Adds stages, whose names stand in order.  *: none to two of it, +: one or two."""
        for stage in stages.split():
            repeats = {"*": self.r.randint(0, 2), "+": self.r.randint(1, 2)}.get(stage[-1], 1)
            for _ in range(repeats):
                table[stage.rstrip("*+")](self)


def relu_linear(s: Stack) -> None:
    s.fully_connected("linear")
    s.add("relu")


def pairs(s: Stack) -> None:
    """Sorted pairs; of an odd number of channels a ReLU."""
    s.add("relu" if s.shape[0] % 2 else "max_min")


def after_linear(activation: Callable[[Stack], None]) -> Callable[[Stack], None]:
    return lambda s: (s.fully_connected("linear"), activation(s))


def after_conv(activation: Callable[[Stack], None]) -> Callable[[Stack], None]:
    return lambda s: (s.add("conv", **s.windows(rectangular=False)), activation(s))


def conv(s: Stack) -> None:
    s.add("conv", **s.windows(rectangular=False))
    s.add("relu")


def crop(s: Stack) -> None:
    s.add("crop", size=s.r.randint(max(1, min(s.shape[1:]) - 2), min(s.shape[1:])))


def logits(s: Stack) -> None:
    """With a bias: auto_LiRPA 0.3 has no interval bound of a specification after a bare matrix product."""
    s.add("linear", in_features=s.shape[0], out_features=s.classes)


SHARED = {  # name of a stage → what it adds
    "crop": crop,
    "flatten": lambda s: s.add("flatten"),
    "conv": conv,
    "relu-linear": relu_linear,
    "pair-conv": after_conv(pairs),
    "pair-linear": after_linear(pairs),
    "linear": lambda s: s.fully_connected("linear"),
    "tanh": lambda s: s.add("tanh"),
    "logits": logits,
}
