"""ℓ∞-distance layers.  Each states its invariant, an ℓ∞ → ℓ∞ Lipschitz bound, as ``.lipschitz``."""

import contextlib
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from . import ops
from .arguments import (
    check_finite,
    check_forward,
    check_k,
    check_model,
    check_p,
    check_rho,
    check_rows,
    check_samples,
    check_tensors,
)
from .kernels.windows import output_shape
from .state import Constants

IDENTITY_WEIGHT = -10.0  # far below every input: the neuron then reads x_i + 10, and a mean shift removes the 10


class _Distance(Constants):
    """What linear and convolutional distance layers share: weight, bias and p."""

    restored = ("p",)

    def __init__(self, weight_shape, bias: bool, p: float, identity_init: bool, device, dtype):
        super().__init__()
        self.p = p
        self.identity_init = identity_init
        self.weight = nn.Parameter(torch.empty(weight_shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(weight_shape[0], device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    @property
    def p(self) -> float:
        """The exponent in [1, ∞]; assigning anything else raises ValueError or TypeError."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = check_p(value)

    @property
    def lipschitz(self) -> float:
        """1 at p = ∞.  A finite p allows n^{1/p} for n coordinates: ‖t‖_p ≤ n^{1/p}·‖t‖_∞."""
        fan_in = math.prod(self.weight.shape[1:])
        return 1.0 if self.p == math.inf or fan_in == 0 else fan_in ** (1 / self.p)

    def reset_parameters(self) -> None:
        """Weights N(0, 1), bias 0; with ``identity_init`` output i starts as a copy of input i mod in
        (of its group's inputs)."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        out, channels = self.weight.shape[:2]
        if self.identity_init and 0 < channels <= out:
            centre = tuple(k // 2 for k in self.weight.shape[2:])
            rows = torch.arange(out)
            with torch.no_grad():
                self.weight[(rows, rows % channels, *centre)] = IDENTITY_WEIGHT


class _DistanceLinear(_Distance):
    """What fully connected distance layers share; each defines ``_distances``, (N, in) → (N, out)."""

    def __init__(self, in_features: int, out_features: int, bias: bool, p: float, identity_init, device, dtype):
        _check_positive(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        super().__init__((out_features, in_features), bias, p, identity_init, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_tensors(x=x, weight=self.weight)
        if x.dim() == 0:
            raise ValueError(f"x must have shape (..., {self.in_features}), got ()")
        y = self._distances(x if x.dim() == 2 else x.reshape(-1, x.shape[-1]))
        if self.bias is not None:
            y = ops.shift(y, self.bias)
        return y if x.dim() == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, p={self.p}"


class LinfDistLinear(_DistanceLinear):
    """y_k = ‖x − w_k‖_p + b_k, fully connected; p = ∞ is the ℓ∞-dist neuron.

    Zhang et al. (arXiv 2102.05363), equations 5 and 9.

    Args:
        in_features, out_features: sizes of the last dimension of input and output.
        bias: whether b_k is learned.
        p: exponent in [1, ∞].  Training starts small and ends at ∞ (``set_p`` changes a whole model).
        identity_init: where in ≤ out, start as a copy of the input (plus 10; follow it by a ``MeanShift``).

    Shape: (..., in_features) → (..., out_features).
    ``lipschitz`` with respect to ℓ∞: 1 at p = ∞, else in_features^{1/p}.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = math.inf,
        *,
        identity_init: bool = False,
        device=None,
        dtype=None,
    ):
        super().__init__(in_features, out_features, bias, p, identity_init, device, dtype)

    def _distances(self, x: Tensor) -> Tensor:
        return ops.dist(x, self.weight, self.p)


class SortDistLinear(_DistanceLinear):
    """SortNet's neuron: at evaluation y_k = Σ_j c_j·|x − w_k|_(j) + b_k, |t| in descending order; in training the
    ℓp distance on a random subset of the inputs, whose mean at p = ∞ that is, but for coordinates beyond the k-th.

    c as in ``linf_plugin.sorted_dist``.  Zhang et al. (arXiv 2210.01787), section 4.  Inputs that must not be
    dropped, such as pixels, want a ``LinfDistLinear``.

    Args:
        in_features, out_features, bias, p, identity_init: as ``LinfDistLinear``; p is that of training.
        rho: probability ρ in (0, 1] that an input is kept; 1 is the ℓ∞-dist neuron.
        k: how many coordinates count at evaluation.
        group: samples that share a subset, which all outputs have in common.

    A subset keeps at least one input.  On every device subsets come from torch's generator for the CPU.  Training
    at finite p holds the kept columns of the weight once a group until the backward pass.

    Shape: (..., in_features) → (..., out_features).
    ``lipschitz`` with respect to ℓ∞: 1 at evaluation, whatever p is: c descends, so y_k is the largest
    Σ_j c_j·|t_π(j)| over permutations π, and Σ c ≤ 1.  In training, for any one subset, 1 at p = ∞, else
    in_features^{1/p}.
    """

    compared = ("rho", "k")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        p: float = math.inf,
        *,
        rho: float,
        k: int = 10,
        group: int = 32,
        identity_init: bool = False,
        device=None,
        dtype=None,
    ):
        _check_positive(group=group)
        self.rho, self.k, self.group = check_rho(rho), check_k(k), group
        super().__init__(in_features, out_features, bias, p, identity_init, device, dtype)

    @property
    def lipschitz(self) -> float:
        return super().lipschitz if self.training else 1.0

    def _distances(self, x: Tensor) -> Tensor:
        if self.rho == 1:
            return ops.dist(x, self.weight, self.p if self.training else math.inf)
        if not self.training:
            return ops.sorted_dist(x, self.weight, self.rho, self.k)
        check_rows(x, self.weight)
        groups = x.split(self.group)
        keep = random_subsets(len(groups), self.in_features, self.rho)
        return torch.cat(
            [
                ops.dist(rows.index_select(1, kept), self.weight.index_select(1, kept), self.p)
                for rows, kept in zip(groups, (a.nonzero().squeeze(1).to(x.device) for a in keep))
            ]
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rho={self.rho}, k={self.k}, group={self.group}"


def random_subsets(count: int, features: int, rho: float) -> Tensor:
    """``count`` subsets of the features, each keeping a feature with probability ρ, given that it keeps one.

    Exact without drawing again: the first kept feature is i with a probability proportional to (1 − ρ)^i, and
    those after it are independent.  Returns (count, features) bool on the CPU.
    """
    position = torch.arange(features, device="cpu")
    first = torch.multinomial((1 - rho) ** position.double(), count, replacement=True).unsqueeze(1)
    kept = torch.rand(count, features, device="cpu") < rho
    return (position == first) | (position > first) & kept


class LinfDistConv2d(_Distance):
    """The ℓ∞-distance neuron slid over an image: each window's ℓp distance to each kernel.

    Arguments as ``torch.nn.Conv2d``; padding is with zeros, which are coordinates like any other.
    Zhang et al. (arXiv 2102.05363), section 3.1.

    Shape: (N, in_channels, H, W) → (N, out_channels, H', W'), sizes as ``torch.nn.Conv2d``.
    ``lipschitz`` with respect to ℓ∞: 1 at p = ∞, else (in_channels/groups · kh · kw)^{1/p}.
    """

    compared = ("stride", "padding", "dilation", "groups")

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        p: float = math.inf,
        *,
        identity_init: bool = False,
        device=None,
        dtype=None,
    ):
        _check_positive(in_channels=in_channels, out_channels=out_channels, groups=groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = _pair("kernel_size", kernel_size, 1)
        self.stride = _pair("stride", stride, 1)
        self.padding = _pair("padding", padding, 0)
        self.dilation = _pair("dilation", dilation, 1)
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        super().__init__(shape, bias, p, identity_init, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        check_tensors(x=x, weight=self.weight)
        if x.dim() != 4 or (not torch.jit.is_tracing() and x.shape[1] != self.in_channels):
            raise ValueError(f"x must have shape (N, {self.in_channels}, H, W), got {tuple(x.shape)}")
        conv = (self.stride, self.padding, self.dilation, self.groups)
        if not torch.jit.is_tracing() and min(output_shape(x.shape, self.weight.shape, conv)[2:]) < 1:
            raise ValueError(f"x of {tuple(x.shape[2:])} pixels is smaller than the kernel {self.kernel_size}")
        y = torch.ops.linf.dist_conv2d(x, self.weight, self.p, *conv)
        return y if self.bias is None else ops.shift(y, self.bias)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}, p={self.p}"
        )


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

    def __init__(self, num_features: int, momentum: float = 0.1, *, device=None, dtype=None):
        _check_positive(num_features=num_features)
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
        _check_positive(size=size)
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


def _row_norm(layer: nn.Module) -> float:
    """The ∞ → ∞ operator norm of a linear map given by the rows of its weight: the largest ℓ1 norm."""
    return float(layer.weight.detach().double().abs().flatten(1).sum(1).max())


# ℓ∞ Lipschitz bounds of stock layers.
STOCK_LIPSCHITZ = {
    nn.Linear: _row_norm,
    nn.Conv2d: _row_norm,
    nn.ReLU: lambda _: 1.0,
    nn.Tanh: lambda _: 1.0,
    nn.Flatten: lambda _: 1.0,
    nn.Identity: lambda _: 1.0,
}


def flat_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of nested ``Sequential``s in the order of their application; of any other module, itself.

    Raises:
        TypeError: a ``Sequential`` has a forward of its own, so that it is not the composition of its layers.
    """
    if not isinstance(model, nn.Sequential):
        return [model]
    if getattr(model.forward, "__func__", None) is not nn.Sequential.forward:
        raise TypeError(f"{type(model).__name__} has a forward of its own: it is not one layer after the other")
    return [layer for child in model for layer in flat_layers(child)]


def lipschitz_bound(module: nn.Module) -> float:
    """An ℓ∞ → ℓ∞ Lipschitz bound of a layer, or of a ``Sequential``: the product of its layers' bounds.

    Raises:
        TypeError: a layer, or a ``Sequential`` with a forward of its own, states no ``lipschitz`` and is not a stock
            layer with a known bound; or an object has another forward than its class.
        RuntimeError: it has forward hooks, which may change what it computes.
    """
    check_forward(f"the {type(module).__name__}", module)
    if type(module) in STOCK_LIPSCHITZ:
        return STOCK_LIPSCHITZ[type(module)](module)
    if isinstance(module, nn.Sequential) and getattr(module.forward, "__func__", None) is nn.Sequential.forward:
        return math.prod(lipschitz_bound(layer) for layer in module)
    if not hasattr(module, "lipschitz"):
        raise TypeError(f"no Lipschitz bound is known for {type(module).__name__}; give it an attribute lipschitz")
    return float(module.lipschitz)


def distance_layers(model: nn.Module) -> list[nn.Module]:
    """The distance layers of a model, in order."""
    return [m for m in model.modules() if isinstance(m, _Distance)]


def set_p(model: nn.Module, p: float) -> None:
    """Sets the exponent of every distance layer of a model.  Raises as ``LinfDistLinear.p`` does."""
    p = check_p(p)
    for layer in distance_layers(model):
        layer.p = p


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


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in pair):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return pair
