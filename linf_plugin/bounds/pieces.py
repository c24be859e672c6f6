"""Convolutions of float64 numbers on a CPU, a few samples at a time.

For these PyTorch writes all numbers under the kernel into one buffer for the whole batch.  Beyond some megabytes the
buffer leaves the cache, and its memory is new each time; then most of the time goes into the buffer.  Its transposed
convolution also treats one sample after the other.
"""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST = 2**16  # numbers at the input of a net, for each output, from which on pieces are worth their overhead
BUFFER = 2**20  # numbers in the buffer of a piece, at most: 8 MB


def _pair(a) -> tuple[int, int]:
    return (a, a) if isinstance(a, int) else tuple(a) * (3 - len(a))


def conv2d(x: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """``torch.conv2d``, a few samples at a time: every sample gets the same numbers."""
    example = torch.conv2d(x[:0], weight, bias, stride, padding, dilation, groups)
    size = math.prod(example.shape[2:]) * math.prod(weight.shape[1:]) * groups
    return _each(lambda a: torch.conv2d(a, weight, bias, stride, padding, dilation, groups), x, size, example)


def conv_transpose2d(
    x: Tensor, weight: Tensor, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> Tensor:
    """``torch.conv_transpose2d``, a few samples at a time; for one group as one product of matrices and a sum."""
    example = torch.conv_transpose2d(x[:0], weight, bias, stride, padding, output_padding, groups, dilation)
    size = math.prod(x.shape[2:]) * math.prod(weight.shape[1:]) * groups
    if groups > 1:

        def some(a: Tensor) -> Tensor:
            return torch.conv_transpose2d(a, weight, bias, stride, padding, output_padding, groups, dilation)
    else:
        columns = weight.flatten(1).T.contiguous()
        geometry = tuple(map(_pair, (dilation, padding, stride)))

        def some(a: Tensor) -> Tensor:
            y = F.fold(columns @ a.flatten(2), example.shape[2:], tuple(weight.shape[2:]), *geometry)
            return y if bias is None else y + bias.view(-1, 1, 1)

    return _each(some, x, size, example)


def _each(some, x: Tensor, size: int, example: Tensor) -> Tensor:
    """Returns some(x), by pieces of x; ``size`` numbers of the buffer belong to one sample."""
    count = max(1, BUFFER // max(1, size))
    y = x.new_empty(len(x), *example.shape[1:])
    for k in range(0, len(x), count):
        y[k : k + count] = some(x[k : k + count])
    return y


PIECES = {torch.conv2d: conv2d, torch.conv_transpose2d: conv_transpose2d}


class InPieces(TorchFunctionMode):
    """While it is open, convolutions of float64 images on a CPU are computed in pieces, unless a gradient is needed."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in PIECES and self._fits(*args, **kwargs):
            return PIECES[function](*args, **kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def _fits(*args, **kwargs) -> bool:
        x, weight = args[:2] if len(args) > 1 else (None, None)
        if not isinstance(x, Tensor) or x.dim() != 4 or len(x) < 2 or "input" in kwargs or "weight" in kwargs:
            return False
        needed = torch.is_grad_enabled() and any(isinstance(a, Tensor) and a.requires_grad for a in args)
        return x.dtype == weight.dtype == torch.float64 and x.device.type == "cpu" and not needed


def for_net(model: nn.Module, numbers: int) -> contextlib.AbstractContextManager:
    """Returns ``InPieces`` for a net with convolutions whose bounds take so many numbers at its input that pieces help.

    The mode costs some microseconds for each call of PyTorch, which is much for the bounds of a small net.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    helps = numbers >= LEAST and any(isinstance(m, kinds) for m in model.modules())
    return InPieces() if helps else contextlib.nullcontext()
