"""Running a float32 net by PyTorch in the ways users do, which round differently, and attacks on it."""

import contextlib
import copy
import math
import random
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from linf_plugin.kernels import cpu
from linf_plugin.layers.base import distance_layers, set_p

from .ball import Box, difference
from .batches import in_batches
from .sphere import Sphere

SURROGATE_P = 64.0  # at p = ∞ a gradient touches few pixels; a large finite p sees more
STEPS = (2.0, 1.0, 0.5, 0.25, 0.1)  # of an attack, in radii of the ball


@dataclass(frozen=True)
class Program:
    """How a net is run: all of it is float32, as assumed by the theorem."""

    threads: int
    level: str | None  # instruction set of the distance kernels
    channels_last: bool
    flush: bool  # subnormal numbers to zero
    mkldnn: bool  # convolutions by oneDNN, else by a matrix product

    def run(self, net: nn.Module, x: Tensor) -> Tensor:
        """Logits of x (M, *), in batches of different sizes."""
        if self.channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
            net = copy.deepcopy(net).to(memory_format=torch.channels_last)
        with contextlib.ExitStack() as restore:
            restore.enter_context(torch.no_grad())
            restore.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(self.threads)
            if self.level:
                restore.enter_context(cpu.using(self.level))
            if not self.mkldnn:
                restore.enter_context(_without_mkldnn())
            if self.flush:
                restore.callback(torch.set_flush_denormal, False)
                torch.set_flush_denormal(True)
            return in_batches(lambda part: net(part.clone()), x)  # a net may work in place

    def describe(self) -> dict:
        return asdict(self)


@contextlib.contextmanager
def _without_mkldnn():
    """Convolutions as matrix products: also without NNPACK, whose transforms (Winograd) no certificate covers."""
    mkldnn, *_ = torch.backends.mkldnn.set_flags(_enabled=False, _fp32_precision=None)
    try:
        with torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.backends.mkldnn.set_flags(_enabled=mkldnn, _fp32_precision=None)


def draw_program(r: random.Random) -> Program:
    return Program(
        threads=r.choice((1, 1, 1, 2)),
        level=r.choice(cpu.levels() or [None]),
        channels_last=r.random() < 0.2,
        flush=r.random() < 0.2,
        mkldnn=r.random() < 0.7,
    )


def margins(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """z_y − z_j of float32 logits z (..., classes) for all j ≠ y, exactly: pairs of ``difference``; +∞ at j = y."""
    index = labels.expand(z.shape[:-1]).unsqueeze(-1)
    d, error = difference(z.gather(-1, index), z)
    return d.scatter(-1, index, math.inf), error.scatter(-1, index, 0.0)


def attack(net: nn.Module, labels: Tensor, region: Box | Sphere, starts: int) -> Tensor:
    """Projected gradient descent on the margin: (points, N, *) in the balls, all that it visits.

    ``starts`` starts a sample: x itself, points at the ends of the ball, and points inside; on distance nets every
    second one follows the same net at p = 64.
    """
    smooth = copy.deepcopy(net)
    set_p(smooth, SURROGATE_P)
    guides = [net, smooth] if distance_layers(net) else [net]
    visited = []
    for k, guide in enumerate(guides):
        count = (starts + k) // len(guides)
        if not count:
            continue
        a = region.starts(count)
        a[:1] = region.x
        y = labels.repeat(count)
        for step in STEPS:
            leaf = a.flatten(0, 1).requires_grad_()
            z = guide(leaf.clone())  # a net may work in place
            margin = z.gather(1, y.unsqueeze(1)).squeeze(1) - z.scatter(1, y.unsqueeze(1), -math.inf).amax(1)
            if margin.requires_grad:
                (grad,) = torch.autograd.grad(margin.sum(), leaf)
            else:  # a net that detaches its values
                grad = torch.randn(leaf.shape)
            a = region.descend(a, grad.nan_to_num(0.0).view(a.shape), step)
            visited.append(a)
    return torch.cat(visited)
