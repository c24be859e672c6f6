"""What is bounded: the linear map of a layer, as a convolution of stride 1 and the frequencies that matter for it."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..arguments import check_forward, check_own

FLOATING = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
BOUNDED_PADDINGS = ("zeros", "circular")
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution of images, as ``nn.Conv2d`` computes it, without its bias.

    Attributes:
        weight: (out, in/groups, kh, kw), float16, bfloat16, float32 or float64.
        stride, dilation: a number or (vertical, horizontal), each at least 1.
        padding: a number, (vertical, horizontal), or ((top, bottom), (left, right)), each at least 0; "same", "valid".
        groups: how many groups of channels are convolved apart.
        padding_mode: "zeros" or "circular".
        size: (height, width) of the images, or a number for both; None stands for every size.

    Raises:
        TypeError, ValueError: an attribute is not as described, or an image of this size is smaller than the kernel.
            The message names the attribute.
    """

    weight: Tensor
    stride: int | Pair = 1
    padding: int | str | Pair | tuple[Pair, Pair] = 0
    dilation: int | Pair = 1
    groups: int = 1
    padding_mode: str = "zeros"
    size: int | Pair | None = None

    def __post_init__(self):
        _check_weight(self.weight, 4, "(out, in/groups, kh, kw)")
        self._set("stride", _pair("stride", self.stride, 1))
        self._set("dilation", _pair("dilation", self.dilation, 1))
        self._set("padding", self._sides())
        if self.size is not None:
            self._set("size", _pair("size", self.size, 1))
        if isinstance(self.groups, bool) or not isinstance(self.groups, int) or self.groups < 1:
            raise ValueError(f"groups must be a whole number of at least 1, got {self.groups!r}")
        if self.weight.shape[0] % self.groups:
            raise ValueError(f"groups must divide the {self.weight.shape[0]} outputs of weight, got {self.groups}")
        if self.padding_mode not in BOUNDED_PADDINGS:
            raise ValueError(
                f"padding_mode={self.padding_mode!r}: no bound of the spectral norm is known, only for "
                f"{' and '.join(map(repr, BOUNDED_PADDINGS))}"
            )
        if self.size is not None:
            self._check_size()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _sides(self) -> tuple[Pair, Pair]:
        given = self.padding
        if isinstance(given, str):
            if given not in ("same", "valid"):
                raise ValueError(f"padding must be numbers, 'same' or 'valid', got {given!r}")
            if given == "same" and self.stride != (1, 1):
                raise ValueError(f"padding='same' goes with stride 1, got {self.stride}")
            totals = [0 if given == "valid" else reach for reach in self.reach]
            return tuple((total // 2, total - total // 2) for total in totals)
        if isinstance(given, tuple) and len(given) == 2 and all(isinstance(side, tuple) for side in given):
            return tuple(_pair("padding", side, 0) for side in given)
        return tuple((side, side) for side in _pair("padding", given, 0))

    def _check_size(self) -> None:
        for n, sides, reach in zip(self.size, self.padding, self.reach):
            if n + sum(sides) <= reach:
                raise ValueError(f"size={self.size}: with its padding an image is smaller than the kernel")
            if self.padding_mode == "circular" and max(sides) > n:
                raise ValueError(f"size={self.size}: a circular padding must not be larger than the image")

    @property
    def reach(self) -> Pair:
        """How far the last tap of the kernel is from the first: dilation·(k − 1)."""
        return tuple(d * (k - 1) for d, k in zip(self.dilation, self.weight.shape[2:]))

    @property
    def outputs(self) -> Pair:
        """(height, width) of the output for images of ``size``."""
        return tuple(
            (n + sum(sides) - reach - 1) // s + 1
            for n, sides, reach, s in zip(self.size, self.padding, self.reach, self.stride)
        )


def _pair(name: str, value: object, least: int) -> Pair:
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
        raise TypeError(f"{name} must be a whole number or two of them, got {value!r}")
    if min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return tuple(pair)


def _check_weight(weight: object, dimensions: int, form: str) -> None:
    if not isinstance(weight, Tensor) or str(weight.dtype) not in FLOATING:
        kind = weight.dtype if isinstance(weight, Tensor) else type(weight).__name__
        raise TypeError(f"weight must be a floating-point tensor, got {kind}")
    if weight.layout is not torch.strided:
        raise TypeError(f"weight must be a dense tensor, got layout {weight.layout}")
    if weight.dim() != dimensions:
        raise ValueError(f"weight must have shape {form}, got {tuple(weight.shape)}")
    if weight.numel() == 0:
        raise ValueError(f"weight must not be empty, got shape {tuple(weight.shape)}")


def describe(layer: object, size: int | Pair | None = None) -> Convolution:
    """Returns the linear map of a layer or weight as a convolution.

    A dense map is a convolution of images of one pixel.  A convolution of rows is one of images of height 1.

    Args:
        layer: ``nn.Linear``, ``nn.Conv1d`` or ``nn.Conv2d`` itself, not a subclass, which may compute something else; a
            dense weight (out, in); or a ``Convolution``.
        size: of the images, as for ``Convolution``; for ``nn.Conv1d`` the length.  None: every size.

    Raises:
        TypeError: no bound is known for this type of layer, or it computes something else than its class.
        ValueError: as ``Convolution``, or a size is given for a dense map.
        RuntimeError: the layer has forward hooks.
    """
    if isinstance(layer, Convolution):
        return layer if size is None else replace(layer, size=size)
    if isinstance(layer, nn.Module):
        if type(layer) not in READ:
            known = ", ".join(kind.__name__ for kind in READ)
            raise TypeError(f"no bound of the spectral norm is known for {type(layer).__name__}, only for {known}")
        check_forward(f"the {type(layer).__name__}", layer)
        check_own(f"the {type(layer).__name__}", layer, [a for a in vars(layer) if a == "forward"])
        return READ[type(layer)](layer, size)
    return _dense(layer, size)


def _dense(weight: Tensor, size: object) -> Convolution:
    _check_weight(weight, 2, "(out, in); describe a convolution by spectral.Convolution")
    if size is not None:
        raise ValueError(f"size={size!r}: a dense map has no image")
    return Convolution(weight[:, :, None, None])


def _linear(layer: nn.Linear, size: object) -> Convolution:
    return _dense(layer.weight, size)


def _conv2d(layer: nn.Conv2d, size: int | Pair | None) -> Convolution:
    return Convolution(
        layer.weight, layer.stride, layer.padding, layer.dilation, layer.groups, layer.padding_mode, size
    )


def _conv1d(layer: nn.Conv1d, size: int | None) -> Convolution:
    (stride,), (dilation,) = layer.stride, layer.dilation
    padding = layer.padding if isinstance(layer.padding, str) else ((0, 0), layer.padding * 2)
    if size is not None:
        size = (1, _pair("size", size, 1)[1])
    return Convolution(
        layer.weight[:, :, None], (1, stride), padding, (1, dilation), layer.groups, layer.padding_mode, size
    )


READ = {nn.Linear: _linear, nn.Conv1d: _conv1d, nn.Conv2d: _conv2d}


class Axis(NamedTuple):
    """What one axis of an image asks for.

    phases: the stride by which the axis is folded into channels; 1 leaves it as it is.
    step: the distance of two taps in the frequencies.
    points: the frequencies 2πj/points that matter, or None for the whole circle.
    copies: the output has each position at most so many times.
    whole: the output has each position exactly once, so nothing is lost.
    """

    phases: int
    step: int
    points: int | None
    copies: int
    whole: bool


def axes(map_: Convolution) -> tuple[Axis, Axis]:
    """Returns what both axes ask for, so that ‖A‖₂ ≤ √copies·sup σ₁(F(ω)), with copies and ω over both axes.

    A is the linear map of the layer, and F the symbol of the kernel that ``fold`` makes.  Let r be the reach of the
    kernel, s the stride, n the size, and let the output at q see the pixels q, …, q + r, with q = s·p − low.

    Zeros, every size.  A embeds an image in ℓ2(Z) by zeros, convolves there, and keeps the positions q.  The first
    keeps norms, the last enlarges none, and the convolution has the norm sup σ₁(F) over the circle.  This holds for
    any padding.  A dilation d replaces F(ω) by F(d·ω), with the same supremum.

    Zeros, size n.  Outputs with q < −r or q ≥ n see no pixel.  So let low′ = min(low, r) and high′ = min(high, r), and
    N ≥ n + max(low′, high′).  A is then a part of the circular convolution C of N pixels.  C has at (q, x) the taps
    x − q + j·N, for all whole j.  As x − q lies in [r − high′ − n + 1, n − 1 + low′], x − q + N > r and x − q − N < 0:
    only j = 0 is in the kernel.  There are n + low′ + high′ − r ≤ N positions q, so none comes twice.

    Circular, size n.  A convolves circularly and keeps s·p − low modulo n for p below the number of outputs.  These
    residues repeat with the period n/gcd(s, n), so none comes more than ``copies`` times.  For every size, the
    positions lie in an interval of n + e numbers with e = low + high − r, and n ≥ max(low, high, 1).

    Stride.  If N is a multiple of s, the positions q lie in one class modulo s.  With x = s·m + a, the input of N
    pixels is s inputs of N/s pixels, and C restricted to the class is a convolution of stride 1 of these.  In ℓ2(Z)
    that is so for every s.  Otherwise the stride only leaves positions out.
    """
    sizes = map_.size or (None, None)
    return tuple(
        _axis(*one, map_.padding_mode == "circular")
        for one in zip(sizes, map_.reach, map_.stride, map_.dilation, map_.padding)
    )


def _axis(n: int | None, reach: int, s: int, d: int, sides: Pair, circular: bool) -> Axis:
    if n is None and not circular:
        return Axis(s, 1, None, 1, False)
    if n is None:
        beyond = max(sum(sides) - reach, 0)
        return Axis(1, 1, None, 1 + -(-beyond // max(*sides, 1)), False)
    if not circular:
        most = n + max(min(side, reach) for side in sides)
        return Axis(s, d if s == 1 else 1, -(-most // s), 1, False)
    outputs = (n + sum(sides) - reach - 1) // s + 1
    if n % s:
        period = n // math.gcd(s, n)
        return Axis(1, d, n, -(-outputs // period), False)
    return Axis(s, d if s == 1 else 1, n // s, -(-outputs // (n // s)), outputs == n // s)


def fold(map_: Convolution, wanted: tuple[Axis, Axis]) -> Tensor:
    """Returns the kernel of stride 1, (groups, out/groups, inputs, kh, kw), differentiable in the weight.

    inputs: in/groups times the phases that the taps have.  Phases without taps would be columns of zeros.
    """
    kernel = map_.weight.unflatten(0, (map_.groups, len(map_.weight) // map_.groups))
    for dim, axis, d in zip((-2, -1), wanted, map_.dilation):
        if axis.phases > 1:
            kernel = _folded(kernel, dim, axis.phases, d)
    return kernel


def _folded(kernel: Tensor, dim: int, s: int, d: int) -> Tensor:
    """Folds tap t at position u = d·t into the channel of phase u mod s, at position u // s."""
    places = [divmod(d * t, s) for t in range(kernel.shape[dim])]
    phases = sorted({phase for _, phase in places})
    shape = list(kernel.shape)
    shape[dim] = places[-1][0] + 1
    folded = kernel.new_zeros(len(phases), *shape)
    for t, (place, phase) in enumerate(places):
        folded[phases.index(phase)].select(dim, place).copy_(kernel.select(dim, t))
    return folded.movedim(0, 3).flatten(2, 3)
