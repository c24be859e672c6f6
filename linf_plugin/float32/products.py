"""Whether this process multiplies float32 numbers as docs/math.md assumes: asked of its settings, and probed.

Settings tell what may happen: they are read first, and their messages say what to change.  A probe tells what does
happen.  Layers of the same geometry multiply numbers whose products are known exactly, in batches of several sizes,
since libraries choose by size what they run.
"""

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = (1, 2, 16, 256)  # batches that a linear layer is probed with
IMAGES = (1, 2, 16)  # and a convolution: NNPACK begins at 16, oneDNN at 2
WORK = 1 << 32  # products in a probe: larger batches than that are left out
EXPONENTS = 20  # of factors, either way: a block that shares an exponent, or a transform, cannot hold them
SEED = 0

# Device → environment variables that make a library compute in less than float32, the values at which it does not,
# and what it is.  Most are read when the process starts or at the first product.
ENVIRONMENT = {
    "cpu": {
        "ONEDNN_DEFAULT_FPMATH_MODE": (("STRICT",), "oneDNN"),
        "DNNL_DEFAULT_FPMATH_MODE": (("STRICT",), "oneDNN"),
        "MKL_BLAS_COMPUTE_MODE": (("STANDARD", "NONE"), "MKL"),
    },
    "cuda": {
        "NVIDIA_TF32_OVERRIDE": (("0",), "cuBLAS"),
        "CUBLAS_EMULATE_SINGLE_PRECISION": (("0",), "cuBLAS"),
        "CUBLAS_EMULATE_DOUBLE_PRECISION": (("0",), "cuBLAS"),
        "HIPBLASLT_ALLOW_TF32": (("0",), "hipBLASLt"),
    },
}
_AT_IMPORT = dict(os.environ)
_ABOVE, _BELOW = 0.75 * 2.0**-52, 0.25 * 2.0**-52  # of which 1 + _ABOVE is rounded up, to nearest, and 1 + _BELOW down


def check_environment(device: str, doing: str) -> None:
    """That no environment variable, now or when this module was imported, asks a library of ``device`` for less.

    Raises RuntimeError with its name; ``doing``: what would be computed so.
    """
    for name, (harmless, library) in ENVIRONMENT[device].items():
        for value in (os.environ.get(name), _AT_IMPORT.get(name)):
            if value and value.strip().upper() not in harmless:
                raise RuntimeError(
                    f"{name}={value} in the environment lets {library} {doing} in less than float32, which no bound of "
                    f"the rounding error covers: start the process without it"
                )


def _nnpack_convolves() -> bool:
    """Whether this process leaves convolutions of large batches to NNPACK: where oneDNN does not come first."""
    onednn = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return not onednn and torch.backends.nnpack.is_available() and torch._C._get_nnpack_enabled()


def _precisions(kind: type, cuda: bool) -> Iterator[tuple[str, str]]:
    """The settings of torch that say in what a layer multiplies, as (name, value).

    A convolution of one image, or without oneDNN, is a matrix product: both settings are its.
    """
    if cuda:
        yield "torch.backends.cuda.matmul.fp32_precision", torch.backends.cuda.matmul.fp32_precision
        return
    yield "torch.backends.mkldnn.matmul.fp32_precision", torch.backends.mkldnn.matmul.fp32_precision
    if kind is nn.Conv2d:
        yield "torch.backends.mkldnn.conv.fp32_precision", torch.backends.mkldnn.conv.fp32_precision


