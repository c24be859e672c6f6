"""Nets of plain PyTorch, as people bring them: each is traced when it is exported."""

import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MaxMin, MeanShift, ParamRamp, SortDistLinear


def settled(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net in evaluation mode, with batch normalisation that does something: of both signs, and not centred."""
    generator = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            m.running_mean.normal_(0, 0.3, generator=generator)
            m.running_var.uniform_(0.5, 2, generator=generator)
            m.weight.data.uniform_(-0.5, 1.5, generator=generator)
            m.bias.data.normal_(0, 0.3, generator=generator)
    return net.eval()


@torch.no_grad()
def centred(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The net with other biases of its last layer: its logits are equal on average, so it predicts several classes."""
    *_, last = (m for m in net.modules() if isinstance(m, nn.Linear))
    last.bias -= net(torch.rand(60, *shape, generator=torch.Generator().manual_seed(1))).mean(0)
    return net


class Block(nn.Module):
    """Two convolutions beside a connection that skips them."""

    def __init__(self, before: int, channels: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.skip = nn.Identity()
        if stride > 1 or before != channels:
            self.skip = nn.Sequential(nn.Conv2d(before, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x):
        y = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(self.second_norm(self.second(y)) + self.skip(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, 1, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Block(6, 6, 1), Block(6, 8, 2))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.blocks(self.stem((x - 0.3) / 0.4))
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


class Dense(nn.Module):
    """Normalisation before convolutions, and everything that came before joined to the input."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (2, 5))
        self.convolutions = nn.ModuleList(nn.Conv2d(c, 3, 3, padding=1) for c in (2, 5))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for norm, convolution in zip(self.norms, self.convolutions):
            x = torch.cat([x, convolution(F.leaky_relu(norm(x), 0.1))], 1)
        return self.head(x.mean((2, 3)))


class Functions(nn.Module):
    """Functions of one number, a transposed convolution, an average pool, sums of different parts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.back = nn.ConvTranspose2d(4, 4, 2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.slopes = nn.PReLU(4)
        self.head = nn.Linear(36, 4)

    def forward(self, x):
        y = self.slopes(self.norm(self.back(self.first(x))))
        parts = y.split(1, 1)
        y = torch.cat([parts[0].sigmoid(), parts[1].tanh(), F.softplus(parts[2], 2.0), F.elu(parts[3], 0.7)], 1)
        y = F.avg_pool2d(F.hardtanh(y, -0.5, 0.9), 3, 3, 1)
        return self.head(y.flatten(1)) - y.sum((2, 3))


class Distances(nn.Module):
    """Distance layers between stock layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, 2)
        self.norm = nn.BatchNorm2d(3)
        self.windows = LinfDistConv2d(3, 4, 2)
        self.rows = LinfDistLinear(16, 8)
        self.means = MeanShift(8)
        self.sorted = SortDistLinear(8, 6, rho=0.5, k=4)
        self.last = nn.Linear(6, 4)

    def forward(self, x):
        y = self.windows(torch.relu(self.norm(self.first(x))))
        return self.last(self.sorted(self.means(self.rows(y.flatten(1)))))


class Moves(nn.Module):
    """Operators that only move numbers, maxima and minima of several kinds, and products of two values."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.register_buffer("scales", torch.linspace(-1, 1, 48).view(1, 4, 3, 4))
        self.head = nn.Linear(72, 4)

    def forward(self, x):
        y = F.max_pool2d(F.pad(self.first(x), (1, 0, 2, 1)), 3, 2, 1)[:, :, 1:4, :4]
        y = y.abs() * self.scales + y.flip(1)
        pairs = torch.cat([torch.maximum(y[:, ::2], y[:, 1::2]), torch.minimum(y[:, ::2], y[:, 1::2])], 1)
        y = F.interpolate(pairs, scale_factor=2, mode="nearest")[:, :, :5].permute(0, 2, 3, 1)
        y = torch.cat([y[:, :4].amax(3).flatten(1), y[:, 2].sort(-1, descending=True)[0].amin(1), pairs[:, :, 0, 0]], 1)
        return self.head(torch.cat([y, y[:, :32] * y[:, 8:]], 1)) - F.pixel_shuffle(pairs, 2).flatten(1).mean(
            1, keepdim=True
        )


class Shared(nn.Module):
    """One layer twice, rows that are joined with the samples, and a constant for each number."""

    def __init__(self):
        super().__init__()
        self.row, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(12)
        self.register_buffer("beside", torch.linspace(-0.3, 0.5, 12).view(3, 4))
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        y = torch.relu(self.row(x.reshape(-1, 4)))
        y = self.row(y).view(-1, 3, 4) + self.beside
        return self.head(self.norm(y.flatten(1)))


class Rows(nn.Module):
    """Distances of rows that are joined with the samples."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Sequential(LinfDistLinear(4, 4), nn.Linear(4, 4), SortDistLinear(4, 5, rho=0.5, k=3))
        self.head = nn.Linear(15, 3)

    def forward(self, x):
        return self.head(self.rows(x.reshape(-1, 4)).view(-1, 15))


class Ramps(nn.Module):
    """Ramps and sorted pairs in branches, and limits of each number by constants."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.ramp, self.pairs, self.last = ParamRamp(4, 0.4), MaxMin(), ParamRamp(6, 0.3)
        self.ramp.top.data = torch.tensor([0.2, 0.3, -0.1, 0.4])
        self.register_buffer("least", torch.tensor([-0.2, 0.0, 0.1, -0.4]).view(4, 1, 1))
        self.row, self.head = nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.ramp(self.first(x))
        y = torch.maximum(self.pairs(self.second(y)) + y, self.least)
        return self.head(self.last(self.pairs(self.row(y.flatten(1)))))


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
    )


def _line() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 4, 3, 2, 1, 2),
        nn.BatchNorm1d(4),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose1d(4, 6, 3, 2, 1, 1),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(42, 4),
    )


def _table() -> nn.Module:
    return nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(9), nn.ReLU6(), nn.Linear(9, 3))


NETS = {  # name → shape of a sample, function that makes the net
    "cnn": ((1, 8, 8), _cnn),
    "resnet": ((1, 9, 9), ResNet),
    "dense": ((2, 5, 6), Dense),
    "functions": ((1, 6, 6), Functions),
    "distances": ((1, 8, 8), Distances),
    "moves": ((2, 6, 7), Moves),
    "shared": ((3, 4), Shared),
    "line": ((3, 16), _line),
    "rows": ((3, 4), Rows),
    "table": ((7,), _table),
    "ramps": ((1, 5, 5), Ramps),
}


def net_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A net, always the same, and the shape of a sample."""
    shape, make = NETS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return centred(settled(make()), shape), shape
