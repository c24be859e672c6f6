"""Nets as people bring them: classes with a forward of their own, at sizes that are small and odd."""

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, SortDistLinear

from .cases import Case, begin, finish
from .uses.use import Shape


def _block(channels: int, out: int, stride: int = 1, kernel: int = 3, **options) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


class Head(nn.Module):
    """The end of a net: everything in one row, and one linear layer."""

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, h: Tensor) -> Tensor:
        return self.linear(h.flatten(1))


class Net(nn.Module):
    """A body that maps (N, *shape) to values, and a head."""

    def __init__(self, shape: Shape, classes: int, **sizes):
        super().__init__()
        self.shape = tuple(shape)
        self.make(self.shape, **sizes)
        with torch.no_grad():
            features = self.eval().body(torch.zeros(2, *self.shape))[0].numel()
        self.head = Head(features, classes)

    def make(self, shape: Shape, **sizes) -> None:
        raise NotImplementedError

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Cnn7(Net):
    """The CNN7 of certified training (five convolutions, two linear layers, all with BatchNorm), narrow."""

    def make(self, shape, width):
        w = width
        self.convolutions = nn.Sequential(
            _block(shape[0], w), _block(w, w), _block(w, 2 * w, 2), _block(2 * w, 2 * w), _block(2 * w, 2 * w)
        )
        features = 2 * w * -(-shape[1] // 2) * -(-shape[2] // 2)
        self.linear, self.norm = nn.Linear(features, 9), nn.BatchNorm1d(9)

    def body(self, x):
        return F.relu(self.norm(self.linear(torch.flatten(self.convolutions(x), 1))))


class Basic(nn.Module):
    """The block of a ResNet: two convolutions with BatchNorm beside the identity or a convolution of one pixel."""

    def __init__(self, channels: int, out: int, stride: int, first_norm: bool):
        super().__init__()
        self.first_norm = first_norm
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels if first_norm else out)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = None
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        beside = x if self.shortcut is None else self.shortcut(x)
        if self.first_norm:
            h = self.conv1(F.relu(self.bn1(x)))
            return self.conv2(F.relu(self.bn2(h))) + beside
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = self.bn2(self.conv2(h))
        h += beside
        return F.relu(h)


class ResNet(Net):
    def make(self, shape, width, first_norm):
        self.stem = _block(shape[0], width)
        self.blocks = nn.Sequential(Basic(width, width, 1, first_norm), Basic(width, 2 * width, 2, first_norm))
        self.pool = nn.AdaptiveAvgPool2d((1, 1))

    def body(self, x):
        h = self.pool(self.blocks(self.stem(x)))
        return h.view(h.size(0), -1)


class Dense(Net):
    """Each layer takes all values before it, joined."""

    def make(self, shape, growth, depth):
        channels = [shape[0] + growth * i for i in range(depth)]
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(c, growth, 3, padding=1) for c in channels)
        self.transition = nn.Conv2d(channels[-1] + growth, 3, 1)

    def body(self, x):
        values = [x]
        for norm, conv in zip(self.norms, self.convolutions):
            values.append(conv(F.relu(norm(torch.cat(values, 1)))))
        return F.avg_pool2d(self.transition(torch.cat(values, 1)), 2)


class Inception(Net):
    """Branches with different windows, joined."""

    def make(self, shape, width):
        self.one, self.three = _block(shape[0], width, kernel=1), _block(shape[0], width)
        self.five = nn.Sequential(_block(shape[0], 2, kernel=1), _block(2, width, kernel=5))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(shape[0], width, 1))

    def body(self, x):
        h = torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), dim=1)
        return h[:, 1:].amax((2, 3))


class MaxPools(Net):
    def make(self, shape, width, ceil):
        self.conv, self.next = nn.Conv2d(shape[0], width, 3, padding=1), nn.Conv2d(width, width, 2, padding=1)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=ceil)
        self.overlapping = nn.MaxPool2d(2, 1, dilation=2 if min(shape[1:]) > 4 else 1)

    def body(self, x):
        return self.pool(self.next(F.relu(self.overlapping(self.conv(x)))))


