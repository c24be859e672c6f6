"""The operations of a graph that are no layers of torch or of this package.

An operation is a module that maps values (N, *) to one value (N, *), and treats every sample by itself.  It is the
exact function: all constants are float64, and those that a float32 program holds are the same numbers.  ``index``
arguments count the numbers of one sample: of all inputs, flattened and joined.
"""

import math

import torch
from torch import Tensor, nn

TINY = 2.0**-100  # float32 may take a smaller denominator, or its root, for zero


def joined(xs: tuple[Tensor, ...]) -> Tensor:
    """Returns the numbers of each sample in a row: (N, *) each → (N, numbers)."""
    rows = [x.reshape(len(x), math.prod(x.shape[1:])) for x in xs]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


class Gather(nn.Module):
    """Moves numbers: output j of a sample is its number ``index[j]``, or 0 where ``index[j]`` is −1.

    It stands for reshape, permute, slice, index, concatenate, expand, pad with zeros and all that only moves numbers.

    Args:
        index: (*shape) int64.
    """

    def __init__(self, index: Tensor):
        super().__init__()
        self.register_buffer("index", index)
        self.padded = bool((index < 0).any())

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an output, without the dimension of the samples."""
        return tuple(self.index.shape)

    def in_order(self, numbers: int) -> bool:
        """Returns whether every number keeps its place, so that only the shape changes."""
        flat = self.index.flatten()
        return len(flat) == numbers and torch.equal(flat, torch.arange(numbers, device=flat.device))

    def forward(self, *xs: Tensor) -> Tensor:
        x = joined(xs)
        y = x[:, self.index.flatten()]  # where the index is −1, it takes the last number, which is replaced below
        if self.padded:
            y = torch.where(self.index.flatten() < 0, torch.zeros((), dtype=x.dtype, device=x.device), y)
        return y.view(len(x), *self.index.shape)


class Average(nn.Module):
    """Adds up numbers and divides: output j is Σ_i of the numbers ``index[j, i]``, divided by ``divisor[j]``.

    Args:
        index: (*shape, terms) int64; −1 stands for 0.
        divisor: (*shape), positive integers as float64; all 1 for a sum.
    """

    def __init__(self, index: Tensor, divisor: Tensor):
        super().__init__()
        self.gather = Gather(index)
        self.register_buffer("divisor", divisor.double())
        self.terms = index.shape[-1]

    def forward(self, *xs: Tensor) -> Tensor:
        return self.gather(*xs).sum(-1) / self.divisor.to(xs[0].dtype)


class Largest(nn.Module):
    """Takes the largest of some numbers: output j is max_i of the numbers ``index[j, i]``; with ``sign`` −1 the least.

    Args:
        index: (*shape, numbers) int64, without −1; a number may come twice.
        sign: 1 or −1.
    """

    def __init__(self, index: Tensor, sign: int = 1):
        super().__init__()
        self.gather, self.sign = Gather(index), sign

    def forward(self, *xs: Tensor) -> Tensor:
        among = self.gather(*xs)
        return among.amax(-1) if self.sign > 0 else among.amin(-1)


class Add(nn.Module):
    """x + sign·y, for values of one shape; ``sign`` is 1 or −1.

    Attributes:
        fused: how often the float32 program rounds a term, at most, if a runtime computes this sum and the product of
            matrices before it as one sum; 0 if there is none.
    """

    def __init__(self, sign: int = 1):
        super().__init__()
        self.sign, self.fused = sign, 0

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y if self.sign > 0 else x - y


class Multiply(nn.Module):
    """x·y, number by number, for values of one shape."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class Affine(nn.Module):
    """factor·(x − centre) + offset, number by number, computed in float32 in one of several forms.

    Args:
        factor, centre, offset: float64, each broadcasts to the shape of a sample.
        roundings: how often the float32 program rounds a term, at most.  0: x is only negated.
        fused: the same if a runtime folds this operation into the product of matrices before it; 0 if there is none.
        last: the largest number that an intermediate result may still be multiplied with, besides ``factor`` and 1.
    """

    def __init__(self, factor: Tensor, centre: Tensor, offset: Tensor, roundings: int):
        super().__init__()
        for name, a in (("factor", factor), ("centre", centre), ("offset", offset)):
            self.register_buffer(name, a.double())
        self.roundings, self.fused, self.last = roundings, 0, 0.0

    def forward(self, x: Tensor) -> Tensor:
        factor, centre, offset = (a.to(x.dtype) for a in (self.factor, self.centre, self.offset))
        return factor * (x - centre) + offset