def check_settings(kind: type, cuda: bool) -> None:
    """That the settings of this process let a layer of ``kind``, nn.Linear or nn.Conv2d, multiply in float32.

    Raises RuntimeError that names the setting.
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


def check_rounding() -> None:
    """That this thread rounds to nearest.  (A GPU always does.)

    Raises RuntimeError: a library has set another direction, for numbers of all types.
    """
    if (1.0 + _ABOVE, 1.0 + _BELOW, -1.0 - _ABOVE, -1.0 - _BELOW) != (1 + 2.0**-52, 1.0, -1 - 2.0**-52, -1.0):
        raise RuntimeError(
            "this thread does not round to nearest, as every bound of the rounding error assumes: a library changed "
            "the direction; set it back with fesetround(FE_TONEAREST) of the C library"
        )


def _numbers(shape: Iterable[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers of both signs, exponents from −EXPONENTS to EXPONENTS and all digits, laid out as ``like``.

    The last digit is 1, so that none is a number of fewer digits.
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
    """How far y is from what is expected, as a part of it; 0 where all are equal."""
    if torch.equal(y, expected):
        return 0.0
    off = ((y.double() - expected.double()).abs() / expected.double().abs()).nan_to_num(0.0, math.inf)  # 0/0: equal
    return off.max().item() or math.inf  # y is NaN


def linear_error(multiply: Callable[[Tensor, Tensor], Tensor], rows: tuple[int, ...], like: Tensor) -> float:
    """How far ``multiply(x, w)``, x·wᵀ, is from products that are known exactly; 0: it rounds as assumed.

    Each row of x is 0 but in one place: an output has one product that is not 0.  Rounded once, or fused into an
    addition of 0, in any order, it is the rounded product.  x is (*rows, in), w ``like`` the weights (out, in).
    """
    generator = torch.Generator().manual_seed(SEED)
    features = like.shape[1]
    w, value = _numbers(like.shape, like, generator), _numbers((*rows, 1), like, generator)
    at = torch.randint(features, (*rows, 1), generator=generator).to(like.device)
    x = like.new_zeros(*rows, features).scatter_(-1, at, value)
    return _off(multiply(x, w), value * w.t()[at[..., 0]])


class PaddedWindows(NamedTuple):
    """Where the windows of any convolution lie: stride, dilation and groups as ``nn.Conv2d`` names them.

    Unlike those of a distance layer, they can be padded by another mode than with zeros, and differently on each side:
    pads are (left, right, top, bottom), mode is that of F.pad.
    """

    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pads: tuple[int, int, int, int]
    mode: str = "constant"


Geometry = PaddedWindows  # the name under which onnx_export imports it


def convolution_error(
    convolve: Callable[[Tensor, Tensor], Tensor],
    geometry: PaddedWindows,
    images: tuple[int, int, int, int],
    like: Tensor,
) -> float:
    """The same of ``convolve(x, w)``, x being images (N, C, H, W).

    Pixels that are not 0 lie so far apart that no window has two in a group of channels, and near enough for a tile of
    a transform to hold several, of very different sizes.  Windows that have two, by the way in which the layer pads,
    are left out.
    """
    generator = torch.Generator().manual_seed(SEED)
    w = _numbers(like.shape, like, generator)  # first, so that it is the same in every batch
    (n, channels, height, width), groups = images, geometry.groups
    out, depth, *kernel = like.shape
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel)]
    top, left = (int(torch.randint(min(r, size), (), generator=generator)) for r, size in zip(reach, (height, width)))
    x = like.new_zeros(n, groups, depth, height, width)
    some = x[..., top :: reach[0], left :: reach[1]]
    channel = torch.randint(depth, (n, groups, 1, *some.shape[3:]), generator=generator).to(like.device)
    some.scatter_(2, channel, _numbers(channel.shape, like, generator))
    y = convolve(x.view(n, channels, height, width), w)

    # In each window the one pixel that is not 0, and its place in the kernel: sums with one term, a shift at a time.
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


def batches(layer_products: int, sizes: tuple[int, ...]) -> list[int]:
    """The batches to probe: all but those that would take long.  The argument bounds the products of one input."""
    return [n for n in sizes if n <= 2 or n * layer_products <= WORK]


def _probe(layer: nn.Linear | nn.Conv2d, shape: tuple[int, ...], dtype: torch.dtype) -> str | None:
    """None where the layer multiplies numbers of this type as assumed, on inputs (*, *shape); else what is wrong."""
    like = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else like.new_zeros(len(like))
    errors = {}  # description of inputs → what to call
    if isinstance(layer, nn.Linear):
        for n in batches(math.prod(shape) * len(like), ROWS):
            errors[f"{n} inputs of shape {shape}"] = functools.partial(
                linear_error, lambda x, w: F.linear(x, w, bias), (n, *shape[:-1]), like
            )
    else:
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        pads = tuple(layer._reversed_padding_repeated_twice)
        geometry = PaddedWindows(layer.stride, layer.dilation, layer.groups, pads, mode)
        for n in batches(math.prod(shape[1:]) * like.numel(), IMAGES):
            for layout in (torch.contiguous_format, torch.channels_last):
                errors[f"{n} inputs of shape {shape}, {str(layout).removeprefix('torch.')}"] = functools.partial(
                    convolution_error,
                    lambda x, w, layout=layout: layer._conv_forward(x.contiguous(memory_format=layout), w, bias),
                    geometry,
                    (n, *shape),
                    like,
                )
    return first_wrong(errors)


def first_wrong(errors: dict[str, Callable[[], float]]) -> str | None:
    """What to say of the first error that is not 0; None where all are."""
    for inputs, error in errors.items():
        if off := error():
            return f"in a batch of {inputs} a product is off by {off:.1g} of itself"
    return None


def _settings() -> tuple:
    """What libraries look at, beside sizes, when they choose what to run."""
    precisions = (value for cuda in (False, True) for _, value in _precisions(nn.Conv2d, cuda))  # all there are
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
    """All that decides the shape of its output and how it is computed, but for the values of tensors."""
    tensors = tuple((a.shape, a.stride(), a.dtype, a.device) for a in layer._parameters.values() if a is not None)
    plain = tuple((k, v) for k, v in vars(layer).items() if isinstance(v, (int, float, str, tuple)))
    return type(layer), tensors, plain


_passed: set[tuple] = set()


@torch.no_grad()
def check_products(model: nn.Module, parts: list[nn.Module], x: Tensor) -> None:
    """That every nn.Linear and nn.Conv2d of a net multiplies as docs/math.md assumes, on inputs like x.

    A layer is probed once in a process for its geometry, device and settings.

    Args:
        model: the net, for the names of its layers.
        parts: its layers, in order.
        x: (N, *).

    Raises:
        RuntimeError: that a setting or a variable of the environment allows less; or that a layer was seen to compute
            with less.  It names the setting or the layer.
    """
    for kind in (nn.Linear, nn.Conv2d):
        if any(isinstance(layer, kind) for layer in parts):
            check_settings(kind, x.is_cuda)
    check_rounding()
    products = [layer for layer in parts if isinstance(layer, (nn.Linear, nn.Conv2d))]
    if not products:
        return
    settings = x.device, _settings()
    net = settings, x.shape[1:], *map(_description, parts)
    if net in _passed:
        return
    h = x.new_zeros(1, *x.shape[1:])
    for layer in parts:
        alone = settings, h.shape[1:], _description(layer)
        for dtype in (torch.float32, torch.float64) if layer in products and alone not in _passed else ():
            wrong = _probe(layer, tuple(h.shape[1:]), dtype)
            if wrong:
                name = next((name for name, module in model.named_modules() if module is layer), "")
                raise RuntimeError(
                    f"layer {name!r} ({type(layer).__name__}) is not computed in {str(dtype).removeprefix('torch.')}: "
                    f"{wrong}, which no bound of the rounding error covers.  A setting or an environment variable of "
                    "oneDNN, MKL, cuBLAS or another library lets it round its factors or transform them "
                    "(docs/math.md lists them): start the process without it"
                )
        if layer in products:
            _passed.add(alone)
        h = layer(h)
    _passed.add(net)
