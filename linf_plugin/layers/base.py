"""The base classes of distance layers: weight, bias and the exponent p."""

import torch
from torch import Tensor, nn

from .. import ops
from ..arguments import check_p, check_tensors
from ..state import Constants

Device = torch.device | str | int | None  # as ``torch.empty`` takes it

IDENTITY_WEIGHT = -10.0  # far below every input, so the neuron gives x_i + 10; a mean shift then removes the 10


def add_weight(layer: nn.Module, shape: tuple[int, ...], bias: bool, device: Device, dtype: torch.dtype | None) -> None:
    """Gives a layer the parameters ``weight`` and ``bias``, which has a number a row or is None.  No values are set."""
    layer.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
    layer.register_parameter("bias", nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype)) if bias else None)


class Distance(Constants):
    """The base of linear and convolutional distance layers: it has the weight, the bias and p."""

    restored = ("p",)
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        weight_shape: tuple[int, ...],
        bias: bool,
        p: float,
        identity_init: bool,
        device: Device,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        self.p = p
        self.identity_init = identity_init
        add_weight(self, weight_shape, bias, device, dtype)
        self.reset_parameters()

    @property
    def p(self) -> float:
        """The exponent in [1, ∞].  Assigning anything else raises ValueError or TypeError."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = check_p(value)

    def reset_parameters(self) -> None:
        """Draws the weights from N(0, 1) and sets the bias to 0.

        With ``identity_init``, output i starts as a copy of input i mod in, counted among the inputs of its group.
        """
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        out, channels = self.weight.shape[:2]
        if self.identity_init and 0 < channels <= out:
            centre = tuple(k // 2 for k in self.weight.shape[2:])
            rows = torch.arange(out)
            with torch.no_grad():
                at: tuple[Tensor | int, ...] = (rows, rows % channels, *centre)
                self.weight[at] = IDENTITY_WEIGHT


class DistanceLinear(Distance):
    """The base of fully connected distance layers.  Each defines ``_distances``, (N, in) → (N, out).

    While auto_LiRPA traces a net, ``_distances`` takes (N, *, in), and gives (N, *, out).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        p: float,
        identity_init: bool,
        device: Device,
        dtype: torch.dtype | None,
    ):
        check_positive(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features = in_features, out_features
        super().__init__((out_features, in_features), bias, p, identity_init, device, dtype)

    def _distances(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        check_tensors(x=x, weight=self.weight)
        if x.dim() == 0:
            raise ValueError(f"x must have shape (..., {self.in_features}), got ()")
        whole = x.dim() == 2 or ops.is_one_operator()  # or else rows of it
        if x.dim() == 1 and whole:
            raise ValueError(
                f"x must have shape (N, …, {self.in_features}) for bounds, got {tuple(x.shape)}: auto_LiRPA takes the "
                "first dimension for the samples, so give a batch, for example x.unsqueeze(0)"
            )
        y = self._distances(x if whole else x.reshape(-1, x.shape[-1]))
        if self.bias is not None:
            y = ops.shift_along(y, self.bias)
        return y if whole else y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, p={self.p}"


def distance_layers(model: nn.Module) -> list[Distance]:
    """Returns the distance layers of a model, in order."""
    return [m for m in model.modules() if isinstance(m, Distance)]


def set_p(model: nn.Module, p: float) -> None:
    """Sets the exponent of every distance layer of a model.  Raises the same errors as an assignment to ``p``."""
    p = check_p(p)
    for layer in distance_layers(model):
        layer.p = p


def check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {type(size).__name__}")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in pair):
        raise TypeError(f"{name} must be an int or a pair of ints, got {value!r}")
    if min(pair) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return pair
