"""What the families of nets share: a case, ranges of pixels, weights of every size, inputs, and margins near a tie."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .ball import ends

PIXELS = (  # low, high
    (0.0, 1.0),
    (0.0, 1.0),
    (-1.0, 1.0),
    (0.0, 255.0),
    (-10.0, 10.0),
    (0.1, 0.3),
    (-1e4, 1e4),
    (0.0, 1e-37),
)
NATURAL = "natural"  # as a family chooses them; half of the nets
WEIGHTS = {  # of other nets
    "unit": lambda r, a: torch.randn_like(a),
    "tiny": lambda r, a: torch.randn_like(a) * 10 ** r.uniform(-6, -3),
    "huge": lambda r, a: torch.randn_like(a) * 10 ** r.uniform(3, 6),
    "mixed": lambda r, a: torch.randn_like(a) * 10 ** r.uniform(-3, 3),
    "extreme": lambda r, a: torch.randn_like(a) * 10 ** r.choice((r.uniform(-44, -36), r.uniform(30, 38))),
    "far": lambda r, a: torch.randn_like(a) + r.choice((100.0, 1e4)),  # rounding of what is common to all distances
    "lattice": lambda r, a: torch.randint_like(a, -4, 5) / 4,  # kinks meet, and exact ties
}
EACH_WEIGHTS = (*[NATURAL] * len(WEIGHTS), *WEIGHTS)


@dataclass(frozen=True)
class Case:
    """A net, the pixel range, and inputs (N, *) in it."""

    family: str
    kind: str
    sort: str  # a second way to group nets of a family in the table
    p: float | None  # None where there is no distance layer of an exponent
    weights: str
    net: nn.Module
    source: dict  # what the family makes the net of, as JSON has it
    low: float
    high: float
    x: Tensor
    kinks: Tensor  # (K, *) inputs at which first distances are 0


def inputs(r: random.Random, shape: tuple[int, ...], count: int, low: float, high: float, kinks: Tensor) -> Tensor:
    """(count, *shape) in [low, high], of every sort in turn."""
    width = high - low
    x = low + width * torch.rand(count, *shape, dtype=torch.float64)
    for i in range(count):
        sort = r.choice(("uniform", "uniform", "equal", "bounds", "lattice", "kink"))
        if sort == "equal":
            x[i] = x[i].flatten()[0]
        elif sort == "bounds":
            x[i] = torch.where(torch.rand(x[i].shape) < 0.5, low, high)
        elif sort == "lattice":
            x[i] = low + width * torch.randint(0, 5, x[i].shape) / 4
        elif sort == "kink" and len(kinks):
            x[i] = kinks[r.randrange(len(kinks))]
    x = x.clamp(low, high).float()
    inner_low, inner_high = ends(torch.full_like(x, (low + high) / 2), math.inf, low, high)
    return torch.clamp(x, inner_low, inner_high)


def steps_to_a_tie(r: random.Random) -> int:
    return r.choice((0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 20, 40, 200))


# Weights of any module.  A module with tensors of its own is called an owner.


def _owners(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if any(a is not None for a in (*m._parameters.values(), *m._buffers.values()))]


def _tensors(owner: nn.Module) -> list[tuple[str, Tensor]]:
    held = {**owner._parameters, **owner._buffers}
    return [(name, a) for name, a in held.items() if a is not None and a.is_floating_point()]


def _allowed(owner: nn.Module, name: str, a: Tensor) -> None:
    """Makes numbers positive that must be: variances, slopes, and what is divided by."""
    if name == "running_var" or name == "slope" or isinstance(owner, nn.PReLU):
        a.abs_()
    elif name == "divisor":
        a.copy_(torch.where(a.abs() < 2.0**-90, 1.0, a))


def _natural(owner: nn.Module, h: Tensor) -> None:
    """Numbers that suit the inputs h of this module, so that its outputs depend on them."""
    spread = h.std() if h.numel() > 1 else torch.ones(())
    norm = isinstance(owner, nn.modules.batchnorm._BatchNorm)
    distance = (hasattr(owner, "p") and hasattr(owner, "identity_init")) or type(owner).__name__ == "SortDistLinear"
    for name, a in _tensors(owner):
        if name in ("running_mean", "running_var"):
            channels = h.transpose(0, 1).flatten(1)
            a.copy_(channels.mean(1) if name == "running_mean" else channels.var(1) * (0.5 + torch.rand(a.shape)))
        elif name == "slope" or isinstance(owner, nn.PReLU):
            a.uniform_(0, 1.2)
        elif name == "divisor":
            a.copy_((0.5 + torch.rand(a.shape)) * torch.where(torch.rand(a.shape) < 0.3, -1, 1))
        elif norm:
            a.normal_(1.0, 0.5) if name == "weight" else a.normal_(0.0, 0.3)
        elif distance and name == "weight":
            a.normal_().mul_(spread).add_(h.mean())
        elif name == "bias":
            a.normal_().mul_(0.1 * spread)
        elif name == "constant":
            a.normal_().mul_(spread)
        else:
            a.normal_().div_(math.prod(a.shape[1:]) ** 0.5)


@torch.no_grad()
def fill(net: nn.Module, r: random.Random, weights: str, h: Tensor) -> None:
    """Draws weights, biases, statistics and constants of any net; sometimes with equal rows.  h: typical inputs."""
    visited, handles = set(), []

    def visit(owner: nn.Module, values: tuple) -> None:
        if owner not in visited:
            visited.add(owner)
            _natural(owner, values[0])

    owners = _owners(net)
    if weights == NATURAL:
        handles = [owner.register_forward_pre_hook(visit) for owner in owners]
        net(h.clone())
        for handle in handles:
            handle.remove()
    for owner in owners:
        for name, a in _tensors(owner):
            if owner in visited:
                pass
            elif weights == NATURAL:  # its tensors are read, but it is not called
                a.normal_()
            else:
                a.copy_(WEIGHTS[weights](r, a))
                if name == "weight" and a.dim() > 1 and isinstance(owner, (nn.Linear, nn.modules.conv._ConvNd)):
                    a /= math.prod(a.shape[1:]) ** r.choice((0.5, 1.0))
            _allowed(owner, name, a)
            if a.dim() > 1 and len(a) > 1 and r.random() < 0.05:
                a[1] = a[0]


@torch.no_grad()
def almost_tie(net: nn.Module, x: Tensor, r: random.Random) -> None:
    """Moves the last bias of as many numbers as there are classes, so that the first margin is a few float32 steps."""
    z = net(x[:1].clone())[0]
    biases = [a for name, a in net.named_parameters() if name.endswith("bias") and a.shape == z.shape]
    if not biases or not z.isfinite().all():
        return
    (first, second), (_, other) = z.topk(2)
    steps = steps_to_a_tie(r) * 2.0**-23 * z.abs().max()
    biases[-1][other] += first - second - steps


Draw = Callable[[int, int, int], tuple[Case, random.Random]]


def begin(family: str, seed: int, index: int) -> random.Random:
    """Where a case is drawn from, whatever was drawn before it.  Seeds torch's generator as well."""
    r = random.Random(f"{seed}/{index}" if family == "layers" else f"{family}/{seed}/{index}")
    torch.manual_seed(r.randrange(2**62))
    return r


def finish(
    family: str, kind: str, sort: str | None, net: nn.Module, source: dict, r: random.Random, samples: int
) -> Case:
    """Draws weights, pixels and inputs of a net that is made from ``source``."""
    weights = r.choice(EACH_WEIGHTS)
    low, high = r.choice(PIXELS)
    shape = tuple(source["shape"])
    fill(net, r, weights, low + (high - low) * torch.rand(32, *shape))
    kinks = torch.zeros(0, *shape)
    x = inputs(r, shape, r.choice((1, samples, samples)), low, high, kinks)
    if r.random() < 0.5:
        almost_tie(net, x, r)
    return Case(family, kind, sort or f"{weights} weights", None, weights, net, source, low, high, x, kinks)