class Shift(Affine):
    """x + offset: rounded once."""

    def __init__(self, offset: Tensor):
        one = torch.ones((), dtype=torch.float64, device=offset.device)
        super().__init__(one, torch.zeros_like(one), offset, 1)


class Scale(Affine):
    """factor·x: rounded once, or three times if the program divides by 1/factor."""

    def __init__(self, factor: Tensor, roundings: int = 1):
        zero = torch.zeros((), dtype=torch.float64, device=factor.device)
        super().__init__(factor, zero, zero, roundings)


def normalisation(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, dimensions: int
) -> Affine:
    """Returns weight·(x − mean)/√(variance + eps) + bias: batch normalisation in evaluation mode.

    Args:
        mean, variance, weight, bias: one number for each channel; no weight is 1, and no bias is 0.
        eps: the number that the exact function has.
        dimensions: of one sample; its first dimension is that of the channels.

    Raises:
        ValueError: a variance plus eps is so small that float32 may take it, or its root, for zero.
    """
    mean, variance = mean.double(), variance.double() + eps
    if not bool((variance > TINY).all()):
        raise ValueError(f"a variance plus eps is {variance.min().item():g}, and float32 has no good root of it")
    weight = torch.ones_like(mean) if weight is None else weight.double()
    bias = torch.zeros_like(mean) if bias is None else bias.double()
    root = variance.sqrt()
    factor, centre, offset = (a.view(-1, *[1] * (dimensions - 1)) for a in (weight / root, mean, bias))
    module = Affine(factor, centre, offset, 12)
    module.last = torch.maximum(weight.abs().max(), (1 / root).max()).item()  # in either order
    return module


class Clamp(nn.Module):
    """min(max(x, low), high); an end may be infinite."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(None if self.low == -math.inf else self.low, None if self.high == math.inf else self.high)


class Limit(nn.Module):
    """max(x, end) if ``sign`` is 1, min(x, end) if it is −1.

    Args:
        end: float64, broadcasts to the shape of a sample.
        sign: 1 or −1.
    """

    def __init__(self, end: Tensor, sign: int):
        super().__init__()
        self.register_buffer("end", end.double())
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        end = self.end.to(x.dtype)
        return torch.maximum(x, end) if self.sign > 0 else torch.minimum(x, end)


class Slope(nn.Module):
    """x where x ≥ 0, else slope·x, with slope ≥ 0: LeakyReLU, and PReLU, which has one slope a channel.

    Args:
        slope: float64, broadcasts to the shape of a sample.
    """

    def __init__(self, slope: Tensor):
        super().__init__()
        self.register_buffer("slope", slope.double())

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, self.slope.to(x.dtype) * x)


class Elu(nn.Module):
    """x where x ≥ 0, else alpha·(eˣ − 1), with 0 ≤ alpha ≤ 1, for which the function is convex."""

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, x, self.alpha * torch.expm1(x.clamp_max(0)))


class Softplus(nn.Module):
    """log(1 + e^{beta·x})/beta, with beta > 0.  The float32 program returns x where beta·x > threshold."""

    def __init__(self, beta: float, threshold: float):
        super().__init__()
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Tensor) -> Tensor:
        t = self.beta * x
        return (t.clamp_min(0) + torch.log1p(torch.exp(-t.abs()))) / self.beta