class AveragePools(Net):
    def make(self, shape, width, ceil, whole):
        self.conv, self.next = nn.Conv2d(shape[0], width, 3, padding=1), nn.Conv2d(width, width, 2, padding=1)
        self.pool = nn.AvgPool2d(3, 2, 1, ceil_mode=ceil, count_include_pad=whole)
        self.summing = nn.AvgPool2d((1, 2), (1, 2))

    def body(self, x):
        return self.pool(F.relu(self.next(self.summing(F.relu(self.conv(x))))))


class AdaptivePools(Net):
    def make(self, shape, width):
        self.conv, self.next = nn.Conv2d(shape[0], width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)

    def body(self, x):
        h = F.relu(self.conv(x))
        h = F.adaptive_max_pool2d(h, (3, 4)) + F.adaptive_avg_pool2d(h, (3, 4))
        h = self.next(h)
        return torch.cat([F.adaptive_avg_pool2d(h, 1), F.adaptive_max_pool2d(h, 1)], 1)


class Leaky(Net):
    def make(self, shape, width, slope):
        self.conv, self.leaky = nn.Conv2d(shape[0], width, 3), nn.LeakyReLU(slope)
        self.each, self.one = nn.PReLU(width), nn.PReLU()
        self.next = nn.Conv2d(width, width, 2)

    def body(self, x):
        return self.one(self.next(self.leaky(self.each(self.conv(x)))))


class Mobile(Net):
    """Inverted bottlenecks: depthwise convolutions and ReLU6."""

    def make(self, shape, width):
        c, w = shape[0], 2 * width
        self.expand = nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.BatchNorm2d(w), nn.ReLU6(inplace=True))
        self.depthwise = nn.Sequential(
            nn.Conv2d(w, w, 3, 1, 1, groups=w, bias=False), nn.BatchNorm2d(w), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(w, c, 1, bias=False), nn.BatchNorm2d(c))

    def body(self, x):
        return F.hardtanh(x + self.project(self.depthwise(self.expand(x))), -2.0, 3.0)


class Smooth(Net):
    """A perceptron with a smooth activation."""

    ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "elu": nn.ELU,
        "small elu": lambda: nn.ELU(0.3),
        "softplus": nn.Softplus,
        "steep softplus": lambda: nn.Softplus(beta=5.3, threshold=15),
    }

    def make(self, shape, width, activation):
        features = torch.Size(shape).numel()
        self.layers = nn.ModuleList([nn.Linear(features, width), nn.Linear(width, width)])
        self.norm, self.activation = nn.BatchNorm1d(width), self.ACTIVATIONS[activation]()

    def body(self, x):
        h = self.activation(self.norm(self.layers[0](x.reshape(x.shape[0], -1))))
        return self.activation(self.layers[1](h)) + h


