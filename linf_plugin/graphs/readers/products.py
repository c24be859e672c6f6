"""Products with weights, and the distances of this package."""

from collections.abc import Callable

from torch import Tensor, nn

from ...layers.distance import LinfDistConv2d, LinfDistLinear
from ...layers.sort import SortDistLinear
from ..values import Builder, Unknown, Value
from .moves import Arguments

OF_DIMENSIONS = {False: {1: nn.Conv1d, 2: nn.Conv2d}, True: {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}}


def _with(module: nn.Module, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Returns the module with this weight and bias, in float64."""
    module.weight = nn.Parameter(weight.double(), requires_grad=False)
    if bias is not None:
        module.bias = nn.Parameter(bias.double(), requires_grad=False)
    return module


def _check_weights(*weights) -> None:
    if any(isinstance(w, Value) for w in weights):
        raise Unknown("its weights depend on the input: nothing is proved about that")


def rows(b: Builder, x: Value, module: nn.Module, features: int) -> Value:
    """Adds a module that maps the last dimension of x."""
    if len(x.of(1)) < 2:
        raise Unknown("its input has no dimension of features")
    return b.add(module, (x,), (*x.shape[:-1], features), x.rows)


def linear(b: Builder, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
    _check_weights(weight, bias)
    if not isinstance(x, Value) or weight.dim() != 2:
        raise Unknown("it multiplies by something else than a matrix of weights on the right")
    out, features = weight.shape
    layer = _with(nn.Linear(features, out, bias is not None, device="meta"), weight, bias)
    return rows(b, x, layer, out)


def _matmul(b: Builder, a: Arguments) -> Value:
    right = a["other"] if "other" in a else a["mat2"]
    _check_weights(right)
    return linear(b, a["self"], right.t() if right.dim() == 2 else right, None)


def _addmm(b: Builder, a: Arguments) -> Value:
    _check_weights(a["self"], a["mat2"])
    if (a["beta"], a["alpha"]) != (1, 1) or a["self"].dim() != 1:
        raise Unknown("it scales its product: scale the weights")
    return linear(b, a["mat1"], a["mat2"].t(), a["self"])


def _same_padding(b: Builder, x: Value, kernel: list[int], dilation: list[int]) -> tuple[Value, list[int]]:
    """Returns the input and the padding of a convolution that keeps the size of an image."""
    total = [d * (k - 1) for d, k in zip(dilation, kernel)]
    if all(t % 2 == 0 for t in total):
        return x, [t // 2 for t in total]
    pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
    padded = b.move(lambda samples, xs: nn.functional.pad(xs[0], pads, value=-1.0), x)
    return padded, [0] * len(kernel)


def convolution(
    b: Builder,
    x: Value,
    weight: Tensor,
    bias: Tensor | None,
    stride,
    padding,
    dilation,
    groups: int,
    transposed: bool = False,
    output_padding=0,
) -> Value:
    _check_weights(weight, bias)
    dims = weight.dim() - 2
    if not isinstance(x, Value) or dims not in OF_DIMENSIONS[transposed]:
        raise Unknown(f"it convolves {dims} dimensions, and bounds are known for one and two")
    if x.rows is not None or len(x.shape) != dims + 1:
        raise Unknown("its input is no batch of images")
    stride, dilation, output_padding = (
        [a] * dims if isinstance(a, int) else list(a) * (dims if len(a) == 1 else 1)
        for a in (stride, dilation, output_padding)
    )
    kernel = list(weight.shape[2:])
    if padding == "same":
        x, padding = _same_padding(b, x, kernel, dilation)
    padding = [0] * dims if padding == "valid" else [padding] * dims if isinstance(padding, int) else list(padding)
    padding = padding * (dims if len(padding) == 1 else 1)
    channels, out = (
        (weight.shape[0], weight.shape[1] * groups) if transposed else (weight.shape[1] * groups, len(weight))
    )
    options = {"output_padding": output_padding} if transposed else {}
    layer = OF_DIMENSIONS[transposed][dims](
        channels,
        out,
        kernel,
        stride,
        padding,
        dilation=dilation,
        groups=groups,
        bias=bias is not None,
        device="meta",
        **options,
    )
    if transposed:
        layer.image = x.shape[1:]
        size = [
            (n - 1) * s - 2 * p + d * (k - 1) + o + 1
            for n, s, p, d, k, o in zip(x.shape[1:], stride, padding, dilation, kernel, output_padding)
        ]
    else:
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, s, p, d, k in zip(x.shape[1:], stride, padding, dilation, kernel)
        ]
    return b.add(_with(layer, weight, bias), (x,), (out, *size))


def _conv(b: Builder, a: Arguments) -> Value:
    return convolution(
        b,
        a["input"],
        a["weight"],
        a["bias"],
        a["stride"],
        a["padding"],
        a["dilation"],
        a["groups"],
        a.get("transposed", False),
        a.get("output_padding", 0),
    )


def _conv_transpose(b: Builder, a: Arguments) -> Value:
    return _conv(b, {**a, "transposed": True})


# Distances.


def _dist(b: Builder, a: Arguments) -> Value:
    x, w = a["x"], a["w"]
    _check_weights(w)
    return rows(b, x, _with(LinfDistLinear(w.shape[1], len(w), bias=False, p=a["p"], device="meta"), w), len(w))


def _sorted_dist(b: Builder, a: Arguments) -> Value:
    x, w = a["x"], a["w"]
    _check_weights(w)
    layer = SortDistLinear(w.shape[1], len(w), bias=False, rho=a["rho"], k=a["k"], device="meta")
    return rows(b, x, _with(layer, w), len(w))


def _dist_conv2d(b: Builder, a: Arguments) -> Value:
    x, w = a["x"], a["w"]
    _check_weights(w)
    if x.rows is not None:
        raise Unknown("the rows of its input are joined with the samples")
    layer = LinfDistConv2d(
        w.shape[1] * a["groups"],
        len(w),
        tuple(w.shape[2:]),
        stride=tuple(a["stride"]),
        padding=tuple(a["padding"]),
        dilation=tuple(a["dilation"]),
        groups=a["groups"],
        bias=False,
        p=a["p"],
        device="meta",
    )
    shape = layer.geometry.output_shape((1, *x.shape), tuple(w.shape))
    return b.add(_with(layer, w), (x,), tuple(shape[1:]))


OF_WEIGHTS: dict[str, Callable] = {
    "aten.linear": lambda b, a: linear(b, a["input"], a["weight"], a["bias"]),
    "aten.matmul": _matmul,
    "aten.mm": _matmul,
    "aten.addmm": _addmm,
    "aten.convolution": _conv,
    **{f"aten.conv{d}d": _conv for d in (1, 2, 3)},
    **{f"aten.conv_transpose{d}d": _conv_transpose for d in (1, 2, 3)},
    "linf.dist": _dist,
    "linf.sorted_dist": _sorted_dist,
    "linf.dist_conv2d": _dist_conv2d,
}
