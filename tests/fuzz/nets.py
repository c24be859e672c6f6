"""Sequences of this package's layers, as data: kinds, exponents, sizes of weights, ties; and inputs at their kinks."""

import math
import random

import torch
from torch import Tensor, nn

from linf_plugin import Net, Normalize, ParamRamp
from linf_plugin.layers.base import distance_layers
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.models.net import LAYERS

from .cases import EACH_WEIGHTS, NATURAL, PIXELS, WEIGHTS, Case, begin, inputs, steps_to_a_tie
from .stack import SHARED, Stack, after_conv, after_linear

# Stages of a net in order.  *: none to two of it, +: one or two.
KINDS = {
    "dist": "flatten dist* distances",
    "sort": "flatten dist sort* sorted-sums",
    "dist-conv": "dist-conv+ flatten dist* distances",
    "dist → linear": "flatten dist+ logits",
    "dist → tanh head": "flatten dist sort* linear tanh logits",
    "dist-conv → tanh head": "dist-conv+ flatten linear tanh logits",
    "dist-conv → conv": "dist-conv+ conv flatten logits",
    "conv/ReLU → dist": "conv flatten dist* distances",
    "conv/ReLU → dist-conv": "conv dist-conv flatten distances",
    "linear/ReLU → dist": "flatten relu-linear+ dist* distances",
    "ReLU conv": "conv+ flatten relu-linear* logits",
    "ReLU": "flatten relu-linear+ logits",
    "crops": "crop* dist-conv crop+ flatten dist* distances",
    "linear": "flatten logits",  # where linear bounds have nothing to relax
    "ramp conv": "ramp-conv+ flatten ramp-linear* logits",
    "pairs conv": "pair-conv+ flatten pair-linear* logits",
    "batch norm conv": "norm-conv+ flatten norm-linear* logits",
}
NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d)
EXPONENTS = (math.inf, 2.0, math.inf, 100.0, 8.0, 1.0, 64.55)  # in turn


def _distances(s: Stack) -> None:
    s.fully_connected("dist", s.classes, p=s.p)
    if s.r.random() < 0.8:
        s.add("negate")


def _sorted_sums(s: Stack) -> None:
    s.fully_connected("sort_dist", s.classes, **s.sort())
    s.add("negate")


def _ramp(s: Stack) -> None:
    s.add("ramp", num_features=s.shape[0])


def _norm(s: Stack) -> None:
    s.add("batch_norm" if len(s.shape) == 3 else "batch_norm_rows", num_features=s.shape[0])
    s.add("relu")


def _dist_conv(s: Stack) -> None:
    s.add("dist_conv", p=s.p, **s.windows(rectangular=True))
    s.shift()


STAGES = {
    **SHARED,
    "dist": lambda s: (s.fully_connected("dist", p=s.p), s.shift()),
    "sort": lambda s: (s.fully_connected("sort_dist", **s.sort()), s.shift()),
    "dist-conv": _dist_conv,
    "ramp-conv": after_conv(_ramp),
    "ramp-linear": after_linear(_ramp),
    "norm-conv": after_conv(_norm),
    "norm-linear": after_linear(_norm),
    "distances": _distances,
    "sorted-sums": _sorted_sums,
}


def _spec(r: random.Random, kind: str, p: float) -> dict:
    images = "conv" in kind or kind == "crops"
    least = 3 if images else 1
    shape = (r.randint(1, 3), r.randint(least, 6), r.randint(least, 6))
    if not images and r.random() < 0.15:  # long sums
        shape = (1, 16, r.choice((16, 48)))
    s = Stack(r, shape, p, classes=r.choice((2, 3, 6)))
    far = r.choice((0.0, 1.0, 1.0))
    mean = [far * r.uniform(-1, 1) for _ in range(r.choice((1, shape[0])))]
    s.add("normalize", mean=mean, std=r.choice((1.0, 1.0, 0.3, 10 ** r.uniform(-2, 2))))
    s.grow(KINDS[kind], STAGES)
    return {"input_shape": list(shape), "layers": s.layers}


