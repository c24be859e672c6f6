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
    """Subtracts the mean of each channel.  It is batch normalisation without the scale, which would spoil the bound.

    In training mode it subtracts the mean of the batch, with gradient, and updates a running mean.  In evaluation mode
    it subtracts the running mean, a constant.  Zhang et al. (arXiv 2102.05363), section 4.1.

    Args:
        num_features: number of channels, the second dimension of the input.
        momentum: weight of a new batch in the running mean.

    ``sum_over_ranks`` is None, or a function that sums a tensor over several processes, with gradient.  With it each
    process passes a part of one batch, which may be empty, and the mean is that of the whole batch.
    ``training.parallel.synchronised_means`` sets it while its context is open.

    Shape: (N, num_features, *) → the same.
    In evaluation mode the Lipschitz bound is 1 in every norm.  In training mode the samples of a batch depend on each
    other, and no bound holds for one sample.
    """

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
            if weight == 1:  # else lerp_ would keep NaN if the old mean was not finite
                self.running_mean.zero_()
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        return ops.shift(x, mean, sign=-1.0)

    def _batch_mean(self, x: Tensor) -> tuple[Tensor, int | Tensor]:
        """Returns (mean of each channel, samples) of the whole batch; for a batch without samples, the running mean."""
        others = [d for d in range(x.dim()) if d != 1]
        if self.sum_over_ranks is None:
            return x.mean(others), len(x)
        dtype = torch.promote_types(x.dtype, torch.float32)
        sums = x.sum(others, dtype=dtype) / max(1, math.prod(x.shape[2:]))
        samples = sums.new_full((1,), len(x) if x.numel() else 0)
        total = self.sum_over_ranks(torch.cat([sums, samples]))
        sums, samples = total[:-1], total[-1]  # stay tensors: to read them as numbers, Python would wait for the GPU
        mean = torch.where(samples > 0, sums / samples.clamp_min(1), self.running_mean.to(dtype))
        return mean.to(x.dtype), samples

    def extra_repr(self) -> str:
        return f"{self.num_features}, momentum={self.momentum}"


class Normalize(Constants):
    """Computes (x − mean)·scale with scale = 1/std.  All channels have the same std, so ε in pixels becomes ε/std.

    Args:
        mean: one number for each channel, or one for all.
        std: one positive number.

    Shape: (N, channels, *) → the same.  The Lipschitz bound is the scale, in every norm.  The scale is rounded to
    float32, so that a float32 and a float64 copy of a model are the same function.
    """

    compared = ("scale",)

    def __init__(self, mean: Iterable[float], std: float):
        super().__init__()
        if not 0 < std < math.inf:
            raise ValueError(f"std must be positive and finite, got {std}")
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.scale = torch.tensor(1 / std, dtype=torch.float32).item()

    def __setstate__(self, state: dict) -> None:
        """Also restores a layer of an earlier version, which was pickled with ``lipschitz`` as a number."""
        super().__setstate__({name: value for name, value in state.items() if name != "lipschitz"})

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) != 1 and not torch.jit.is_tracing() and x.shape[1] != len(self.mean):
            raise ValueError(f"x must have shape (N, {len(self.mean)}, *), got {tuple(x.shape)}")
        return ops.shift(x, self.mean, sign=-1.0, scale=self.scale)


class CenterCrop(Constants):
    """Takes the middle size × size pixels of an image.  The Lipschitz bound is 1 in every norm.

    A model that begins with this layer needs no cropped test images.  If training shifts images randomly by up to s
    pixels, the model sees random size × size crops of the middle (size + 2s) × (size + 2s) pixels.

    Shape: (N, channels, H, W) → (N, channels, size, size).
    """

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
    """Computes −x: a small distance means a strong similarity and becomes a large logit.  The Lipschitz bound is 1 in
    every norm."""

    def forward(self, x: Tensor) -> Tensor:
        return -x


@torch.no_grad()
def reestimate_means(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces every running mean with the mean over ``batches``, weighted by their numbers of samples.

    This is necessary after p has changed: the running means lag behind, and a certificate of the net at p = ∞ holds for
    the net with the means that it has.  Each layer sees batch means of the layers before it, so large batches are
    better.  At the end each module has its former training mode again.

    Inside ``training.parallel.synchronised_means`` each process passes its part of every batch.  All processes must
    pass the same number of parts, and the means are those of the whole batches.

    Raises:
        ValueError: the model has a mean to estimate but there is no sample; a batch has no batch dimension, another
            shape than the model's ``input_shape``, or values that are not finite.
        TypeError: model is not a module, or a batch is not a floating-point tensor.
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
