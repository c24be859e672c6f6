"""Pools: the mean or the largest of each window of an image."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..operations import Average, Largest
from ..values import Builder, Unknown, Value
from .moves import Arguments


def _list(value, count: int) -> list[int]:
    value = [value] if isinstance(value, int) else list(value)
    return value * count if len(value) == 1 else value


def _places(length: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> Tensor:
    """Returns the pixels of each window along one dimension, (windows, kernel); −1 outside the image.

    With ``ceil`` a last window may reach beyond the padded image, but it must begin inside the image or its left
    padding.
    """
    reach = length + 2 * padding - dilation * (kernel - 1) - 1
    count = (reach + (stride - 1 if ceil else 0)) // stride + 1
    if ceil and (count - 1) * stride >= length + padding:
        count -= 1
    at = torch.arange(count).unsqueeze(1) * stride - padding + torch.arange(kernel) * dilation
    return torch.where((at >= 0) & (at < length), at, -1)


def _parts(length: int, count: int) -> Tensor:
    """Returns the pixels of each of ``count`` windows that an adaptive pool takes, padded with −1."""
    begins = [i * length // count for i in range(count)]
    ends = [-(-(i + 1) * length // count) for i in range(count)]
    most = max(e - s for s, e in zip(begins, ends))
    at = torch.tensor(begins).unsqueeze(1) + torch.arange(most)
    return torch.where(at < torch.tensor(ends).unsqueeze(1), at, -1)


def _windows(b: Builder, x: Value, places: list[Tensor]) -> Tensor:
    """Returns the numbers of one sample under each window, (*shape, pixels of a window); −1 outside the image."""
    if x.rows is not None:
        raise Unknown("the rows of its input are joined with the samples")
    index, _ = b.index(lambda samples, xs: xs[0], (x,))
    leading = index.dim() - len(places)
    for at in places:  # the next dimension of pixels becomes two at the end: windows, and pixels of a window
        index = torch.where(at < 0, -1, index.movedim(leading, -1)[..., at.clamp_min(0)])
    order = [leading + 2 * d for d in range(len(places))] + [leading + 2 * d + 1 for d in range(len(places))]
    return index.permute(*range(leading), *order).flatten(leading + len(places))


def _fixed(x: Value, a: Arguments, dims: int) -> list[Tensor]:
    kernel = _list(a["kernel_size"], dims)
    stride = _list(a["stride"] or kernel, dims)
    padding, dilation = _list(a["padding"], dims), _list(a.get("dilation", 1), dims)
    sizes = x.shape[-dims:]
    return [_places(*each, a["ceil_mode"]) for each in zip(sizes, kernel, stride, padding, dilation)]


def _largest(b: Builder, x: Value, places: list[Tensor]) -> Value:
    index = _windows(b, x, places)
    inside = index.gather(-1, (index >= 0).long().argmax(-1, keepdim=True))  # a pixel of the window itself
    index = torch.where(index < 0, inside, index)
    return b.add(Largest(index), (x,), index.shape[:-1])


def _max_pool(dims: int, with_places: bool = False) -> Callable:
    def read(b: Builder, a: Arguments):
        value = _largest(b, a["self"], _fixed(a["self"], a, dims))
        return [value] if with_places else value

    return read


def _average_pool(dims: int) -> Callable[[Builder, Arguments], Value]:
    def read(b: Builder, a: Arguments) -> Value:
        x = a["self"]
        index = _windows(b, x, _fixed(x, a, dims))
        if a.get("divisor_override"):
            divisor = torch.full(index.shape[:-1], a["divisor_override"])
        elif a["count_include_pad"]:
            kernel, padding = _list(a["kernel_size"], dims), _list(a["padding"], dims)
            stride = _list(a["stride"] or kernel, dims)
            divisor = torch.ones((), dtype=torch.long)
            for d, count in enumerate(
                index.shape[-1 - dims : -1]
            ):  # pixels in the padded image, without what is beyond
                begin = torch.arange(count) * stride[d] - padding[d]
                pixels = (begin + kernel[d]).clamp_max(x.shape[len(x.shape) - dims + d] + padding[d]) - begin
                divisor = divisor.unsqueeze(-1) * pixels
            divisor = divisor.expand(index.shape[:-1])
        else:
            divisor = (index >= 0).sum(-1)
        return b.add(Average(index, divisor), (x,), index.shape[:-1])

    return read


def _adaptive(dims: int, largest: bool) -> Callable:
    def read(b: Builder, a: Arguments):
        x = a["self"]
        sizes = [n if size is None else size for n, size in zip(x.shape[-dims:], _list(a["output_size"], dims))]
        places = [_parts(n, count) for n, count in zip(x.shape[-dims:], sizes)]
        if largest:
            return [_largest(b, x, places)]
        index = _windows(b, x, places)
        return b.add(Average(index, (index >= 0).sum(-1)), (x,), index.shape[:-1])

    return read


POOLS: dict[str, Callable] = {
    **{f"aten.max_pool{d}d": _max_pool(d) for d in (1, 2, 3)},
    **{f"aten.max_pool{d}d_with_indices": _max_pool(d, True) for d in (1, 2, 3)},
    **{f"aten.avg_pool{d}d": _average_pool(d) for d in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{d}d": _adaptive(d, False) for d in (1, 2, 3)},
    **{f"aten._adaptive_avg_pool{d}d": _adaptive(d, False) for d in (2, 3)},
    **{f"aten.adaptive_max_pool{d}d": _adaptive(d, True) for d in (1, 2, 3)},
}