def _natural(layer: nn.Module, h: Tensor) -> None:
    """Weights among the inputs h that the layer meets, so that its outputs and its margins depend on them."""
    if isinstance(layer, MeanShift):
        layer.running_mean.copy_(h.transpose(0, 1).flatten(1).mean(1))
        return
    if isinstance(layer, ParamRamp):
        layer.top.uniform_(0, 1).mul_(h.std())
        return
    if isinstance(layer, NORMALISATIONS):
        layer.running_mean.copy_(h.transpose(0, 1).flatten(1).mean(1))
        layer.weight.normal_()
        layer.bias.normal_()
        return
    centre, spread = (h.mean(), h.std()) if layer in distance_layers(layer) else (0.0, 1.0)
    layer.weight.normal_().mul_(spread).add_(centre)
    if layer.bias is not None:
        layer.bias.normal_().mul_(0.1 * h.std())


@torch.no_grad()
def _fill(net: Net, r: random.Random, weights: str, h: Tensor) -> None:
    """Weights, biases and means; sometimes with equal rows.  h: typical inputs."""
    for layer in net:
        parts = [
            *layer.parameters(),
            *([layer.running_mean] if isinstance(layer, (MeanShift, *NORMALISATIONS)) else []),
        ]
        if parts and weights == NATURAL:
            _natural(layer, h)
        for a in parts if weights != NATURAL else ():
            a.copy_(WEIGHTS[weights](r, a))
        if isinstance(layer, NORMALISATIONS):
            layer.running_var.uniform_(0.1, 2)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            layer.weight /= math.prod(layer.weight.shape[1:]) ** r.choice((0.5, 1.0))
        if parts and len(parts[0]) > 1 and r.random() < 0.1:
            for a in parts:
                a[1] = a[0]
        h = layer(h)


def pixels_at(net: Net, rows: Tensor) -> Tensor:
    """Pixels that ``net``'s normalisation takes to about ``rows``: exactly where it neither shifts nor scales."""
    first = next(layer for layer in net if isinstance(layer, Normalize))
    return rows / first.scale + first.mean.view(-1, 1, 1)


def weight_images(net: Net) -> Tensor:
    """(K, C, H, W) pixels at which first distances are 0; K = 0 where the first layer is no full distance."""
    first = next((layer for layer in net if any(True for _ in layer.parameters())), None)
    if first in distance_layers(net) and first.weight.dim() == 2:
        return pixels_at(net, first.weight.detach().view(-1, *net.input_shape))
    return torch.zeros(0, *net.input_shape)


@torch.no_grad()
def almost_tie(net: Net, x: Tensor, r: random.Random) -> None:
    """Moves a bias of the logits so that the first sample's margin is a few float32 steps."""
    last = [layer for layer in net if getattr(layer, "bias", None) is not None]
    z = net(x[:1])[0]
    if not last or len(last[-1].bias) != len(z) or not z.isfinite().all():
        return
    (first, second), (_, other) = z.topk(2)
    steps = steps_to_a_tie(r) * 2.0**-23 * z.abs().max()
    sign = -1 if type(net[-1]) is LAYERS["negate"] else 1
    last[-1].bias[other] += sign * (first - second - steps)


def build(source: dict) -> Net:
    """The net of a violation, from its JSON, with weights that are still to be loaded."""
    layers = [
        [name, {key: float(v) if key == "p" else v for key, v in arguments.items()}]
        for name, arguments in source["layers"]
    ]
    return Net({**source, "layers": layers}).eval().requires_grad_(False)


def draw(seed: int, index: int, samples: int) -> tuple[Case, random.Random]:
    """The case number ``index`` of this seed, and where to draw on from."""
    r = begin("layers", seed, index)
    kind = list(KINDS)[index % len(KINDS)]
    p = EXPONENTS[(index + index // len(KINDS)) % len(EXPONENTS)]
    weights = r.choice(EACH_WEIGHTS)
    net = Net(_spec(r, kind, p)).eval().requires_grad_(False)
    low, high = r.choice(PIXELS)
    _fill(net, r, weights, low + (high - low) * torch.rand(32, *net.input_shape))
    kinks = weight_images(net)
    x = inputs(r, net.input_shape, r.choice((1, samples, samples)), low, high, kinks)
    if r.random() < 0.5:
        almost_tie(net, x, r)
    p = p if "dist" in kind or kind in ("sort", "crops") else None
    sort = "no p" if p is None else f"p = {p:g}"
    return Case("layers", kind, sort, p, weights, net, net.spec, low, high, x, weight_images(net)), r
