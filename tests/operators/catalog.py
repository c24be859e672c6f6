"""The operators of the search: name → (kind of tensor that it is asked of, how it is drawn).

Each is written as a user would, in torch; what auto_LiRPA's classes make of it is seen in the graph that it traces,
and ``NOT_TRACED`` says which classes nothing leads to.  An operator that is new in auto_LiRPA gets a row here.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

import linf_plugin as lp

from .steps import Builder

CATALOG = {}


def operator(name: str, of: str = "any"):
    """Registers ``draw(b)``, which adds the operator to a builder whose h is ``any`` tensor, a ``vector`` (N, F), a
    ``sequence`` (N, T, F) or an ``image`` (N, C, H, W)."""

    def register(draw):
        CATALOG[name] = (of, draw)
        return draw

    return register


def _elementwise(name, function, of="any"):
    CATALOG[name] = (of, lambda b: b.add(name, function))


for _name, _function in {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "abs": torch.abs,
    "neg": torch.neg,
    "sin": torch.sin,
    "cos": torch.cos,
    "atan": torch.atan,
    "exp": torch.exp,
    "erf": torch.erf,
    "square": lambda h: h * h,
    "pow2": lambda h: h**2,
    "sqr": torch.square,
    "identity": nn.Identity(),
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "sign": torch.sign,
    "elu": F.elu,
    "selu": F.selu,
    "silu": F.silu,
    "mish": F.mish,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "relu6": F.relu6,
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "gelu": F.gelu,
    "tanhshrink": lambda h: h - torch.tanh(h),
    "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
    "hardtanh": F.hardtanh,
    "detach": torch.detach,
    "clone": torch.clone,
    "contiguous": lambda h: h.contiguous(),
    "dropout": nn.Dropout(0.5).eval(),
    "celu": F.celu,
    "softshrink": F.softshrink,
    "hardshrink": F.hardshrink,
}.items():
    _elementwise(_name, _function)


@operator("leaky_relu")
def _(b: Builder):
    slope = b.r.choice((0.01, 0.1, 0.5, 1.0, 1.5, -0.2, 0.0))
    b.add(f"leaky_relu({slope})", lambda h: F.leaky_relu(h, slope))


@operator("prelu", of="image")
def _(b: Builder):
    b.layer(nn.PReLU(b.r.choice((1, b.shape[0]))))


@operator("clamp")
def _(b: Builder):
    low = b.r.choice((None, -1.0, 0.0, 0.3))
    high = b.r.choice((None, 0.5, 1.0, 6.0))
    low = 0.0 if low is None and high is None else low
    b.add(f"clamp({low}, {high})", lambda h: h.clamp(low, high))


@operator("tan")
def _(b: Builder):
    b.add("tan(tanh)", lambda h: torch.tan(torch.tanh(h)))


@operator("sec")
def _(b: Builder):
    b.add("1/cos(tanh)", lambda h: 1 / torch.cos(torch.tanh(h)))


def _positive(b: Builder) -> float:
    """Makes h positive, in one of several ways."""
    least = b.r.choice((0.1, 0.5, 2.0))
    way = b.r.choice(("relu", "abs", "exp", "sigmoid"))
    b.add(f"{way} + {least}", lambda h: getattr(torch, way)(h) + least)
    return least


for _name, _function in {
    "log": torch.log,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "one over": lambda h: 1 / h,
    "rsqrt": torch.rsqrt,
    "log1p": torch.log1p,
}.items():

    @operator(_name)
    def _(b: Builder, name=_name, function=_function):
        _positive(b)
        b.add(name, function)


@operator("one over negative")
def _(b: Builder):
    _positive(b)
    b.add("1/(−h)", lambda h: 1 / -h)


@operator("pow")
def _(b: Builder):
    exponent = b.r.choice((0, 1, 2, 3, 4, 5, 2.0, 3.0, 7))
    b.add(f"h**{exponent}", lambda h: h**exponent)


@operator("pow of positive")
def _(b: Builder):
    _positive(b)
    exponent = b.r.choice((0.5, -1, -2, 1.5, 0.3, 2.5, -0.5, -3))
    b.add(f"h**{exponent}", lambda h: h**exponent)


@operator("power of a number")
def _(b: Builder):
    base = b.r.choice((0.5, 2.0))
    b.add(f"{base}**h", lambda h: base**h)


@operator("powers")
def _(b: Builder):
    _positive(b)
    b.add("pow", torch.pow, b.operand((), b.shape[-1:], b.shape, least=1.0))


def _shapes(b: Builder) -> list[tuple[int, ...]]:
    """Shapes that broadcast with that of h."""
    shape = b.shape
    shapes = [shape, shape, (), shape[-1:], (1,), (1,) * len(shape)]
    return [*shapes, (shape[0], *[1] * (len(shape) - 1)), (1, *shape[1:])]


for _name, _function in {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "max of two": torch.maximum,
    "min of two": torch.minimum,
}.items():

    @operator(_name)
    def _(b: Builder, name=_name, function=_function):
        swapped = b.r.random() < 0.3
        b.add(
            f"{name}{' swapped' if swapped else ''}",
            lambda h, other: function(other, h) if swapped else function(h, other),
            b.operand(*_shapes(b)),
        )


@operator("add of numbers")
def _(b: Builder):
    a, c, swapped = b.r.choice((-2.0, 0.5, 3)), b.r.choice((-1.0, 0.25, 2)), b.r.random() < 0.5
    b.add(f"{a}·h + {c}{' swapped' if swapped else ''}", lambda h: c - h * a if swapped else a * h + c)


@operator("add with alpha")
def _(b: Builder):
    b.add("add(alpha=2)", lambda h, other: torch.add(h, other, alpha=2), b.operand(b.shape))


@operator("div")
def _(b: Builder):
    b.add("div", torch.div, b.operand(*_shapes(b), least=0.5))


@operator("div by itself")
def _(b: Builder):
    _positive(b)
    b.add("other / h", lambda h, other: other / h, b.operand(*_shapes(b)))


@operator("div by a sum")
def _(b: Builder):
    _positive(b)
    dim = b.r.choice((1, -1))
    b.add(f"h / h.sum({dim})", lambda h: h / h.sum(dim, keepdim=True))


@operator("div by its norm")
def _(b: Builder):
    b.add("normalize", lambda h: h / (h.pow(2).sum(-1, keepdim=True) + 0.1).sqrt())


@operator("where")
def _(b: Builder):
    mask = torch.rand(b.shape) < 0.5
    swapped = b.r.random() < 0.5
    b.add(
        "where",
        lambda h, other: torch.where(mask, other, h) if swapped else torch.where(mask, h, other),
        b.operand(b.shape, ()),
    )


@operator("masked_fill")
def _(b: Builder):
    mask = torch.rand(b.shape) < 0.5
    b.add("masked_fill", lambda h: h.masked_fill(mask, -3.0))


@operator("where of h")
def _(b: Builder):
    b.add("where(h > 0)", lambda h: torch.where(h > 0, h, -2 * h))


@operator("equal")
def _(b: Builder):
    b.add("h + (h == other)", lambda h, other: h + (h == other).to(h.dtype), b.operand(b.shape))


@operator("not")
def _(b: Builder):
    b.add("h·¬(h == 0)", lambda h: h * (~(h == 0)).to(h.dtype))


@operator("cast")
def _(b: Builder):
    dtype = b.r.choice((torch.float64, torch.float32, torch.float16, torch.int64, torch.bool))
    b.add(f"to({str(dtype).removeprefix('torch.')})", lambda h: h.to(dtype).to(torch.float64))


@operator("gelu of auto_LiRPA")
def _(b: Builder):
    from auto_LiRPA import bound_ops

    b.add("GELU", getattr(bound_ops, "GELU", nn.GELU)())


@operator("heaviside")
def _(b: Builder):
    b.add("heaviside", lambda h: torch.heaviside(h, torch.zeros(())))


# Linear


@operator("linear")
def _(b: Builder):
    b.layer(nn.Linear(b.shape[-1], b.r.randint(1, 5), bias=b.r.random() < 0.6))


@operator("linear of an operand", of="vector")
def _(b: Builder):
    out = b.r.randint(1, 4)
    if b.r.random() < 0.5:
        b.add("F.linear", F.linear, b.operand((out, b.shape[0]), kinds=("buffer", "parameter", "computed")))
    else:
        kinds = ("buffer", "parameter", "computed")
        b.add("F.linear with bias", F.linear, b.operand((out, b.shape[0]), kinds=kinds), b.operand((out,), kinds=kinds))


@operator("matmul")
def _(b: Builder):
    f, out = b.shape[-1], b.r.randint(1, 4)
    batch = b.shape[:-2]
    kinds = tuple(k for k in b.kinds if k in ("buffer", "parameter", "computed", "input"))
    shapes = [(f, out)] if len(b.shape) == 1 else [(f, out), (*batch, f, out)]
    operand = b.operand(*shapes, kinds=kinds, broadcast=False)
    if len(b.shape) == 1 and operand.kind == "input":  # a matrix for each sample
        b.add("bmm", lambda h, w: (h.unsqueeze(1) @ w).squeeze(1), operand)
    else:
        b.add("matmul", torch.matmul, operand)


@operator("matmul from the left", of="sequence")
def _(b: Builder):
    kinds = tuple(k for k in b.kinds if k in ("buffer", "parameter", "computed", "input"))
    b.add("w @ h", lambda h, w: w @ h, b.operand((b.r.randint(1, 3), b.shape[0]), kinds=kinds, broadcast=False))


@operator("attention", of="sequence")
def _(b: Builder):
    b.add("softmax(h hᵀ) h", lambda h: torch.softmax(h @ h.transpose(1, 2) / 2, -1) @ h)


@operator("product with itself", of="sequence")
def _(b: Builder):
    b.add("h hᵀ", lambda h: h @ h.transpose(1, 2))


@operator("addmm", of="vector")
def _(b: Builder):
    alpha, beta = b.r.choice((1, 2, 0.5)), b.r.choice((1, 3, 0.5))
    kinds = ("buffer", "parameter", "computed")
    b.add(
        f"addmm({beta=}, {alpha=})",
        lambda h, c, w: torch.addmm(c, h, w, beta=beta, alpha=alpha),
        b.operand((3,), kinds=kinds),
        b.operand((b.shape[0], 3), kinds=kinds),
    )


@operator("cumsum")
def _(b: Builder):
    dim = b.r.choice((1, -1))
    b.add(f"cumsum({dim})", lambda h: h.cumsum(dim))


# Convolutions and pools


def _pair(r, *choices):
    return r.choice(((a := r.choice(choices)), (a, r.choice(choices))))


@operator("conv2d", of="image")
def _(b: Builder):
    r, channels = b.r, b.shape[0]
    groups = r.choice((1, 1, 1, channels))
    b.layer(
        nn.Conv2d(
            channels,
            groups * r.randint(1, 2),
            _pair(r, 1, 2, 3),
            stride=_pair(r, 1, 1, 2),
            padding=_pair(r, 0, 1, 2),
            dilation=r.choice((1, 1, 1, 2)),
            groups=groups,
            bias=r.random() < 0.6,
        )
    )


@operator("conv2d twice", of="image")
def _(b: Builder):
    CATALOG["conv2d"][1](b)
    CATALOG["conv2d"][1](b)


@operator("conv2d, ReLU, conv2d", of="image")
def _(b: Builder):
    CATALOG["conv2d"][1](b)
    b.layer(nn.ReLU())
    CATALOG["conv2d"][1](b)
    b.layer(nn.ReLU())


@operator("conv2d of an operand", of="image")
def _(b: Builder):
    padding = b.r.choice((0, 1))
    operand = b.operand((2, b.shape[0], 2, 2), kinds=("buffer", "parameter", "computed"))
    b.add(f"F.conv2d(padding={padding})", lambda h, w: F.conv2d(h, w, padding=padding), operand)


@operator("conv1d", of="sequence")
def _(b: Builder):
    r = b.r
    b.layer(
        nn.Conv1d(
            b.shape[0], 2, r.choice((1, 2)), stride=r.choice((1, 2)), padding=r.choice((0, 1)), bias=r.random() < 0.6
        )
    )


@operator("conv transpose", of="image")
def _(b: Builder):
    r, channels = b.r, b.shape[0]
    groups, stride = r.choice((1, 1, channels)), r.choice((1, 2))
    if r.random() < 0.4:  # all that 0.3 takes
        b.layer(nn.ConvTranspose2d(channels, r.randint(1, 2), r.choice((2, 3)), stride=stride, bias=r.random() < 0.6))
        return
    b.layer(
        nn.ConvTranspose2d(
            channels,
            groups * r.randint(1, 2),
            _pair(r, 1, 2, 3),
            stride=stride,
            padding=r.choice((0, 0, 1)),
            output_padding=r.choice((0, stride - 1)),
            dilation=r.choice((1, 1, 2)),
            groups=groups,
            bias=r.random() < 0.6,
        )
    )


@operator("conv transpose 1d", of="sequence")
def _(b: Builder):
    b.layer(nn.ConvTranspose1d(b.shape[0], 2, 2, stride=b.r.choice((1, 2))))


@operator("pad")
def _(b: Builder):
    r = b.r
    dims = r.randint(1, len(b.shape))
    pads = [r.choice((0, 0, 1, 2, -1)) for _ in range(2 * dims)]
    value = r.choice((0.0, 0.0, 2.0, -1.0))
    b.add(f"pad({pads}, {value})", lambda h: F.pad(h, pads, value=value))


@operator("pad of an image", of="image")
def _(b: Builder):
    r = b.r
    pads, mode = [r.choice((0, 1, 1, 2)) for _ in range(4)], r.choice(("constant", "reflect", "replicate", "circular"))
    value = r.choice((0.0, 0.0, 2.0, -1.0)) if mode == "constant" else 0.0
    b.add(f"pad({pads}, {mode}, {value})", lambda h: F.pad(h, pads, mode=mode, value=value))


@operator("max_pool2d", of="image")
def _(b: Builder):
    r = b.r
    kernel = _pair(r, 1, 2, 3)
    half = kernel // 2 if isinstance(kernel, int) else min(kernel) // 2
    b.layer(
        nn.MaxPool2d(
            kernel,
            stride=r.choice((None, 1, 2)),
            padding=r.choice((0, 0, half)),
            dilation=r.choice((1, 1, 1, 2)),
            ceil_mode=r.random() < 0.2,
        )
    )


@operator("avg_pool2d", of="image")
def _(b: Builder):
    r = b.r
    kernel = _pair(r, 1, 2, 3)
    half = kernel // 2 if isinstance(kernel, int) else min(kernel) // 2
    b.layer(
        nn.AvgPool2d(
            kernel,
            stride=r.choice((None, 1, 2)),
            padding=r.choice((0, 0, half)),
            ceil_mode=r.random() < 0.2,
            count_include_pad=r.random() < 0.7,
            divisor_override=r.choice((None, None, None, 2)),
        )
    )


@operator("pools of sequences", of="sequence")
def _(b: Builder):
    b.layer(b.r.choice((nn.MaxPool1d, nn.AvgPool1d))(2, stride=b.r.choice((1, 2)), padding=b.r.choice((0, 1))))


@operator("adaptive pools", of="image")
def _(b: Builder):
    size = b.r.choice((1, 1, 2))
    b.layer(b.r.choice((nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d))(size))


@operator("interpolate", of="image")
def _(b: Builder):
    mode = b.r.choice(("nearest", "bilinear"))
    scale = b.r.choice((2, 2, 3, 0.5))
    b.add(f"interpolate({mode}, {scale})", lambda h: F.interpolate(h, scale_factor=scale, mode=mode))


@operator("pixel_shuffle", of="image")
def _(b: Builder):
    b.add("repeat, pixel_shuffle", lambda h: F.pixel_shuffle(torch.cat([h, -h, h * 2, h * 3], 1), 2))


# Norms


def _natural(norm: nn.Module) -> nn.Module:
    for name, a in (*norm.named_parameters(), *norm.named_buffers()):
        if a.is_floating_point():
            a.data = torch.rand_like(a) + 0.5 if "var" in name else torch.randn_like(a)
    return norm


@operator("batch norm")
def _(b: Builder):
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(b.shape)]
    b.layer(_natural(kind(b.shape[0], affine=b.r.random() < 0.7)))


@operator("conv and batch norm", of="image")
def _(b: Builder):
    b.layer(nn.Conv2d(b.shape[0], 2, 2, padding=b.r.choice((0, 1))))
    b.layer(_natural(nn.BatchNorm2d(2)))


@operator("other norms", of="image")
def _(b: Builder):
    channels, h, w = b.shape
    b.layer(
        _natural(
            b.r.choice(
                (
                    lambda: nn.InstanceNorm2d(channels, affine=True),
                    lambda: nn.GroupNorm(1, channels),
                    lambda: nn.LayerNorm([h, w]),
                    lambda: nn.LayerNorm(w, elementwise_affine=False),
                )
            )()
        )
    )


@operator("layer norm", of="sequence")
def _(b: Builder):
    b.layer(_natural(nn.LayerNorm(b.shape[-1], elementwise_affine=b.r.random() < 0.7)))


# Reductions


def _dims(b: Builder):
    """One dimension or several, but for the batch."""
    n = len(b.shape)
    several = sorted(b.r.sample(range(1, n + 1), b.r.randint(1, n)))
    return b.r.choice((b.r.randint(1, n), -b.r.randint(1, n), several))


for _name in ("sum", "mean", "amax", "amin", "logsumexp", "std", "prod", "norm"):

    @operator(_name)
    def _(b: Builder, name=_name):
        dim, keep = _dims(b), b.r.random() < 0.6
        if name == "prod":
            dim = -1
        b.add(f"{name}({dim}, {keep})", lambda h: getattr(torch, name)(h, dim=dim, keepdim=keep))
        if b.h.dim() == 1:
            b.add("unsqueeze", lambda h: h.unsqueeze(1))


for _name in ("max", "min"):

    @operator(_name)
    def _(b: Builder, name=_name):
        dim, keep = b.r.randint(1, len(b.shape)), b.r.random() < 0.6
        b.add(f"{name}({dim}, {keep})", lambda h: getattr(torch, name)(h, dim=dim, keepdim=keep)[0])
        if b.h.dim() == 1:
            b.add("unsqueeze", lambda h: h.unsqueeze(1))


for _name in ("softmax", "log_softmax"):

    @operator(_name)
    def _(b: Builder, name=_name):
        dim = b.r.choice((1, -1))
        b.options = b.r.choice((None, {"softmax": "simple"}))
        b.add(f"{name}({dim})", lambda h: getattr(torch, name)(h, dim=dim))


# Shapes


@operator("reshape")
def _(b: Builder):
    size = math.prod(b.shape)
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    a = b.r.choice(divisors)
    way = b.r.choice(("view(size(0), −1)", f"reshape(−1, {a}, {size // a})", f"reshape(size(0), {a}, −1)", "flatten"))
    b.add(
        way,
        {"view(size(0), −1)": lambda h: h.view(h.size(0), -1), "flatten": lambda h: h.flatten(1)}.get(way)
        or (
            (lambda h: h.reshape(-1, a, size // a)) if "size(0)" not in way else (lambda h: h.reshape(h.size(0), a, -1))
        ),
    )


@operator("flatten of some", of="image")
def _(b: Builder):
    start, end = b.r.choice(((1, 2), (2, 3), (1, 3), (2, -1)))
    b.add(f"flatten({start}, {end})", lambda h: h.flatten(start, end))


@operator("unflatten")
def _(b: Builder):
    size, dim = b.shape[-1], b.r.choice((-1, len(b.shape)))
    first = b.r.choice([d for d in range(1, size + 1) if size % d == 0])
    b.add(f"unflatten({dim}, {first})", lambda h: h.unflatten(dim, (first, -1)))


@operator("unsqueeze and squeeze")
def _(b: Builder):
    dim = b.r.choice((1, -1, len(b.shape)))
    b.add(f"unsqueeze({dim})", lambda h: h.unsqueeze(dim))
    if b.r.random() < 0.6:
        b.add("relu", torch.relu)
        b.add(f"squeeze({dim})", lambda h: h.squeeze(dim))


@operator("permute")
def _(b: Builder):
    order = list(range(1, len(b.shape) + 1))
    b.r.shuffle(order)
    b.add(f"permute(0, {order})", lambda h: h.permute(0, *order))


@operator("transpose", of="sequence")
def _(b: Builder):
    b.add("transpose(1, 2)", lambda h: h.transpose(1, 2))


@operator("cat")
def _(b: Builder):
    dim = b.r.choice((1, -1, len(b.shape)))
    way = b.r.choice(("other last", "other first", "three"))
    operand = b.operand(b.shape)

    def cat(h, other):
        other = other if other.dim() == h.dim() else other.expand(h.shape[0], *other.shape)
        parts = {"other last": (h, other), "other first": (other, h), "three": (h, other, -h)}[way]
        return torch.cat(parts, dim)

    b.add(f"cat({dim}, {way})", cat, operand)


@operator("stack")
def _(b: Builder):
    dim = b.r.choice((1, -1))
    b.add(f"stack({dim})", lambda h: torch.stack((h, torch.relu(h)), dim))


def _span(r, size):
    start = r.randrange(size)
    return start, r.randint(start + 1, size)


@operator("slice")
def _(b: Builder):
    r, dim = b.r, b.r.randint(1, len(b.shape))
    start, end = _span(r, b.shape[dim - 1])
    step = r.choice((1, 1, 1, 2))
    negative = r.random() < 0.3
    if negative:
        start, end = start - b.shape[dim - 1], None
    index = (*[slice(None)] * dim, slice(start, end, step))
    b.add(f"[{dim}: {start}:{end}:{step}]", lambda h: h[index])


@operator("slice of two dimensions", of="image")
def _(b: Builder):
    spans = [slice(*_span(b.r, size)) for size in b.shape]
    index = (slice(None), *[s if b.r.random() < 0.7 else slice(None) for s in spans])
    b.add(f"{index}", lambda h: h[index])


@operator("flip")
def _(b: Builder):
    dim = b.r.randint(1, len(b.shape))
    b.add(f"flip({dim})", lambda h: h.flip(dim))


@operator("roll")
def _(b: Builder):
    dim = b.r.randint(1, len(b.shape))
    b.add(f"roll(1, {dim})", lambda h: h.roll(1, dim))


@operator("split")
def _(b: Builder):
    dim = b.r.choice((1, -1, len(b.shape)))
    size = b.shape[dim - 1 if dim > 0 else dim]
    first = b.r.randint(1, max(size - 1, 1))
    sizes = [first, size - first] if size > first else [size]
    which = b.r.randrange(len(sizes))
    if b.r.random() < 0.5:
        b.add(f"split({sizes}, {dim})[{which}]", lambda h: h.split(sizes, dim)[which])
    else:
        b.add(f"split({sizes}, {dim}) summed", lambda h: sum(a.sum(dim, keepdim=True) for a in h.split(sizes, dim)))


@operator("chunk")
def _(b: Builder):
    dim = b.r.choice((1, -1))
    b.add(f"chunk(2, {dim})", lambda h: h.chunk(2, dim)[-1])


@operator("index")
def _(b: Builder):
    dim = b.r.randint(1, len(b.shape))
    i = b.r.randrange(b.shape[dim - 1]) * b.r.choice((1, 1, -1))
    index = (*[slice(None)] * dim, i)
    b.add(f"[{dim}: {i}]", lambda h: h[index])
    if b.h.dim() == 1:
        b.add("unsqueeze", lambda h: h.unsqueeze(1))


@operator("index_select")
def _(b: Builder):
    dim = b.r.randint(1, len(b.shape))
    count = b.r.randint(1, 4)
    index = torch.tensor([b.r.randrange(b.shape[dim - 1]) for _ in range(count)])  # some twice
    b.add(f"index_select({dim}, {index.tolist()})", lambda h: h.index_select(dim, index))


@operator("index with a list")
def _(b: Builder):
    index = torch.tensor([b.r.randrange(b.shape[0]) for _ in range(b.r.randint(1, 4))])
    b.add(f"[:, {index.tolist()}]", lambda h: h[:, index])


@operator("gather", of="vector")
def _(b: Builder):
    index = torch.tensor([[b.r.randrange(b.shape[0]) for _ in range(b.r.randint(1, 4))]])
    b.add(f"gather({index.tolist()})", lambda h: h.gather(1, index.expand(h.shape[0], -1)))


@operator("gather of a sequence", of="sequence")
def _(b: Builder):
    index = torch.randint(0, b.shape[0], (1, *b.shape))
    b.add(f"gather({index.tolist()})", lambda h: h.gather(1, index.expand(h.shape[0], -1, -1)))


@operator("expand")
def _(b: Builder):
    dim, count = b.r.choice((1, -1)), b.r.choice((2, 3))
    sizes = [-1] * (len(b.shape) + 2)
    sizes[dim] = count
    b.add(f"unsqueeze({dim}).expand({count})", lambda h: h.unsqueeze(dim).expand(*sizes))


@operator("repeat")
def _(b: Builder):
    counts = [b.r.choice((1, 2)) for _ in b.shape]
    b.add(f"repeat(1, {counts})", lambda h: h.repeat(1, *counts))


@operator("repeat_interleave")
def _(b: Builder):
    b.add("repeat_interleave(2, 1)", lambda h: h.repeat_interleave(2, 1))


@operator("constants of h's shape")
def _(b: Builder):
    value = b.r.choice((0.0, 1.5))
    b.add(f"h + full_like({value})", lambda h: h + torch.full_like(h, value) + torch.zeros(h.shape))


@operator("arange")
def _(b: Builder):
    b.add("h + arange", lambda h: h + torch.arange(h.shape[-1], dtype=h.dtype))


@operator("diagonal", of="image")
def _(b: Builder):
    b.add("diagonal", lambda h: torch.diagonal(h, 0, 2, 3))


@operator("triangle", of="sequence")
def _(b: Builder):
    b.add("tril", lambda h: torch.tril(h))


@operator("einsum", of="sequence")
def _(b: Builder):
    b.add("einsum", lambda h, w: torch.einsum("btf,gf->btg", h, w), b.operand((2, b.shape[1]), kinds=("parameter",)))


@operator("recurrent", of="sequence")
def _(b: Builder):
    kind = b.r.choice((nn.RNN, nn.GRU, nn.LSTM))
    module = kind(b.shape[-1], 3, batch_first=True)
    b.add(kind.__name__, lambda h: module(h)[0], module=module)


@operator("rnn cell", of="vector")
def _(b: Builder):
    module = nn.RNNCell(b.shape[0], 3)
    b.add("RNNCell", module, module=module)


# Ours, on operands that a layer does not give them


@operator("dist of an operand", of="vector")
def _(b: Builder):
    p = b.p
    b.add(
        f"dist(p={p:g})",
        lambda h, w: lp.dist(h, w, p),
        b.operand((b.r.randint(1, 4), b.shape[0]), kinds=("buffer", "parameter", "computed")),
    )


@operator("sorted_dist of an operand", of="vector")
def _(b: Builder):
    b.add(
        "sorted_dist",
        lambda h, w: lp.sorted_dist(h, w, 0.5, 3),
        b.operand((b.r.randint(1, 4), b.shape[0]), kinds=("buffer", "parameter", "computed")),
    )


@operator("shift of an operand")
def _(b: Builder):
    sign, scale = b.r.choice((1.0, -1.0)), b.r.choice((1.0, 0.3))
    b.add(
        f"shift({sign}, {scale})",
        lambda h, o: lp.ops.shift(h, o, sign, scale),
        b.operand(b.shape[:1], kinds=("buffer", "parameter", "computed")),
    )