class GroupSort(Net):
    """Values are sorted in groups; or each half keeps the larger and the smaller of two."""

    def make(self, shape, width, group):
        features = torch.Size(shape).numel()
        self.group = group
        self.layers = nn.ModuleList([nn.Linear(features, 6 * width), nn.Linear(6 * width, 6 * width)])

    def body(self, x):
        h = self.layers[0](x.flatten(1))
        h = h.view(-1, h.shape[1] // self.group, self.group).sort(dim=-1).values.flatten(1)
        a, b = self.layers[1](h).split(h.shape[1] // 2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


class Autoencoder(Net):
    """Down by convolutions, up by transposed ones, beside the image itself."""

    def make(self, shape, width):
        c = shape[0]
        self.down, self.norm = nn.Conv2d(c, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.up = nn.ConvTranspose2d(width, c, 3, 2, 1, output_padding=[1 - n % 2 for n in shape[1:]])
        self.after = nn.BatchNorm2d(c)

    def body(self, x):
        return x - self.after(self.up(F.relu(self.norm(self.down(x)))))


class Unet(Net):
    def make(self, shape, width):
        c = shape[0]
        self.first, self.middle = _block(c, width), _block(width, 2 * width)
        self.up, self.last = nn.ConvTranspose2d(2 * width, width, 2, 2), nn.Conv2d(2 * width, 2, 1)

    def body(self, x):
        skip = self.first(x)
        deep = self.middle(F.max_pool2d(skip, 2))
        up = F.pad(self.up(deep), (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        near = F.interpolate(deep[:, ::2], size=x.shape[2:], mode="nearest")
        return self.last(torch.cat([skip, up], 1)) * 0.5 + near.mean(1, keepdim=True)


class Signal(Net):
    """(N, T) or (N, C, T): convolutions of one dimension."""

    def make(self, shape, width, dilation):
        c = shape[0] if len(shape) > 1 else 1
        self.conv, self.norm = nn.Conv1d(c, width, 3, padding=dilation, dilation=dilation), nn.BatchNorm1d(width)
        self.next = nn.Conv1d(width, width, 2, stride=2, groups=width)
        self.up = nn.ConvTranspose1d(width, 2, 2, stride=2)

    def body(self, x):
        h = x if x.dim() == 3 else x.unsqueeze(1)
        h = F.relu(self.norm(self.conv(h)))
        return self.up(F.leaky_relu(self.next(F.max_pool1d(h, 2, 1)), 0.2))


class Grouped(Net):
    """Groups, dilations, unequal strides and a shuffle of channels."""

    def make(self, shape, width):
        c = 2 * width
        self.first = nn.Conv2d(shape[0], c, (3, 2), padding=(1, 1))
        self.grouped = nn.Conv2d(c, c, 3, padding=2, dilation=2, groups=2)
        self.depthwise = nn.Conv2d(c, 2 * c, (2, 3), (2, 1), groups=c, bias=False)
        self.norm = nn.BatchNorm2d(2 * c)

    def body(self, x):
        h = F.relu(self.first(x))
        h = torch.channel_shuffle(F.relu(self.grouped(h)), 2)
        return F.relu(self.norm(self.depthwise(h)))


class Gated(Net):
    """Two branches multiplied: a gate for each channel, and one for each number."""

    def make(self, shape, width):
        self.conv, self.norm = nn.Conv2d(shape[0], width, 3, padding=1), nn.BatchNorm2d(width)
        self.squeeze, self.excite = nn.Linear(width, 2), nn.Linear(2, width)
        self.value, self.gate = nn.Conv2d(width, 2, 1), nn.Conv2d(width, 2, 1)

    def body(self, x):
        h = F.relu(self.norm(self.conv(x)))
        s = torch.sigmoid(self.excite(F.relu(self.squeeze(h.mean((2, 3))))))
        h = h * s[:, :, None, None]
        return self.value(h) * torch.tanh(self.gate(h))


class Mixer(Net):
    """(N, T, F): layers along the features, and along the time."""

    def make(self, shape, width):
        time, features = shape
        self.along_features, self.along_time = nn.Linear(features, width), nn.Linear(time, time)
        self.back, self.norm = nn.Linear(width, features), nn.BatchNorm1d(time)

    def body(self, x):
        n, t, f = x.shape
        h = self.back(F.relu(self.along_features(x.reshape(n * t, f)))).reshape(n, t, f) + x
        h = self.norm(h) + self.along_time(h.transpose(1, 2)).permute(0, 2, 1)
        return torch.cat([h.mean(1), h.amax(dim=1)], -1)


class Mixed(Net):
    """Convolutions with BatchNorm, and distances beside the identity."""

    def make(self, shape, width, p):
        self.stem, self.p = _block(shape[0], width), float(p)
        self.windows = LinfDistConv2d(width, width, 3, padding=1, p=self.p)
        features = width * -(-shape[1] // 2) * -(-shape[2] // 2)
        self.dist, self.again = LinfDistLinear(features, 6, p=self.p), LinfDistLinear(6, 6, p=self.p)
        self.sorted = SortDistLinear(6, 5, rho=0.3, k=4)

    def body(self, x):
        h = self.stem(x)
        h = F.avg_pool2d(h - self.windows(h), 2, ceil_mode=True)
        d = self.dist(h.flatten(1))
        return torch.cat([self.sorted(d + self.again(d)), -d], 1)


class Shared(Net):
    """One layer used several times, as if it were unrolled in time."""

    def make(self, shape, width, steps):
        features = torch.Size(shape).numel()
        self.enter, self.step, self.norm = nn.Linear(features, width), nn.Linear(width, width), nn.BatchNorm1d(width)
        self.steps = steps

    def body(self, x):
        start = self.enter(x.flatten(1))
        h = start
        for _ in range(self.steps):
            h = F.relu(self.norm(self.step(h)) + start)
        return h


class Heads(Net):
    """Several heads, of which one is chosen; pixels are normalised by buffers; an auxiliary head is not used."""

    def make(self, shape, width):
        self.register_buffer("constant", torch.randn(shape[0], 1, 1))
        self.register_buffer("divisor", torch.ones(1, shape[0], 1, 1))
        self.conv = nn.Conv2d(shape[0], width, 3, 2, 1)
        features = width * -(-shape[1] // 2) * -(-shape[2] // 2)
        self.heads = nn.ModuleList(nn.Linear(features, 5) for _ in range(3))

    def body(self, x):
        h = F.relu(self.conv((x - self.constant) / self.divisor)).flatten(1)
        unused, chosen, other = (head(h) for head in self.heads)
        return torch.stack([chosen, other], 2)[:, :, 0].clamp(min=-1.5)


class Tabular(Net):
    """Rows of numbers, with columns chosen by constants, in place."""

    def make(self, shape, width):
        (features,) = shape
        self.register_buffer("columns", torch.arange(features - 1, -1, -2))
        self.layers = nn.Sequential(nn.Linear(features, width), nn.BatchNorm1d(width), nn.Dropout(0.4))
        self.beside = nn.Linear(len(self.columns), width)

    def body(self, x):
        h = self.layers(x).add_(self.beside(x[:, self.columns]))
        return h.clamp_(-3, 5).relu_() * 0.7


class Borders(Net):
    """Images that go on at their borders as a mirror; pixels that become channels, and back."""

    def make(self, shape, width):
        self.reflected = nn.Conv2d(shape[0], 4 * width, 3, padding=1, padding_mode="reflect")
        self.shuffle, self.pad = nn.PixelShuffle(2), nn.ReplicationPad2d((0, 1, 1, 0))
        self.next = nn.Conv2d(width, 2, 3, 2)

    def body(self, x):
        h = self.pad(self.shuffle(F.elu(self.reflected(x))))
        return self.next(torch.roll(h, 1, 3).flip(2)).abs()


class Maxout(Net):
    def make(self, shape, width, pieces):
        features = torch.Size(shape).numel()
        self.linear, self.pieces = nn.Linear(features, width * pieces), pieces
        self.next = nn.Linear(width, width * pieces)

    def body(self, x):
        h = self.linear(x.flatten(1)).reshape(-1, self.next.in_features, self.pieces).amax(-1)
        return self.next(h).unflatten(1, (self.pieces, -1)).max(dim=1)[0]


def _image(r: random.Random, least: int = 3, most: int = 7) -> Shape:
    return r.randint(1, 3), r.randint(least, most), r.randint(least, most)


def _row(r: random.Random) -> Shape:
    return r.choice((_image(r), (r.randint(2, 30),)))


def _sizes(shape: Callable, **sizes: Callable) -> Callable[[random.Random], dict]:
    return lambda r: {"shape": list(shape(r)), **{name: draw(r) for name, draw in sizes.items()}}


def _of(*values) -> Callable:
    return lambda r: r.choice(values)


_width = _of(2, 3, 4)
_exponent = _of("inf", "inf", 2.0, 64.55, 8.0, 1.0)

KINDS: dict[str, tuple[type[Net], Callable[[random.Random], dict]]] = {
    "CNN7 with BatchNorm": (Cnn7, _sizes(_image, width=_of(2, 3))),
    "ResNet with BatchNorm": (ResNet, _sizes(_image, width=_of(2, 3), first_norm=_of(False))),
    "pre-activation ResNet": (ResNet, _sizes(_image, width=_of(2, 3), first_norm=_of(True))),
    "dense connections": (Dense, _sizes(_image, growth=_of(2, 3), depth=_of(2, 3))),
    "joined branches": (Inception, _sizes(_image, width=_of(2, 3))),
    "max pools": (MaxPools, _sizes(_image, width=_width, ceil=_of(False, True))),
    "average pools": (AveragePools, _sizes(_image, width=_width, ceil=_of(False, True), whole=_of(False, True))),
    "adaptive pools": (AdaptivePools, _sizes(_image, width=_of(2, 3))),
    "LeakyReLU, PReLU": (Leaky, _sizes(lambda r: _image(r, 4), width=_width, slope=_of(0.01, 0.2, 0.0))),
    "ReLU6, depthwise": (Mobile, _sizes(_image, width=_of(2, 3))),
    "sigmoid, tanh": (Smooth, _sizes(_row, width=_of(3, 5, 9), activation=_of("sigmoid", "tanh"))),
    "ELU": (Smooth, _sizes(_row, width=_of(3, 5, 9), activation=_of("elu", "small elu"))),
    "softplus": (Smooth, _sizes(_row, width=_of(3, 5, 9), activation=_of("softplus", "steep softplus"))),
    "GroupSort, MaxMin": (GroupSort, _sizes(_row, width=_of(1, 2), group=_of(2, 3, 6))),
    "transposed convolutions": (Autoencoder, _sizes(_image, width=_width)),
    "U-Net": (Unet, _sizes(_image, width=_of(2, 3))),
    "signals": (
        Signal,
        _sizes(
            lambda r: r.choice(((r.randint(5, 20),), (r.randint(2, 3), r.randint(5, 12)))),
            width=_width,
            dilation=_of(1, 2),
        ),
    ),
    "groups, dilations": (Grouped, _sizes(_image, width=_of(2, 3))),
    "branches multiplied": (Gated, _sizes(_image, width=_of(2, 3))),
    "rows of features": (Mixer, _sizes(lambda r: (r.randint(2, 6), r.randint(1, 6)), width=_of(3, 5))),
    "BatchNorm and distances": (Mixed, _sizes(lambda r: _image(r, 2, 5), width=_of(2, 3), p=_exponent)),
    "shared layers": (Shared, _sizes(_row, width=_of(3, 5), steps=_of(2, 3))),
    "several heads": (Heads, _sizes(_image, width=_width)),
    "tables, in place": (Tabular, _sizes(lambda r: (r.randint(3, 30),), width=_of(4, 9))),
    "mirrored borders": (Borders, _sizes(_image, width=_of(1, 2))),
    "maxout": (Maxout, _sizes(_row, width=_of(3, 5), pieces=_of(2, 3, 8))),
}


def build(source: dict) -> Net:
    """The net of ``source``, in evaluation mode, with weights that are still to be drawn."""
    arguments = dict(source)
    return KINDS[arguments.pop("kind")][0](**arguments).eval().requires_grad_(False)


def draw(seed: int, index: int, samples: int) -> tuple[Case, random.Random]:
    """The case number ``index`` of this seed, and where to draw on from."""
    r = begin("brought", seed, index)
    kind = list(KINDS)[index % len(KINDS)]
    source = {"kind": kind, **KINDS[kind][1](r), "classes": r.choice((2, 3, 6))}
    return finish("brought", kind, None, build(source), source, r, samples), r
