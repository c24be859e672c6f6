"""Checks that this process multiplies float32 numbers as docs/math.md assumes: by its settings, and by probes.

Settings tell what may happen.  They are read first, and the messages say what to change.  A probe tells what does
happen: a layer of the same geometry multiplies numbers whose products are known exactly.  It does so in batches of
several sizes, because libraries choose their routines by size.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graphs.fusion import PRODUCTS
from ..graphs.graph import Graph
from ..intervals import apply_affine
from ..process import check_environment, check_rounding

ROWS = (1, 2, 16, 256)  # batch sizes with which a linear layer is probed
IMAGES = (1, 2, 16)  # batch sizes for a convolution: NNPACK starts at 16 images, oneDNN at 2
WORK = 1 << 32  # products of one probe: batches with more are left out
EXPONENTS = 20  # factors lie between 2^-20 and 2^21: transforms, and blocks that share an exponent, cannot hold them
SEED = 0
CONVOLUTIONS = tuple(kind for kind in PRODUCTS if kind is not nn.Linear)


def _nnpack_convolves() -> bool:
    """Whether NNPACK computes convolutions of large batches in this process, which it does only without oneDNN."""
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return not onednn and torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()


def _precisions(kind: type, cuda: bool) -> Iterator[tuple[str, str]]:
    """Yields (name, value) of torch's settings that decide the precision of a layer's products.

    A convolution of one image, or without oneDNN, is a matrix product, so both CPU settings apply to it.
    """
    if cuda:
        yield "torch.backends.cuda.matmul.fp32_precision", torch.backends.cuda.matmul.fp32_precision
        return
    yield "torch.backends.mkldnn.matmul.fp32_precision", torch.backends.mkldnn.matmul.fp32_precision
    if kind is nn.Conv2d:
        yield "torch.backends.mkldnn.conv.fp32_precision", torch.backends.mkldnn.conv.fp32_precision


def check_settings(kind: type, cuda: bool) -> None:
    """Raises RuntimeError if a setting of this process lets a layer multiply in less than float32.

    ``kind`` is nn.Linear or nn.Conv2d.  The message names the setting.
    """
    check_environment("cuda" if cuda else "cpu", f"compute {kind.__name__}")
    for name, value in _precisions(kind, cuda):
        if value not in ("none", "ieee"):
            raise RuntimeError(
                f"{kind.__name__} would multiply float32 numbers as {value} ({name}), which no bound of the rounding "
                f"error covers: call torch.set_float32_matmul_precision('highest'), or set it to 'ieee', before "
                "certifying"
            )
    if kind is nn.Conv2d and cuda and torch.backends.cudnn.enabled:
        raise RuntimeError(
            "cuDNN may convolve in TF32 or by transforms, which no bound of the rounding error covers: "
            "set torch.backends.cudnn.enabled = False before certifying a net with nn.Conv2d"
        )
    if kind is nn.Conv2d and not cuda and _nnpack_convolves():
        raise RuntimeError(
            "without oneDNN, NNPACK may convolve by transforms, which no bound of the rounding error covers: "
            "call torch.backends.nnpack.set_flags(False) before certifying a net with nn.Conv2d"
        )


# Probes.


def _numbers(shape: Iterable[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns random numbers of both signs, with exponents from −EXPONENTS to EXPONENTS, laid out as ``like``.

    They use all their binary digits: the last digit is 1, so that none of them is a number of fewer digits.
    """
    shape = tuple(shape)
    digits = torch.rand(shape, dtype=torch.float64, generator=generator) + 1
    exponents = torch.randint(-EXPONENTS, EXPONENTS + 1, shape, generator=generator)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    to = torch.empty_like(like) if like.shape == shape else like.new_empty(shape)
    to.copy_(signs * torch.ldexp(digits, exponents))
    to.view(torch.int64 if to.dtype == torch.float64 else torch.int32).bitwise_or_(1)
    return to


