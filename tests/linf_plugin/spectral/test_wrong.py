"""Wrong arguments are named, and layers of which nothing is known are refused by name."""

import math

import pytest
import torch
from torch import nn

from linf_plugin.spectral import SPECTRAL_METHODS, Convolution, bound, norm

W = torch.ones(4, 2, 3, 3)


class Twice(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def _hooked():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda *_: None)
    return layer


def _own():
    layer = nn.Linear(2, 2)
    layer.forward = lambda x: x
    return layer


WRONG = {
    "a list": (lambda: bound([[1.0]]), TypeError, "weight must be a floating-point tensor, got list"),
    "integers": (lambda: bound(torch.ones(2, 2, dtype=torch.int64)), TypeError, "weight .*int64"),
    "complex numbers": (lambda: bound(torch.ones(2, 2, dtype=torch.complex64)), TypeError, "weight .*complex64"),
    "a vector": (lambda: bound(torch.ones(3)), ValueError, r"weight must have shape \(out, in"),
    "a kernel": (lambda: bound(W), ValueError, r"weight .*spectral.Convolution.*\(4, 2, 3, 3\)"),
    "empty": (lambda: bound(torch.ones(0, 3)), ValueError, "weight must not be empty"),
    "NaN": (lambda: bound(torch.tensor([[math.nan]])), ValueError, "weight must not hold NaN"),
    "infinite": (lambda: norm(torch.tensor([[math.inf]])), ValueError, "weight must not hold NaN"),
    "method": (lambda: bound(W[0, 0], "magic"), ValueError, "method must be one of auto, gram.*'magic'"),
    "power": (lambda: bound(W[0, 0], "power"), ValueError, "method='power' gives a lower bound"),
    "iterations": (lambda: bound(W[0, 0], "gram", iterations=-1), ValueError, "iterations must be at least 0"),
    "half iterations": (lambda: bound(W[0, 0], "gram", iterations=1.5), TypeError, "iterations must be an integer"),
    "no iterations": (lambda: bound(W[0, 0], "svd", iterations=3), ValueError, "iterations=3: the method 'svd'"),
    "dense size": (lambda: bound(nn.Linear(2, 2), size=3), ValueError, "size=3: a dense map"),
    "size": (lambda: Convolution(W, size=0), ValueError, "size must be at least 1"),
    "size of text": (lambda: Convolution(W, size="5"), TypeError, "size must be a whole number"),
    "small image": (lambda: Convolution(W, size=2), ValueError, r"size=\(2, 2\).*smaller than the kernel"),
    "wide circle": (
        lambda: Convolution(W, padding=3, size=2, padding_mode="circular"),
        ValueError,
        r"size=\(2, 2\): a circular padding",
    ),
    "stride": (lambda: Convolution(W, stride=0), ValueError, "stride must be at least 1"),
    "stride of three": (lambda: Convolution(W, stride=(1, 1, 1)), TypeError, "stride must be a whole number or two"),
    "padding": (lambda: Convolution(W, padding=-1), ValueError, "padding must be at least 0"),
    "padding by name": (lambda: Convolution(W, padding="full"), ValueError, "padding must be numbers, 'same'"),
    "same with stride": (lambda: Convolution(W, 2, "same"), ValueError, "padding='same' goes with stride 1"),
    "dilation": (lambda: Convolution(W, dilation=True), TypeError, "dilation must be a whole number"),
    "groups": (lambda: Convolution(W, groups=3), ValueError, "groups must divide the 4 outputs of weight, got 3"),
    "no groups": (lambda: Convolution(W, groups=0), ValueError, "groups must be a whole number of at least 1"),
    "reflect": (
        lambda: bound(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")),
        ValueError,
        "padding_mode='reflect': no bound",
    ),
    "transposed": (lambda: bound(nn.ConvTranspose2d(2, 2, 3)), TypeError, "no bound .* known for ConvTranspose2d"),
    "subclass": (lambda: bound(Twice(2, 2)), TypeError, "no bound .* known for Twice, only for Linear"),
    "parametrised": (
        lambda: bound(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
        TypeError,
        "no bound .* known for ParametrizedLinear",
    ),
    "hooks": (lambda: bound(_hooked()), RuntimeError, "Linear has forward hooks"),
    "own forward": (lambda: bound(_own()), TypeError, "Linear has a forward of its own"),
    "matrix without size": (lambda: bound(nn.Conv2d(1, 1, 3), "matrix"), ValueError, "size: the method 'matrix' needs"),
    "large matrix": (lambda: bound(nn.Conv2d(9, 9, 3), "matrix", size=64), ValueError, r"size=\(64, 64\): the matrix"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_named(name):
    call, error, text = WRONG[name]
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("method", [name for name in SPECTRAL_METHODS if name != "power"])
def test_what_looks_odd_is_defined(method):
    """Stride above the kernel, one pixel, an even kernel on an image of its width, a padding wider than the kernel."""
    torch.manual_seed(0)
    for settings, size in (
        (dict(stride=5), 11),
        (dict(padding=1), 1),
        (dict(padding=7), 2),
        (dict(padding=1, padding_mode="circular"), 1),
        (dict(padding=2, dilation=2, padding_mode="circular"), 2),
        (dict(stride=4, padding=2), 3),
    ):
        layer = nn.Conv2d(2, 3, 2, **settings)
        assert math.isfinite(bound(layer, method, size=size).value)
        assert norm(layer, method, size=size).isfinite()
