"""One module or several of every type that a node of a traced graph can have, with the shapes of what it takes."""

import torch
from torch import Tensor, nn

from linf_plugin import LinfDistConv2d, LinfDistLinear, MaxMin, ParamRamp, SortDistLinear
from linf_plugin.graphs.operations import (
    Add,
    Affine,
    Average,
    Clamp,
    Elu,
    Gather,
    Largest,
    Limit,
    Multiply,
    Scale,
    Shift,
    Slope,
    Softplus,
)

Shape = tuple[int, ...]


def _numbers(*shape: int, scale: float = 1.0) -> Tensor:
    """float32 numbers, as float64."""
    return (scale * torch.randn(shape)).double()


def _with_image(layer: nn.Module, *image: int) -> nn.Module:
    layer.image = image
    return layer


def _index(*shape: int, numbers: int, padded: bool = False) -> Tensor:
    return torch.randint(-1 if padded else 0, numbers, shape)


def _average() -> Average:
    index = _index(3, 4, numbers=6, padded=True)
    index[:, 0] = 0
    return Average(index, (index >= 0).sum(-1))


def _with_statistics(layer: nn.Module) -> nn.Module:
    """Batch normalisation of channels that are not centred, with variances of any size."""
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.1, 3)
    return layer


def made() -> dict[str, tuple[nn.Module, list[Shape]]]:
    """New ones: name → module in float64, shapes of one sample of its values."""
    found = {
        "moves": (Gather(_index(3, 4, numbers=6, padded=True)), [(6,)]),
        "moves-of-two": (Gather(_index(7, numbers=10)), [(6,), (2, 2)]),
        "average": (_average(), [(6,)]),
        "sum": (Average(_index(3, 5, numbers=6), torch.ones(3)), [(2, 3)]),
        "average-of-two": (Average(_index(2, 3, numbers=8), torch.full((2,), 3)), [(6,), (2,)]),
        "largest": (Largest(_index(3, 4, numbers=6)), [(6,)]),
        "least": (Largest(_index(3, 2, numbers=8), -1), [(6,), (2,)]),
        "sum-of-two": (Add(), [(2, 3), (2, 3)]),
        "difference": (Add(-1), [(5,), (5,)]),
        "product": (Multiply(), [(2, 3), (2, 3)]),
        "affine": (Affine(_numbers(3, 1), _numbers(3, 1), _numbers(3, 1), 12), [(3, 2)]),
        "negation": (Scale(torch.tensor(-1.0), 0), [(4,)]),
        "reversed-difference": (Affine(torch.tensor(-1.0), torch.zeros(()), _numbers(4), 1), [(4,)]),
        "shift": (Shift(_numbers(4)), [(3, 4)]),
        "scale": (Scale(_numbers(3, 1, 1)), [(3, 2, 2)]),
        "quotient": (Scale(1 / _numbers(4), 3), [(4,)]),
        "clamp": (Clamp(-0.5, 1.25), [(5,)]),
        "clamp-below": (Clamp(-0.25, float("inf")), [(5,)]),
        "clamp-above": (Clamp(-float("inf"), 0.75), [(5,)]),
        "limits-below": (Limit(_numbers(3, 1), 1), [(3, 2)]),
        "limits-above": (Limit(_numbers(3, 1, 1), -1), [(3, 2, 2)]),
        "slope": (Slope(torch.tensor(0.125)), [(6,)]),
        "slopes": (Slope(_numbers(3, 1).abs() * 2), [(3, 2)]),
        "elu": (Elu(0.75), [(6,)]),
        "softplus": (Softplus(1.5, 20.0), [(6,)]),
        "sigmoid": (nn.Sigmoid(), [(6,)]),
        "tanh": (nn.Tanh(), [(6,)]),
        "relu": (nn.ReLU(), [(6,)]),
        "identity": (nn.Identity(), [(6,)]),
        "batch-norm": (_with_statistics(nn.BatchNorm1d(4)), [(4,)]),
        "batch-norm-of-lines": (_with_statistics(nn.BatchNorm1d(3)), [(3, 2)]),
        "batch-norm-of-images": (_with_statistics(nn.BatchNorm2d(3)), [(3, 2, 2)]),
        "ramp": (ParamRamp(3), [(3, 2, 2)]),
        "pairs": (MaxMin(), [(4, 2)]),
        "linear": (nn.Linear(4, 3), [(4,)]),
        "linear-on-rows": (nn.Linear(4, 3, bias=False), [(2, 4)]),
        "conv1d": (nn.Conv1d(2, 4, 3, 2, 1, groups=2), [(2, 6)]),
        "conv2d": (nn.Conv2d(2, 3, (2, 3), dilation=(2, 1), padding=1), [(2, 4, 4)]),
        "conv1d-transposed": (_with_image(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2), 3), [(4, 3)]),
        "conv2d-transposed": (_with_image(nn.ConvTranspose2d(2, 3, 2, 2, bias=False), 2, 3), [(2, 2, 3)]),
        "dist": (LinfDistLinear(4, 3), [(4,)]),
        "dist-p": (LinfDistLinear(4, 3, p=3.0), [(2, 4)]),
        "sorted-dist": (SortDistLinear(4, 3, rho=0.4), [(4,)]),
        "dist-conv": (LinfDistConv2d(2, 3, 2, padding=1), [(2, 3, 3)]),
    }
    for module, _ in found.values():
        for a in module.parameters():
            a.data = torch.randn(a.shape)
    return {name: (module.double().eval().requires_grad_(False), shapes) for name, (module, shapes) in found.items()}


NAMES = tuple(made())
