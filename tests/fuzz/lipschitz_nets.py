"""Nets with Lipschitz bounds in ℓ2: those that ``materialise`` makes of layers that are 1-Lipschitz, and plain ones."""

import math
import random

import torch
from torch import Tensor, nn

from linf_plugin import Net, materialise
from linf_plugin.layers.potential import Potential

from .cases import EACH_WEIGHTS, NATURAL, PIXELS, WEIGHTS, Case, begin, inputs
from .nets import almost_tie
from .stack import SHARED, Stack, pairs

# Stages of a net in order.  *: none to two of it, +: one or two.
KINDS = {
    "SLL": "flatten sll+ rows",
    "CPL": "flatten cpl+ rows",
    "AOL": "flatten aol+ rows",
    "circulant": "flatten circulant* circulant-rows",
    "SLL conv": "pad sll-conv+ pool flatten sll* rows",
    "CPL conv": "pad cpl-conv+ pool flatten cpl* rows",
    "AOL conv": "aol-conv+ flatten aol* rows",
    "potential": "flatten potential+ logits",
    "potential conv": "pad potential-conv+ pool flatten potential* logits",
    "mixed": "crop* pad sll-conv potential-conv pool pair-conv flatten circulant cpl aol rows",
    "potential last": "flatten linear potential* last-potential",
    "potentials": "flatten potential potential potential*",  # with as many values as classes, and nothing else rounds
    "ReLU": "flatten relu-linear+ logits",
    "ReLU conv": "conv+ flatten relu-linear* logits",
    "MaxMin": "flatten pair-linear+ logits",
    "MaxMin conv": "pair-conv+ flatten pair-linear* rows",
    "tanh head": "flatten linear tanh logits",
    "linear": "flatten logits",  # where only rounding keeps a radius from being exact
}
RANGES = (*PIXELS, *[(0.0, 1.0)] * 4)  # a file has radii for pixels in [0, 1]


def _bias(s: Stack) -> bool:
    return s.r.random() < 0.8


def _residual(name: str, **drawn):
    """A dense residual layer.  drawn: argument → its choices."""

    def add(s: Stack) -> None:
        arguments = {key: s.r.choice(values) for key, values in drawn.items()}
        s.add(name, features=s.shape[0], inner=s.r.choice((1, 3, 5, 8, 17)), bias=_bias(s), **arguments)

    return add


def _residual_conv(name: str, **drawn):
    def add(s: Stack) -> None:
        kernel = s.r.choice((1, 3, 3, [1, 3], [3, 1]))
        arguments = {key: s.r.choice(values) for key, values in drawn.items()}
        s.add(name, channels=s.shape[0], inner=s.r.randint(1, 4), kernel_size=kernel, bias=_bias(s), **arguments)

    return add


def _aol(s: Stack) -> None:
    s.fully_connected("aol")
    pairs(s)


def _aol_conv(s: Stack) -> None:
    sizes = s.windows(rectangular=False)
    chosen = {key: sizes[key] for key in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "bias")}
    s.add("aol_conv", **chosen)
    pairs(s)


def _circulant(s: Stack) -> None:
    out = s.r.choice((None, s.r.randint(1, s.shape[0])))
    rows = {} if out is None else {"out_features": out}
    s.add("diagonal_circulant", features=s.shape[0], normalized=s.r.random() < 0.7, bias=_bias(s), **rows)
    pairs(s)


def _circulant_rows(s: Stack) -> None:
    """The last layer; where there are fewer values than classes, normalised rows."""
    if s.shape[0] < s.classes:
        _rows(s)
        return
    arguments = {"out_features": s.classes, "normalized": s.r.random() < 0.5, "bias": _bias(s)}
    s.add("diagonal_circulant", features=s.shape[0], **arguments)


def _rows(s: Stack) -> None:
    s.add("normalized_rows", in_features=s.shape[0], out_features=s.classes, bias=s.r.random() < 0.9)


def _last_potential(s: Stack) -> None:
    """No linear layer is last, so one bound holds for all pairs of classes."""
    s.add("linear", in_features=s.shape[0], out_features=s.classes)
    s.add("potential", features=s.classes, inner=s.r.choice((1, 2, s.classes)), bias=_bias(s))


def _pad(s: Stack) -> None:
    s.add("pad_channels", in_channels=s.shape[0], out_channels=s.shape[0] + s.r.randint(0, 3))


