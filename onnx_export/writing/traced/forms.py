"""Common forms of operations that move, average or compare numbers: reshapes, transposes, slices, pads, pools.

Such an operation is known by its index, which names a number of the inputs for each number of the output.  A form says
in a few sizes what the index says in many numbers.  Every form that is found is checked: it gives exactly the index.
An index without a form is written into the file as it is.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]
Form = tuple[str, dict[str, Any]]  # name and arguments

MOST_DIMENSIONS = 6  # of a value in which transposes and sums over some dimensions are looked for


def numbered(shape: Shape, begin: int = 0) -> Tensor:
    """Returns the place of each number of a value: begin, begin + 1, …"""
    return torch.arange(begin, begin + math.prod(shape)).view(shape)


# Moves.


def move_index(form: Form, inputs: list[Shape]) -> Tensor:
    """Returns the index of a move.  Raises RuntimeError, IndexError or ValueError if the form does not fit the inputs.

    ====================  =============================================================================
    reshape, shape        the numbers keep their order
    transpose, perm       dimension d of the output is dimension perm[d] of the input
    take, axes            dimension d takes the places axes[d]; None takes all
    pad, pads             zeros around the value, as F.pad takes their numbers
    concat, axis          the inputs one after the other
    ====================  =============================================================================
    """
    name, arguments = form
    if name == "concat":
        begins = itertools.accumulate(map(math.prod, inputs), initial=0)
        return torch.cat([numbered(shape, begin) for shape, begin in zip(inputs, begins)], arguments["axis"])
    (shape,) = inputs
    if name == "reshape":
        return numbered(shape).view(arguments["shape"])
    if name == "transpose":
        return numbered(shape).permute(arguments["perm"])
    if name == "pad":
        return F.pad(numbered(shape), arguments["pads"], value=-1)
    index = numbered(shape)
    for axis, places in enumerate(arguments["axes"]):
        if places is not None:
            index = index.index_select(axis, torch.tensor(places, dtype=torch.long))
    return index


def move_form(index: Tensor, inputs: list[Shape]) -> Form | None:
    """Returns the form of an index, or None if none of ``move_index`` gives it."""
    for form in _moves(index, inputs):
        try:
            if torch.equal(move_index(form, inputs), index):
                return form
        except (IndexError, RuntimeError, ValueError):
            continue
    return None


def _moves(index: Tensor, inputs: list[Shape]) -> Iterator[Form]:
    """Yields forms that may give the index."""
    shape = tuple(index.shape)
    if len(inputs) > 1:
        yield from (("concat", {"axis": axis}) for axis in range(len(shape)))
        return
    (before,) = inputs
    if index.numel() == math.prod(before):
        yield "reshape", {"shape": list(shape)}
    if sorted(shape) == sorted(before) and len(shape) <= MOST_DIMENSIONS:
        yield from (("transpose", {"perm": list(perm)}) for perm in itertools.permutations(range(len(shape))))
    if len(shape) != len(before) or not index.numel():
        return
    steps = [math.prod(before[d + 1 :]) for d in range(len(before))]
    inside = (index >= 0).nonzero()
    if len(inside) and len(inside) < index.numel():
        first, last = inside.amin(0).tolist(), inside.amax(0).tolist()
        around = [(a, size - 1 - b) for a, b, size in zip(first, last, shape)]
        yield "pad", {"pads": [n for pair in reversed(around) for n in pair]}
    lines = [index[tuple(slice(None) if k == d else 0 for k in range(len(shape)))] for d in range(len(shape))]
    places = [(line // step % size).tolist() for line, step, size in zip(lines, steps, before)]
    yield "take", {"axes": [None if p == list(range(size)) else p for p, size in zip(places, before)]}


# Numbers that are averaged or compared together, in the last dimension of an index.


def group_index(form: Form, shapes: list[Shape]) -> Tensor:
    """Returns the index of a sum, a mean or a maximum; −1 stands for a zero beside the image.

    ====================  =============================================================================
    over, axes, keepdims  over whole dimensions of the value
    window, kernel, …     over windows of each channel, for each dimension: kernel, stride, (begin, end) pads, dilation
    pair                  of two values of one shape, number by number
    ====================  =============================================================================
    """
    name, arguments = form
    if name == "pair":
        first, second = shapes
        return torch.stack([numbered(first), numbered(second, math.prod(first))], -1)
    (shape,) = shapes
    if name == "over":
        axes = arguments["axes"]
        kept = [d for d in range(len(shape)) if d not in axes]
        index = numbered(shape).permute(*kept, *axes).flatten(len(kept))
        for axis in axes if arguments["keepdims"] else ():
            index = index.unsqueeze(axis)
        return index
    geometry = zip(shape[1:], *(arguments[key] for key in ("kernel", "stride", "pads", "dilation")))
    return _windows(shape, [_places(*each) for each in geometry])


def _places(size: int, kernel: int, stride: int, pads: list[int], dilation: int) -> Tensor:
    """Returns the pixels of each window along one dimension, (windows, kernel); −1 outside."""
    count = (size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
    at = torch.arange(max(count, 0)).unsqueeze(1) * stride - pads[0] + torch.arange(kernel) * dilation
    return torch.where((at >= 0) & (at < size), at, -1)


def _windows(shape: Shape, places: list[Tensor]) -> Tensor:
    """Returns the numbers under each window, (*output, numbers of a window); −1 outside the image."""
    index, leading = numbered(shape), len(shape) - len(places)
    for at in places:  # the next dimension of pixels becomes two at the end: windows, and pixels of a window
        index = torch.where(at < 0, -1, index.movedim(leading, -1)[..., at.clamp_min(0)])
    order = [leading + 2 * d for d in range(len(places))] + [leading + 2 * d + 1 for d in range(len(places))]
    return index.permute(*range(leading), *order).flatten(leading + len(places))


def filled(index: Tensor) -> Tensor:
    """Returns the index of a maximum: instead of a zero beside the image, a window names a pixel of its own twice."""
    inside = index.gather(-1, (index >= 0).long().argmax(-1, keepdim=True))
    return torch.where(index < 0, inside, index)


def group_form(index: Tensor, inputs: list[Shape], fill: bool = False) -> Form | None:
    """Returns the form of an index, or None if none of ``group_index`` gives it; with ``fill``, if none gives it after
    ``filled``."""
    if index.numel() == 0 or len(inputs) > 2:
        return None
    if len(inputs) == 2:
        forms: Iterable[Form] = [("pair", {})] if inputs[0] == inputs[1] and index.shape[-1] == 2 else []
    else:
        forms = _groups(index, inputs[0])
    for form in forms:
        found = group_index(form, inputs)
        if found.shape == index.shape and torch.equal(filled(found) if fill else found, index):
            return form
    return None


def _groups(index: Tensor, shape: Shape) -> Iterator[Form]:
    """Yields forms that may give the index."""
    rank, outputs, terms = len(shape), tuple(index.shape[:-1]), index.shape[-1]
    for count in range(1, rank + 1 if rank <= MOST_DIMENSIONS else 0):
        for axes in map(list, itertools.combinations(range(rank), count)):
            if math.prod(shape[d] for d in axes) != terms:
                continue
            for keepdims in (False, True):
                left = tuple(1 if d in axes else n for d, n in enumerate(shape) if keepdims or d not in axes)
                if left == outputs:
                    yield "over", {"axes": axes, "keepdims": keepdims}
    if len(outputs) == rank > 1 and outputs[0] == shape[0]:
        found = [_along(index[0], shape[1:], d) for d in range(rank - 1)]
        if None not in found:
            kernel, stride, pads, dilation = (list(each) for each in zip(*found))
            if math.prod(kernel) == terms:
                yield "window", {"kernel": kernel, "stride": stride, "pads": pads, "dilation": dilation}


def _along(index: Tensor, shape: Shape, axis: int) -> tuple[int, int, list[int], int] | None:
    """Returns (kernel, stride, pads, dilation) of windows along one dimension, or None if there are none.

    Args:
        index: (*windows, numbers of a window), of the first channel.
        shape: of the image, as many sizes as there are dimensions of windows.
        axis: the dimension.
    """
    size = shape[axis]
    at = torch.where(index < 0, -1, index // math.prod(shape[axis + 1 :]) % size)
    lists = [sorted(set(line.flatten().tolist()) - {-1}) for line in at.unbind(axis)]
    kernel = max(map(len, lists))
    first = next(i for i, line in enumerate(lists) if len(line) == kernel)
    dilation = lists[first][1] - lists[first][0] if kernel > 1 else 1
    for stride in range(1, size + 1):
        begin = stride * first - lists[first][0]
        end = (len(lists) - 1) * stride + dilation * (kernel - 1) + 1 - begin - size
        pads = [begin, max(end, 0)]
        if dilation > 0 and 0 <= begin < kernel > pads[1]:
            places = _places(size, kernel, stride, pads, dilation).tolist()
            if [sorted(set(line) - {-1}) for line in places] == lists:
                return kernel, stride, pads, dilation
    return None