def _off(y: Tensor, expected: Tensor) -> float:
    """Returns the largest relative error of y; 0 if all numbers are equal."""
    if torch.equal(y, expected):
        return 0.0
    off = ((y.double() - expected.double()).abs() / expected.double().abs()).nan_to_num(0.0, math.inf)  # 0/0: equal
    return off.max().item() or math.inf  # where the only difference is a NaN in y


def linear_error(multiply: Callable[[Tensor, Tensor], Tensor], rows: tuple[int, ...], like: Tensor) -> float:
    """Returns the largest relative error of ``multiply(x, w)``, which is x·wᵀ; 0 if it rounds as assumed.

    Each row of x has one number that is not 0, so each output has one product that is not 0.  The output must be this
    product, rounded once, in any order of the sum and also if the product is fused into an addition of 0.

    Args:
        multiply: (x, w) → x·wᵀ.
        rows: x has the shape (*rows, in).
        like: weights (out, in); w gets their shape, type and layout.
    """
    generator = torch.Generator().manual_seed(SEED)
    features = like.shape[1]
    w, value = _numbers(like.shape, like, generator), _numbers((*rows, 1), like, generator)
    at = torch.randint(features, (*rows, 1), generator=generator).to(like.device)
    x = like.new_zeros(*rows, features).scatter_(-1, at, value)
    return _off(multiply(x, w), value * w.t()[at[..., 0]])


class PaddedWindows(NamedTuple):
    """Where the windows of any convolution lie: stride, dilation and groups as ``nn.Conv2d`` names them.

    Unlike those of a distance layer, they can have another padding on each side, and a padding that is not zeros.
    ``pads`` is (left, right, top, bottom), and ``mode`` is that of F.pad.
    """

    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pads: tuple[int, int, int, int]
    mode: str = "constant"


