"""Random nets of two inputs, two hidden layers of up to four neurons at most, and up to three classes."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from linf_plugin import LinfDistLinear, MeanShift, Negate, Normalize

VALUES = ("plain", "grid", "thin", "tiny", "huge", "mixed")
LAYERS = ("distance", "relu", "both")
KINDS = [f"{layers}, {values}" for layers in LAYERS for values in VALUES]


@dataclass(frozen=True)
class Case:
    kind: str
    net: nn.Sequential
    x: Tensor
    label: int
    low: float
    high: float


def _layers(draw: random.Random, layers: str, width: int, unit: float) -> list[nn.Module]:
    """Distances from inputs that lie within [0, unit]."""
    made = [Normalize((draw.random() * unit,), 1 / unit)] if draw.random() < 0.25 else []
    inputs, hidden = 2, [draw.randint(1, 4) for _ in range(draw.choice((0, 1, 2, 2, 2)))]
    for i, outputs in enumerate([*hidden, width]):
        last = i == len(hidden)
        bias = draw.random() < 0.5
        distance = layers == "distance" or (layers == "both" and draw.random() < 0.6)
        made.append((LinfDistLinear if distance else nn.Linear)(inputs, outputs, bias=bias))
        if distance and draw.random() < 0.25:
            made.append(MeanShift(outputs))
        if not distance and not last:
            made.append(nn.ReLU())
        inputs = outputs
    return [*made, Negate()] if draw.random() < 0.5 else made


def _fill(net: nn.Sequential, draw: random.Random, grid: bool) -> None:
    """Weights of distances within [0, 1], of linear layers of mean 0; of few values, some of them equal, on a grid."""
    generator = torch.Generator().manual_seed(draw.getrandbits(60))

    def fill(a: Tensor, centre: float, width: float) -> None:
        values = torch.rand(a.shape, generator=generator)
        if grid:
            values = (4 * values).round() / 4
        a.copy_(centre + width * (values - 0.5))

    for layer in net:
        if isinstance(layer, LinfDistLinear):
            fill(layer.weight, 0.5, 1.0)
        if isinstance(layer, nn.Linear):
            fill(layer.weight, 0.0, 2.0)
        if isinstance(layer, MeanShift):
            fill(layer.running_mean, 0.0, 0.5)
        if getattr(layer, "bias", None) is not None:
            fill(layer.bias, 0.0, 0.5)


def _scale(net: nn.Sequential, factor: float) -> None:
    """The net of x/factor, times the factor where it is of distances alone.

    A distance of scaled inputs and weights is scaled itself, and a linear layer with a scaled bias scales as well."""
    for layer in net:
        for name in ("weight", "bias", "running_mean"):
            a = getattr(layer, name, None)
            if a is not None and not (name == "weight" and isinstance(layer, nn.Linear)):
                a.mul_(factor)


def _thin(case: Case, draw: random.Random) -> None:
    """Moves the last bias so that of a grid hardly any point, or just none, has another class."""
    *_, last = (layer for layer in case.net if getattr(layer, "bias", None) is not None)
    line = torch.linspace(case.low, case.high, 41)
    z = case.net(torch.cartesian_prod(line, line)).double()
    margins = (z - z[:, [case.label]])[:, [j for j in range(z.shape[1]) if j != case.label]].amax(1)
    amount = margins.max() - draw.choice((4e-4, 1e-6, 0.0, -1e-6)) * (margins.max() - margins.min())
    sign = -1 if isinstance(case.net[-1], Negate) else 1
    last.bias[case.label] += sign * amount


@torch.no_grad()
def draw_case(seed: int, index: int) -> Case:
    """Number ``index``; the kinds take turns."""
    draw = random.Random(f"{seed} {index}")
    kind = KINDS[index % len(KINDS)]
    layers, values = kind.split(", ")
    classes = draw.randint(2, 3)
    net = nn.Sequential(*_layers(draw, layers, classes, 1.0)).eval()
    if values == "thin" and isinstance(net[-1], (nn.Linear, LinfDistLinear)) and net[-1].bias is None:
        net[-1] = type(net[-1])(net[-1].in_features, classes)
        net.eval()
    _fill(net, draw, grid=values == "grid")
    unit = {"tiny": 1e-38, "huge": 1e30}.get(values, 1.0)
    low, high = draw.choice(((0.0, 1.0), (0.0, 1.0), (-0.5, 1.5), (0.25, 1.0)))
    x = low + (high - low) * torch.tensor([draw.random(), draw.random()], dtype=torch.float64)
    for i in range(2):
        place = draw.random()
        if place < 0.2:  # at an end
            x[i] = draw.choice((low, high))
        elif place < 0.4:  # on a grid, where ties are
            x[i] = min(max(round(4 * x[i].item()) / 4, low), high)
    x = x.float()
    if values in ("tiny", "huge"):
        _scale(net, unit)
        x, low, high = x * unit, low * unit, high * unit
        low, high = min(low, x.min().item()), max(high, x.max().item())
    if values == "mixed":  # each layer of a magnitude of its own
        for layer in net:
            if isinstance(layer, (nn.Linear, LinfDistLinear)):
                layer.weight.mul_(10.0 ** draw.randint(-9, 9))
    with torch.no_grad():
        label = int(net.double()(x.double()[None]).argmax())
    net.float()
    case = Case(kind, net, x, label, low, high)
    has_bias = any(getattr(layer, "bias", None) is not None for layer in net[-2:])
    if values == "thin" and has_bias:
        _thin(case, draw)
    return case
