"""Layers that move, scale or negate values."""

import contextlib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .. import ops
from ..arguments import check_finite, check_model, check_samples
from ..state import Constants
from .base import Device, check_positive


class MeanShift(nn.Module):
    """Subtracts the mean of each channel: batch normalisation without the scale that would spoil the bound.

    Training subtracts the batch mean, with its gradient, and follows it by a running mean; evaluation
    subtracts the running mean, a constant.  Zhang et al. (arXiv 2102.05363), section 4.1.

    Args:
        num_features: channels, the second dimension of the input.
        momentum: weight of a new batch in the running mean.

    Where several processes hold parts of one batch, ``sum_over_ranks`` adds a tensor up over them, with gradient,
    and the mean is that of the whole batch; a part may be empty.  None: the batch is here.  It is
    ``training.parallel.synchronised_means`` that sets it, for as long as it is open.

    Shape: (N, num_features, *) → the same.
    ``lipschitz`` is 1, in evaluation mode.  In training mode samples depend on each other and no
    per-sample bound holds.
    """

    lipschitz = 1.0

    def __init__(
        self, num_features: int, momentum: float = 0.1, *, device: Device = None, dtype: torch.dtype | None = None
    ):
        check_positive(num_features=num_features)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum must lie in (0, 1], got {momentum}")
        super().__init__()
        self.num_features, self.momentum = num_features, momentum
        self.register_buffer("running_mean", torch.zeros(num_features, device=device, dtype=dtype))
        self.samples_seen: int | None = None  # a count while ``reestimate_means`` runs
        self.sum_over_ranks: Callable[[Tensor], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or (not torch.jit.is_tracing() and x.shape[1] != self.num_features):
            raise ValueError(f"x must have shape (N, {self.num_features}, *), got {tuple(x.shape)}")
        if not self.training or (x.numel() == 0 and self.sum_over_ranks is None):
            return ops.shift(x, self.running_mean, sign=-1.0)
        mean, samples = self._batch_mean(x)
        weight = self.momentum
        if self.samples_seen is not None:
            samples = int(samples)
            self.samples_seen += samples
            weight = samples / max(1, self.samples_seen)
        with torch.no_grad():
            if weight == 1:  # a mean that was not finite must not survive
                self.running_mean.zero_()
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        return ops.shift(x, mean, sign=-1.0)

    def _batch_mean(self, x: Tensor) -> tuple[Tensor, int | Tensor]:
        """(mean of each channel, samples) of the whole batch; of a batch without a sample, the running mean."""
        others = [d for d in range(x.dim()) if d != 1]
        if self.sum_over_ranks is None:
            return x.mean(others), len(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        sums = x.sum(others, dtype=dtype) / max(1, math.prod(x.shape[2:]))
        samples = sums.new_full((1,), len(x) if x.numel() else 0)
        total = self.sum_over_ranks(torch.cat([sums, samples]))
        sums, samples = total[:-1], total[-1]  # not read as numbers: a GPU would have to be waited for
        mean = torch.where(samples > 0, sums / samples.clamp_min(1), self.running_mean.to(dtype))
        return mean.to(x.dtype), samples

    def extra_repr(self) -> str:
        return f"{self.num_features}, momentum={self.momentum}"


class Normalize(Constants):
    """(x − mean)·scale with scale = 1/std, one std for all channels, so that ε in pixels is ε/std inside.

    Args:
        mean: one number a channel, or one for all.
        std: one positive number.

    Shape: (N, channels, *) → the same.  ``lipschitz`` is scale, rounded to float32 so that a float32 and a
    float64 copy of a model are the same function.
    """

    compared = ("scale",)

    def __init__(self, mean: Iterable[float], std: float):
        super().__init__()
        if not 0 < std < math.inf:
            raise ValueError(f"std must be positive and finite, got {std}")
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.scale = torch.tensor(1 / std, dtype=torch.float32).item()

    @property
    def lipschitz(self) -> float:
        return self.scale

    def __setstate__(self, state: dict) -> None:
        """Of a layer that was pickled when ``lipschitz`` was a number of its own."""
        super().__setstate__({name: value for name, value in state.items() if name != "lipschitz"})

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) != 1 and not torch.jit.is_tracing() and x.shape[1] != len(self.mean):
            raise ValueError(f"x must have shape (N, {len(self.mean)}, *), got {tuple(x.shape)}")
        return ops.shift(x, self.mean, sign=-1.0, scale=self.scale)


class CenterCrop(Constants):
    """The middle size × size pixels of an image.  ``lipschitz`` is 1.

    A model that begins with it needs no other test images, and after random shifts by up to s pixels it sees the
    random crops of images with 2s more pixels a side.

    Shape: (N, channels, H, W) → (N, channels, size, size).
    """

    lipschitz = 1.0
    compared = ("size",)

    def __init__(self, size: int):
        check_positive(size=size)
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or (not torch.jit.is_tracing() and min(x.shape[2:]) < self.size):
            raise ValueError(f"x must have shape (N, C, H, W) with H, W ≥ {self.size}, got {tuple(x.shape)}")
        top, left = ((int(side) - self.size) // 2 for side in x.shape[2:])
        return x[:, :, top : top + self.size, left : left + self.size]

    def extra_repr(self) -> str:
        return f"{self.size}"


class Negate(nn.Module):
    """−x: a small distance is a strong similarity, a logit is the opposite.  ``lipschitz`` is 1."""

    lipschitz = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return -x


@torch.no_grad()
def reestimate_means(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces every running mean by the mean over ``batches`` (each weighted by its samples).

    Needed once p has changed: the running means lag behind, and a certificate of the net at p = ∞ is about
    the net with these means in it.  Each layer sees batch means of the layers before it, so large batches
    are better.  Restores each module's training mode.

    Inside ``training.parallel.synchronised_means`` each process passes its part of every batch, as many parts as
    the others, and the means are those of the whole batches.

    Raises:
        ValueError: there is a mean to estimate and no batch; a batch has no batch dimension, another shape than the
            model's ``input_shape``, or values that are not finite.
        TypeError: model is no module, or a batch no floating-point tensor.
    """
    check_model(model, evaluation=False)
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches must be an iterable of tensors, got {type(batches).__name__}")
    shifts = [m for m in model.modules() if isinstance(m, MeanShift)]
    modes = {m: m.training for m in model.modules()}
    with contextlib.ExitStack() as restore:
        restore.callback(lambda: [setattr(m, "training", mode) for m, mode in modes.items()])
        model.eval()
        for m in shifts:
            m.train()
            m.samples_seen = 0
            restore.callback(setattr, m, "samples_seen", None)
        for x in batches:
            check_samples(x, model, "each of batches")
            check_finite(batches=x)
            model(x)
        if any(m.samples_seen == 0 for m in shifts):
            raise ValueError("batches must hold at least one sample")