def _pool(s: Stack) -> None:
    size = s.r.randint(1, min(3, *s.shape[1:]))
    mean = {"divisor": size**2} if s.r.random() < 0.3 else {}
    s.add("average_pool", channels=s.shape[0], size=size, **mean)


STAGES = {
    **SHARED,
    "sll": _residual("sll"),
    "cpl": _residual("cpl", method=("gram", "svd")),
    "potential": _residual("potential"),
    "sll-conv": _residual_conv("sll_conv"),
    "cpl-conv": _residual_conv("cpl_conv", method=("gram", "norm2toep")),
    "potential-conv": _residual_conv("potential_conv"),
    "aol": _aol,
    "aol-conv": _aol_conv,
    "circulant": _circulant,
    "circulant-rows": _circulant_rows,
    "rows": _rows,
    "last-potential": _last_potential,
    "pad": _pad,
    "pool": _pool,
}


def _spec(r: random.Random, kind: str) -> dict:
    images = "pad" in KINDS[kind] or "conv" in KINDS[kind]
    least = 3 if images else 1
    shape = (r.randint(1, 3), r.randint(least, 6), r.randint(least, 6))
    if not images and r.random() < 0.15:  # long sums
        shape = (1, 16, 16)
    if kind == "potentials":
        shape = (1, 1, r.choice((2, 3, 6, 40)))
    s = Stack(r, shape, math.inf, classes=r.choice((2, 3, 6)))
    if kind != "potentials" and r.random() < 0.7:
        mean = [r.uniform(-1, 1) for _ in range(r.choice((1, shape[0])))]
        s.add("normalize", mean=mean, std=r.choice((1.0, 1.0, 1.0, 0.3, 10 ** r.uniform(-2, 2))))
    s.grow(KINDS[kind], STAGES)
    return {"input_shape": list(shape), "layers": s.layers}


def _natural(layer: nn.Module, h: Tensor) -> None:
    """Weights of usual sizes, and biases as large as typical outputs, so that units of either sign are met."""
    for name, a in layer.named_parameters():
        if name != "bias":
            a.normal_().div_(math.prod(a.shape[1:]) ** 0.5)
    if isinstance(layer, Potential):  # up to √2 the layer is 1-Lipschitz
        size = float(torch.empty(()).uniform_(0.2, 1.7))
        layer.weight.mul_(size / torch.linalg.matrix_norm(layer.weight.flatten(1), 2))
    if getattr(layer, "bias", None) is not None:
        layer.bias.normal_().mul_(0.3 * h.std().nan_to_num(1.0))


@torch.no_grad()
def _fill(net: Net, r: random.Random, weights: str, h: Tensor) -> None:
    """Weights and biases of the layers as they are trained; sometimes with equal rows.  h: typical inputs."""
    for layer in net:
        parts = list(layer.parameters())
        if parts and weights == NATURAL:
            _natural(layer, h)
        for a in parts if weights != NATURAL else ():
            a.copy_(WEIGHTS[weights](r, a))
        if weights != NATURAL and isinstance(layer, (nn.Linear, nn.Conv2d, Potential)):
            layer.weight /= math.prod(layer.weight.shape[1:]) ** r.choice((0.5, 1.0))
        if parts and len(parts[0]) > 1 and r.random() < 0.1:
            for a in parts:
                a[1 % len(a)] = a[0]
        h = layer(h)


def draw(seed: int, index: int, samples: int) -> tuple[Case, random.Random]:
    """The case number ``index`` of this seed, and where to draw on from."""
    r = begin("l2", seed, index)
    kind = list(KINDS)[index % len(KINDS)]
    weights = r.choice(EACH_WEIGHTS)
    trained = Net(_spec(r, kind)).eval().requires_grad_(False)
    low, high = r.choice(RANGES)
    _fill(trained, r, weights, low + (high - low) * torch.rand(32, *trained.input_shape))
    net = materialise(trained).requires_grad_(False)
    x = inputs(r, net.input_shape, r.choice((1, samples, samples)), low, high, torch.zeros(0, *net.input_shape))
    if r.random() < 0.5:
        almost_tie(net, x, r)
    for a in net.parameters():  # a bias overflows if materialise scales it up with a tiny weight
        a.nan_to_num_()
    return Case("l2", kind, f"{weights} weights", None, weights, net, net.spec, low, high, x, x[:0]), r