def convolution_error(
    convolve: Callable[[Tensor, Tensor], Tensor],
    geometry: PaddedWindows,
    images: tuple[int, int, int, int],
    like: Tensor,
) -> float:
    """Returns the largest relative error of ``convolve(x, w)``; 0 if it rounds as assumed.  x has the shape ``images``.

    The pixels that are not 0 lie so far apart that no window has two of them in a group of channels.  They lie near
    enough for a tile of a transform to hold several, of very different sizes.  A window that gets two of them from the
    layer's padding is left out.
    """
    generator = torch.Generator().manual_seed(SEED)
    w = _numbers(like.shape, like, generator)  # drawn first, so that it is the same for every batch size
    (n, channels, height, width), groups = images, geometry.groups
    out, depth, *kernel = like.shape
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel)]
    top, left = (int(torch.randint(min(r, size), (), generator=generator)) for r, size in zip(reach, (height, width)))
    x = like.new_zeros(n, groups, depth, height, width)
    some = x[..., top :: reach[0], left :: reach[1]]
    channel = torch.randint(depth, (n, groups, 1, *some.shape[3:]), generator=generator).to(like.device)
    some.scatter_(2, channel, _numbers(channel.shape, like, generator))
    y = convolve(x.view(n, channels, height, width), w)

    # Find the pixel of each window that is not 0, and its place in the kernel: sums over all shifts, one term in each.
    planes = [(x != 0).sum(2), x.sum(2), (x != 0).long().argmax(2)]
    planes = [F.pad(a.to(like.dtype), geometry.pads, mode=geometry.mode) for a in planes]
    count, value, at = like.new_zeros(3, n, groups, *y.shape[2:])
    for i, j in itertools.product(*map(range, kernel)):
        rows, columns = (
            slice(d * k, d * k + s * (size - 1) + 1, s)
            for d, k, s, size in zip(geometry.dilation, (i, j), geometry.stride, y.shape[2:])
        )
        there, pixel, number = (a[..., rows, columns] for a in planes)
        count += there
        value += pixel
        at += there * (number * math.prod(kernel) + i * kernel[1] + j)
    count, value, at = (a.transpose(0, 1).reshape(groups, 1, -1) for a in (count, value, at))
    kernels, one = w.reshape(groups, out // groups, -1), count <= 1
    at = torch.where(one, at, 0).long().expand(-1, out // groups, -1)
    y = y.transpose(0, 1).reshape(at.shape)
    return _off(torch.where(one, y, 0), torch.where(one, value * kernels.gather(2, at), 0))


def transposed_error(
    convolve: Callable[[Tensor, Tensor], Tensor],
    geometry: PaddedWindows,
    images: tuple[int, int, int, int],
    like: Tensor,
) -> float:
    """Returns the largest relative error of a transposed convolution; 0 if it rounds as assumed.

    As in ``convolution_error``, no output gets two products that are not 0: the places to which two pixels are spread
    do not meet.  ``like`` is (in, out/groups, kh, kw), and ``pads`` are those of nn.ConvTranspose2d.
    """
    generator = torch.Generator().manual_seed(SEED)
    w = _numbers(like.shape, like, generator)
    (n, channels, height, width), groups = images, geometry.groups
    depth, out, *kernel = channels // groups, *like.shape[1:]
    spread = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel)]
    apart = [-(-r // s) for r, s in zip(spread, geometry.stride)]
    x = like.new_zeros(n, groups, depth, height, width)
    some = x[..., :: apart[0], :: apart[1]]
    channel = torch.randint(depth, (n, groups, 1, *some.shape[3:]), generator=generator).to(like.device)
    value = _numbers(channel.shape, like, generator)
    some.scatter_(2, channel, value)
    y = convolve(x.view(n, channels, height, width), w)
    # The outputs before padding is cut off: each pixel is spread over its places, one shift of the kernel at a time.
    sizes = [(m - 1) * s + r for m, s, r in zip((height, width), geometry.stride, spread)]
    whole = like.new_zeros(n, groups, out, *sizes)
    weights = w.view(groups, depth, out, *kernel)
    group = torch.arange(groups, device=like.device).view(1, groups, 1, 1)
    for i, j in itertools.product(*map(range, kernel)):
        product = value * weights[group, channel.squeeze(2), :, i, j].movedim(-1, 2)
        rows, columns = (
            slice(d * k, d * k + s * a * (count - 1) + 1, s * a)
            for d, k, s, a, count in zip(geometry.dilation, (i, j), geometry.stride, apart, some.shape[3:])
        )
        whole[..., rows, columns] += product
    left, _, top, _ = geometry.pads
    expected = F.pad(whole, (0, left + y.shape[3], 0, top + y.shape[2]))  # output_padding adds places without pixels
    expected = expected[..., top : top + y.shape[2], left : left + y.shape[3]].reshape(y.shape)
    return _off(y, expected)


def batches(layer_products: int, sizes: tuple[int, ...]) -> list[int]:
    """Returns the batch sizes to probe, without those that take long.

    ``layer_products`` is an upper bound of the products for one input.
    """
    return [n for n in sizes if n <= 2 or n * layer_products <= WORK]


def _probe(layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
    """Returns None if the layer multiplies numbers of this type as assumed, on inputs (*, *shape); else the fault."""
    like = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else like.new_zeros(len(layer.bias))
    errors = {}  # description of inputs → function that returns the error
    if isinstance(layer, nn.Linear):
        for n in batches(math.prod(shape) * len(like), ROWS):
            errors[f"{n} inputs of shape {shape}"] = functools.partial(
                linear_error, lambda x, w: F.linear(x, w, bias), (n, *shape[:-1]), like
            )
        return first_wrong(errors)
    dims, transposed = like.dim() - 2, layer.transposed
    pixels = math.prod(shape[1:]) * like.numel()
    for n in batches(pixels, IMAGES):
        for layout in (torch.contiguous_format, torch.channels_last) if dims == 2 else (torch.contiguous_format,):

            def convolve(x: Tensor, w: Tensor, layout: torch.memory_format = layout) -> Tensor:
                if dims == 1:
                    return apply_affine(layer, x.squeeze(2), w.squeeze(2), bias).unsqueeze(2)
                return apply_affine(layer, x.contiguous(memory_format=layout), w, bias)

            flat = shape if dims == 2 else (shape[0], 1, shape[1])
            weight = like if dims == 2 else like.unsqueeze(2)
            error = transposed_error if transposed else convolution_error
            errors[f"{n} inputs of shape {shape}, {str(layout).removeprefix('torch.')}"] = functools.partial(
                error, convolve, _windows(layer), (n, *flat), weight
            )
    return first_wrong(errors)


def _windows(layer: nn.Module) -> PaddedWindows:
    """Returns where the windows of a convolution lie, with one row of pixels if it has one dimension."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    stride, dilation = ((1, *a) if len(a) == 1 else a for a in (layer.stride, layer.dilation))
    pads = tuple(layer._reversed_padding_repeated_twice)
    return PaddedWindows(stride, dilation, layer.groups, (*pads, 0, 0) if len(pads) == 2 else pads, mode)


def first_wrong(errors: dict[str, Callable[[], float]]) -> str | None:
    """Returns a description of the first error that is not 0; None if all are 0."""
    for inputs, error in errors.items():
        if off := error():
            return f"in a batch of {inputs} a product is off by {off:.1g} of itself"
    return None


def _settings() -> tuple:
    """Returns the settings by which libraries choose a routine, besides sizes."""
    precisions = (value for cuda in (False, True) for _, value in _precisions(nn.Conv2d, cuda))  # Conv2d reads all
    return (
        torch.get_num_threads(),
        torch.backends.mkldnn.enabled,
        torch.backends.mkldnn.deterministic,
        torch._C._get_nnpack_enabled(),
        torch.backends.cudnn.enabled,
        torch.are_deterministic_algorithms_enabled(),
        torch._C._get_blas_preferred_backend(),
        *precisions,
    )


def _description(layer: nn.Module) -> tuple:
    """Returns all that decides the shape of a layer's output and how it is computed, except the values of tensors."""
    tensors = tuple((a.shape, a.stride(), a.dtype, a.device) for a in layer._parameters.values() if a is not None)
    plain = tuple((k, v) for k, v in vars(layer).items() if isinstance(v, (int, float, str, tuple)))
    return type(layer), tensors, plain


_passed: set[tuple] = set()


@torch.no_grad()
def check_products(model: nn.Module, program: Graph, x: Tensor) -> None:
    """Raises unless every linear layer and convolution of a net multiplies as docs/math.md assumes, on inputs like x.

    In one process a layer is probed once for its geometry, device and settings.

    Args:
        model: the net, which gives the names of the layers.
        program: its operations.
        x: (N, *).

    Raises:
        RuntimeError: a setting or an environment variable allows less than float32, or a probe shows that a layer
            computes in less.  The message names the setting or the layer.
    """
    parts = list(program.parts)
    for kind in (nn.Linear, nn.Conv2d):
        kinds = (nn.Linear,) if kind is nn.Linear else CONVOLUTIONS
        if any(isinstance(layer, kinds) for layer in parts):
            check_settings(kind, x.is_cuda)
    check_rounding()
    if not any(isinstance(layer, PRODUCTS) for layer in parts):
        return
    settings = x.device, _settings()
    net = settings, x.shape[1:], program.inputs, *map(_description, parts)
    if net in _passed:
        return
    weight = next((a for a in program.parameters()), x)
    values = [x.new_zeros(1, *x.shape[1:], dtype=weight.dtype)]
    for layer, inputs, place in program.nodes:
        h = values[inputs[0]]
        alone = settings, h.shape[1:], _description(layer)
        if isinstance(layer, PRODUCTS) and alone not in _passed:
            _check_product(model, layer, place, tuple(h.shape[1:]))
            _passed.add(alone)
        values.append(layer(*(values[i] for i in inputs)))
    _passed.add(net)


def _check_product(model: nn.Module, layer: nn.Module, place: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        wrong = _probe(layer, shape, dtype)
        if wrong:
            name = next((name for name, module in model.named_modules() if module is layer), None)
            what = place if name is None else f"layer {name!r} ({type(layer).__name__})"
            raise RuntimeError(
                f"{what} is not computed in {str(dtype).removeprefix('torch.')}: "
                f"{wrong}, which no bound of the rounding error covers.  A setting or an environment variable of "
                "oneDNN, MKL, cuBLAS or another library makes it round or transform its factors "
                "(docs/math.md lists them): start the process without it"
            )
