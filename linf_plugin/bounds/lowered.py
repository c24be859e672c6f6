"""How each operation of a graph is written for auto_LiRPA: as operators that it bounds correctly.

``LOWERED`` has one row for each operation that auto_LiRPA does not read as it is.  All forms compute the same function
in exact arithmetic, and their intervals are those of ``graphs.ends``.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..float32.rules import normalised
from ..graphs.operations import (
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
from . import operators
from .readable import plain_convolution
from .within import tanh


class Form(nn.Module):
    """A form of an operation for auto_LiRPA.  Its constants are buffers, so that they are traced as such."""

    def __init__(self, **constants: Tensor):
        super().__init__()
        for name, a in constants.items():
            self.register_buffer(name, a)


def _row(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)


def _joined(xs: tuple[Tensor, ...]) -> Tensor:
    return xs[0] if len(xs) == 1 else torch.cat([_row(x) for x in xs], 1)


class Moved(Form):
    """Gather: a change of shape only, or a sum of one number each."""

    def __init__(self, module: Gather):
        super().__init__(index=module.index.unsqueeze(-1), factor=torch.ones(module.shape, dtype=torch.float64))
        self.shape = module.shape
        self.plain = module.in_order(module.index.numel()) and not module.padded

    def forward(self, *xs: Tensor) -> Tensor:
        x = _joined(xs)
        if self.plain and math.prod(x.shape[1:]) == self.index.numel():
            return _row(x) if len(self.shape) == 1 else x.reshape(-1, *self.shape)
        return operators.gathered(x, self.index, self.factor)


class Averaged(Form):
    def __init__(self, module: Average):
        super().__init__(index=module.gather.index, factor=1 / module.divisor)

    def forward(self, *xs: Tensor) -> Tensor:
        return operators.gathered(_joined(xs), self.index, self.factor)


class LargestOf(Form):
    """max; for min the numbers are turned around before and after."""

    def __init__(self, module: Largest):
        one, zero = (torch.full((), a, dtype=torch.float64, device=module.gather.index.device) for a in (1.0, 0.0))
        super().__init__(index=module.gather.index, minus=-one, zero=zero)
        self.sign = module.sign

    def forward(self, *xs: Tensor) -> Tensor:
        x = _joined(xs)
        if self.sign > 0:
            return operators.largest(x, self.index)
        return operators.affine(
            operators.largest(operators.affine(x, self.minus, self.zero), self.index), self.minus, self.zero
        )


class ByNumber(Form):
    """factor·x + offset."""

    def __init__(self, factor: Tensor, offset: Tensor):
        super().__init__(factor=factor, offset=offset)

    def forward(self, x: Tensor) -> Tensor:
        return operators.affine(x, self.factor, self.offset)


def _by_number(module: Affine) -> Form:
    return ByNumber(module.factor, module.offset - module.factor * module.centre)


def _of(a: float, like: Tensor) -> Tensor:
    return torch.full((), a, dtype=torch.float64, device=like.device)


class Product(Form):
    """A linear layer.  Behind the product of several rows the bias is added by an operator of this package.

    auto_LiRPA's own sum of an image and a row is wrong where coefficients are patches, and so is its product.
    """

    def __init__(self, layer: nn.Linear):
        bias = torch.zeros_like(layer.weight[:, 0]) if layer.bias is None else layer.bias.detach()
        super().__init__(ones=torch.ones_like(bias), added=bias)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return self.layer(x)
        return operators.affine(F.linear(x, self.layer.weight), self.ones, self.added)


class Clamped(Form):
    """low + relu(x − low) and then high − relu(high − x)."""

    def __init__(self, module: Clamp):
        super().__init__()
        number = {"dtype": torch.float64}
        self.ends = module.low, module.high
        ends = [end if math.isfinite(end) else 0.0 for end in self.ends]
        one = torch.ones((), **number)
        low, high = (torch.full((), end, **number) for end in ends)
        self.below, self.add_low = ByNumber(one, -low), ByNumber(one, low)
        self.from_high = ByNumber(-one, high)

    def forward(self, x: Tensor) -> Tensor:
        if self.ends[0] > -math.inf:
            x = self.add_low(F.relu(self.below(x)))
        return self.from_high(F.relu(self.from_high(x))) if self.ends[1] < math.inf else x


class Limited(Form):
    """end + relu(x − end) for a maximum, end − relu(end − x) for a minimum."""

    def __init__(self, module: Limit):
        super().__init__()
        sign = torch.full((), float(module.sign), dtype=torch.float64, device=module.end.device)
        self.before, self.after = ByNumber(sign, -sign * module.end), ByNumber(sign, module.end)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(F.relu(self.before(x)))


class Normalised(Form):
    """Batch normalisation.  Its constants are kept in the shape of every sample that it may get, of one to three
    dimensions."""

    def __init__(self, layer: nn.BatchNorm1d | nn.BatchNorm2d):
        super().__init__()
        self.of = nn.ModuleList(_by_number(normalised(layer, dimensions)) for dimensions in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.of[x.dim() - 2](x)


class Sloped(Form):
    """a·x + (1 − a)·relu(x) − (slope − a)·relu(−x) with a = min(slope, 1): every part rises with x."""

    def __init__(self, module: Slope):
        super().__init__()
        slope = module.slope
        a, zero = slope.clamp_max(1), torch.zeros((), dtype=torch.float64, device=slope.device)
        self.all, self.right = ByNumber(a, zero), ByNumber(1 - a, zero)
        self.steep = bool((slope > 1).any())
        self.turn, self.left = ByNumber(zero - 1, zero), ByNumber(a - slope, zero)

    def forward(self, x: Tensor) -> Tensor:
        y = self.all(x) + self.right(F.relu(x))
        return y + self.left(F.relu(self.turn(x))) if self.steep else y


class Sigmoid(Form):
    """½ + ½·tanh(x/2)."""

    def __init__(self, module: nn.Sigmoid):
        super().__init__()
        half, zero = (torch.full((), a, dtype=torch.float64) for a in (0.5, 0.0))
        self.before, self.after = ByNumber(half, zero), ByNumber(half, half)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(tanh(self.before(x)))


class Tanh(Form):
    def __init__(self, module: nn.Tanh):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)


class EluForm(Form):
    def __init__(self, module: Elu):
        super().__init__()
        self.alpha = module.alpha

    def forward(self, x: Tensor) -> Tensor:
        return operators.elu(x, self.alpha)


class SoftplusForm(Form):
    def __init__(self, module: Softplus):
        super().__init__()
        self.beta = module.beta

    def forward(self, x: Tensor) -> Tensor:
        return operators.softplus(x, self.beta)


class OfOneDimension(Form):
    """A convolution of one dimension as one of images with one row."""

    def __init__(self, layer: nn.Conv1d | nn.ConvTranspose1d):
        super().__init__()
        kind, options = (
            (nn.Conv2d, {})
            if isinstance(layer, nn.Conv1d)
            else (nn.ConvTranspose2d, {"output_padding": (0, *layer.output_padding)})
        )
        flat = kind(
            layer.in_channels,
            layer.out_channels,
            (1, *layer.kernel_size),
            (1, *layer.stride),
            (0, *layer.padding),
            dilation=(1, *layer.dilation),
            groups=layer.groups,
            bias=layer.bias is not None,
            device="meta",
            **options,
        )
        flat.weight = nn.Parameter(layer.weight.detach().unsqueeze(2), requires_grad=False)
        if layer.bias is not None:
            flat.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        flat.image = (1, *getattr(layer, "image", ()))
        self.convolution = lowered(flat)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x.reshape(-1, x.shape[1], 1, x.shape[2]))
        return y.reshape(-1, *y.shape[1:2], *y.shape[3:])


class Spread(Form):
    """A transposed convolution: pixels are spread apart, with zeros between them, and then convolved."""

    def __init__(self, layer: nn.ConvTranspose2d):
        places = [
            _spread(*each)
            for each in zip(
                layer.image, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.kernel_size
            )
        ]
        (rows, columns), (height, width) = places, layer.image
        pixel = torch.where((rows[:, None] < 0) | (columns < 0), -1, rows[:, None] * width + columns)
        channel = torch.arange(layer.in_channels).view(-1, 1, 1)
        index = torch.where(pixel < 0, -1, pixel + channel * height * width).unsqueeze(-1).to(layer.weight.device)
        super().__init__(index=index, factor=torch.ones(index.shape[:-1], dtype=torch.float64, device=index.device))
        convolution = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            device="meta",
        )
        weight = layer.weight.detach().unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        convolution.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if layer.bias is not None:
            convolution.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        self.convolution = lowered(convolution)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(operators.gathered(x, self.index, self.factor))


def _spread(length: int, stride: int, padding: int, extra: int, dilation: int, kernel: int) -> Tensor:
    """Returns the pixel at each place of one dimension of the spread image, or −1 for a zero."""
    whole, left = (length - 1) * stride + 1, dilation * (kernel - 1) - padding
    at = torch.arange(-left, whole + left + extra)
    return torch.where((at >= 0) & (at < whole) & (at % stride == 0), at // stride, -1)


def _convolution(layer: nn.Conv2d) -> nn.Conv2d:
    simple = layer.groups == 1 and layer.dilation == (1, 1)
    return layer if simple else plain_convolution(layer)


def _same(module: nn.Module) -> nn.Module:
    return module


LOWERED: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    Gather: Moved,
    Average: Averaged,
    Largest: LargestOf,
    Add: _same,
    Multiply: _same,
    Affine: _by_number,
    Shift: _by_number,
    Scale: _by_number,
    Clamp: Clamped,
    Limit: Limited,
    Slope: Sloped,
    Elu: EluForm,
    Softplus: SoftplusForm,
    nn.Sigmoid: Sigmoid,
    nn.Tanh: Tanh,
    nn.BatchNorm1d: Normalised,
    nn.BatchNorm2d: Normalised,
    nn.Linear: Product,
    nn.Conv1d: OfOneDimension,
    nn.Conv2d: _convolution,
    nn.ConvTranspose1d: OfOneDimension,
    nn.ConvTranspose2d: Spread,
}


def lowered(module: nn.Module) -> nn.Module:
    """Returns a module that computes the same, and that auto_LiRPA reads and bounds correctly."""
    return LOWERED.get(type(module), _same)(module).eval()
