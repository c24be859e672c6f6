"""What computes with less than float32 is refused by name: as the process is set, and as it is seen to do."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import linf_plugin
from linf_plugin import LinfDistLinear, process, sound_radius
from linf_plugin.float32 import products
from linf_plugin.float32.reach import check_program

ROOT = Path(linf_plugin.__file__).parents[1]
LINEAR, CONV = torch.nn.functional.linear, torch.nn.functional.conv2d


def _dense():
    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 24), nn.ReLU(), LinfDistLinear(24, 3))
    return net.eval(), torch.rand(2, 1, 5, 8)


def _conv(**options):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, **options), nn.ReLU(), nn.Flatten())
    return net.eval(), torch.rand(2, 3, 8, 8)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing has been probed yet."""
    monkeypatch.setattr(products, "_passed", set())


# Arithmetic with less: what it does to numbers of 24 bits.


def _keeping(bits):
    """Numbers rounded to so many bits, as bfloat16 (8), TF32 (11) and float16 (11) keep."""

    def rounded(a):
        mantissa, exponent = torch.frexp(a)
        return torch.ldexp((mantissa * 2.0**bits).round() / 2.0**bits, exponent)

    return rounded


def _block(a):
    """One exponent for all."""
    unit = a.abs().max() * 2.0**-30
    return (a / unit).round() * unit


def _in_two_parts(a):
    """bfloat16 twice: 16 bits."""
    high = a.bfloat16().to(a.dtype)
    return high + (a - high).bfloat16().to(a.dtype)


LESS = {
    "bfloat16": _keeping(8),
    "tf32": _keeping(11),
    "float16": lambda a: a.half().to(a.dtype),
    "22-bits": _keeping(22),
    "two-bfloat16": _in_two_parts,
    "one-exponent": _block,
}
WHICH = {  # what is rounded: x, w or the result
    "x": lambda less, f: lambda x, w, b, *a: f(less(x), w, b, *a),
    "w": lambda less, f: lambda x, w, b, *a: f(x, less(w), b, *a),
    "y": lambda less, f: lambda x, w, b, *a: less(f(x, w, b, *a)),
}


@pytest.mark.parametrize("which", WHICH.values(), ids=WHICH)
@pytest.mark.parametrize("less", LESS.values(), ids=LESS)
def test_a_layer_that_rounds_factors_or_results_is_refused(less, which, monkeypatch):
    net, x = _dense()
    monkeypatch.setattr(F, "linear", which(less, LINEAR))
    with pytest.raises(RuntimeError, match="layer '1' .Linear. is not computed in float32: in a batch of"):
        sound_radius(net, x)
    net, x = _conv()
    monkeypatch.setattr(F, "conv2d", which(less, CONV))
    with pytest.raises(RuntimeError, match="layer '0' .Conv2d. is not computed in float32.*oneDNN"):
        sound_radius(net, x)


@pytest.mark.parametrize("threshold", (2, 16, 256))
def test_so_is_one_that_does_in_large_batches_alone(threshold, monkeypatch):
    less = _keeping(11)
    net, x = _dense()
    monkeypatch.setattr(F, "linear", lambda x, w, b: LINEAR(less(x) if len(x) >= threshold else x, w, b))
    with pytest.raises(RuntimeError, match=f"in a batch of {threshold} inputs of shape .40,."):
        check_program(net, x)


def test_so_is_one_that_does_in_another_layout_alone(monkeypatch):
    def conv(x, *arguments):
        return CONV(_keeping(11)(x) if x.is_contiguous(memory_format=torch.channels_last) else x, *arguments)

    net, x = _conv()
    monkeypatch.setattr(F, "conv2d", conv)
    with pytest.raises(RuntimeError, match="inputs of shape .3, 8, 8., channels_last"):
        check_program(net, x)


def test_so_is_less_than_float64(monkeypatch):
    """The pass that bounds rounding errors runs in float64."""
    net, x = _dense()
    monkeypatch.setattr(F, "linear", lambda x, w, b: LINEAR(*(a.float() for a in (x, w, b))).to(x.dtype))
    with pytest.raises(RuntimeError, match="layer '1' .Linear. is not computed in float64"):
        check_program(net, x)


def _by_fourier_transform(x, w, b, stride, padding, dilation, groups):
    size = [x.shape[2 + d] + 2 * padding[d] + w.shape[2 + d] for d in (0, 1)]
    x = torch.fft.rfft2(F.pad(x, (padding[1], padding[1], padding[0], padding[0])), size)
    y = torch.fft.irfft2(torch.einsum("nchw,kchw->nkhw", x, torch.fft.rfft2(w.flip(2, 3), size)), size)
    return y[:, :, w.shape[2] - 1 : size[0] - w.shape[2], w.shape[3] - 1 : size[1] - w.shape[3]]


def _by_winograd(x, w, b, stride, padding, dilation, groups):
    """F(2×2, 3×3): tiles of 4 × 4 pixels for 2 × 2 outputs."""
    to = {"dtype": x.dtype}
    g = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], **to)
    d = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], **to)
    a = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], **to)
    tiles = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    m = torch.einsum("nchwij,kcij->nkhwij", d @ tiles @ d.T, g @ w @ g.T)
    return (a @ m @ a.T).permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)


@pytest.mark.parametrize("transform", (_by_fourier_transform, _by_winograd))
def test_convolutions_by_transforms_are_seen(transform, monkeypatch):
    net, x = _conv()
    arguments = (torch.rand(4, 3, 8, 8), net[0].weight.detach(), None, (1, 1), (1, 1), (1, 1), 1)
    torch.testing.assert_close(transform(*arguments), CONV(*arguments))  # it does convolve
    monkeypatch.setattr(F, "conv2d", lambda x, w, b, *rest: transform(x, w, b, *rest))
    with pytest.raises(RuntimeError, match="layer '0' .Conv2d. is not computed in float32"):
        check_program(net, x)


def test_a_product_by_fewer_products_is_seen(monkeypatch):
    """Strassen: sums of blocks are multiplied, and an output has an error of the size of another."""

    def multiply(x, w, b):
        if x.dim() != 2 or len(x) % 2:
            return LINEAR(x, w, b)
        (p, q), (r, s) = (a.chunk(2, 1) for a in x.chunk(2))
        (e, g), (f, h) = (a.chunk(2, 1) for a in w.chunk(2))  # w is transposed
        m = [
            LINEAR(u, v.contiguous())
            for u, v in ((p + s, e + h), (r + s, e), (p, f - h), (s, g - e), (p + q, h), (r - p, e + f), (q - s, g + h))
        ]
        return torch.cat(
            (
                torch.cat((m[0] + m[3] - m[4] + m[6], m[2] + m[4]), 1),
                torch.cat((m[1] + m[3], m[0] - m[1] + m[2] + m[5]), 1),
            )
        )

    net, x = _dense()
    some = torch.rand(4, 40), net[1].weight.detach(), None
    torch.testing.assert_close(multiply(*some), LINEAR(*some))
    monkeypatch.setattr(F, "linear", multiply)
    with pytest.raises(RuntimeError, match="in a batch of 2 inputs"):
        check_program(net, x)


@pytest.mark.parametrize("convolve", (True, False), ids=("onednn", "nnpack"))
def test_what_nnpack_does_is_seen(convolve, monkeypatch):
    """Were it not asked for, too."""
    net, x = _conv()
    monkeypatch.setattr(products, "_nnpack_convolves", lambda: False)
    before, *_ = torch.backends.mkldnn.set_flags(_enabled=convolve, _fp32_precision=None)
    try:
        if convolve or not torch.backends.nnpack.is_available():
            check_program(net, x)
        else:
            with pytest.raises(RuntimeError, match="in a batch of 16 inputs"):
                check_program(net, x)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before, _fp32_precision=None)


GEOMETRIES = {
    "plain": {},
    "no-bias": {"bias": False},
    "stride": {"stride": (2, 1)},
    "dilation": {"dilation": 2},
    "groups": {"groups": 3},
    "one-pixel": {"kernel_size": 1, "padding": 0},
    "oblong": {"kernel_size": (1, 3)},
    "even": {"kernel_size": (4, 2)},
    "large": {"kernel_size": 7, "padding": 3},
    "same": {"padding": "same"},
    "reflect": {"padding_mode": "reflect"},
    "circular": {"padding_mode": "circular"},
    "whole-image": {"kernel_size": 8, "padding": 0},
}


@pytest.mark.parametrize("options", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_geometry_is_probed(options, monkeypatch):
    layer = nn.Conv2d(**({"in_channels": 3, "out_channels": 6, "kernel_size": 3, "padding": 1} | options))
    net, x = nn.Sequential(layer, nn.Flatten()).eval(), torch.rand(2, 3, 8, 8)
    check_program(net, x)
    monkeypatch.setattr(products, "_passed", set())
    monkeypatch.setattr(F, "conv2d", lambda x, w, *rest: CONV(x, _keeping(22)(w), *rest))
    with pytest.raises(RuntimeError, match="Conv2d"):
        check_program(net, x)


def test_weights_of_any_strides_and_inputs_of_more_dimensions():
    net = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 1)).eval()
    net[0].weight = nn.Parameter(torch.rand(6, 5).t())
    for x in (torch.rand(3, 6), torch.rand(3, 4, 6), torch.rand(0, 6)):
        check_program(net, x)


def test_a_layer_is_probed_once_for_its_geometry_and_settings(monkeypatch):
    probed = []
    probe = products._probe
    monkeypatch.setattr(products, "_probe", lambda layer, *rest: probed.append(layer) or probe(layer, *rest))
    (net, x), (other, _) = _dense(), _dense()
    for model in (net, net, other, nn.Sequential(*other[:2])):
        check_program(model.eval(), x)
    assert probed == [net[1]] * 2  # float32 and float64
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        check_program(net, x)
    finally:
        torch.set_num_threads(before)
    assert len(probed) == 4


# Settings.


PRECISIONS = {  # "highest" is ieee, which stands above what is set for all
    "legacy": lambda value: torch.set_float32_matmul_precision("highest" if value == "none" else "medium"),
    "matmul": lambda value: setattr(torch.backends.mkldnn.matmul, "fp32_precision", value),
    "conv": lambda value: setattr(torch.backends.mkldnn.conv, "fp32_precision", value),
    "onednn": lambda value: torch.backends.mkldnn.set_flags(_fp32_precision=value),
    "everything": lambda value: setattr(torch.backends, "fp32_precision", value),
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_precision_of_16_bits_is_refused_at_every_level(name):
    """A convolution of one image is a matrix product to oneDNN."""
    (dense, x), (conv, images) = _dense(), _conv()
    cuda = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision
    try:
        PRECISIONS[name]("bf16")
        with pytest.raises(RuntimeError, match="Conv2d would multiply float32 numbers as bf16 .torch.backends.mkldnn"):
            sound_radius(conv, images)
        if name == "conv":
            check_program(dense, x)
        else:
            with pytest.raises(RuntimeError, match="Linear would multiply.*mkldnn.matmul.fp32_precision"):
                sound_radius(dense, x)
    finally:
        for reset in PRECISIONS.values():
            reset("none")
        torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = cuda
    sound_radius(conv, images)


VARIABLES = [
    (device, name, harmless) for device, names in process.ENVIRONMENT.items() for name, (harmless, _) in names.items()
]


@pytest.mark.parametrize("device, name, harmless", VARIABLES, ids=lambda v: v if isinstance(v, str) else "")
def test_variables_of_the_environment_are_refused_by_name(device, name, harmless, monkeypatch):
    def check():
        products.check_settings(nn.Linear, device == "cuda")

    for value in ("", *harmless, *map(str.lower, harmless)):
        monkeypatch.setenv(name, value)
        check()
    monkeypatch.setenv(name, "BF16" if device == "cpu" else "1")
    with pytest.raises(RuntimeError, match=f"{name}=.* in the environment lets .* compute Linear"):
        check()
    monkeypatch.delenv(name)
    check()
    monkeypatch.setitem(process._AT_IMPORT, name, "any")  # what a library may have read long ago
    with pytest.raises(RuntimeError, match=f"{name}=any"):
        check()
    if device == "cpu":
        with pytest.raises(RuntimeError, match=name):
            sound_radius(*_dense())
        net = nn.Sequential(nn.Flatten(), LinfDistLinear(40, 3)).eval()
        assert sound_radius(net, torch.rand(2, 1, 5, 8)).shape == (2,)  # a distance has no products


def test_another_direction_of_rounding_is_refused():
    libm = ctypes.CDLL(None)
    net, x = nn.Sequential(nn.Flatten(), LinfDistLinear(40, 3)).eval(), torch.rand(2, 1, 5, 8)
    nearest = libm.fegetround()
    modes = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x400000, 0x800000, 0xC00000)}.get(os.uname().machine, ())
    for mode in modes:
        assert libm.fesetround(mode) == 0
        try:
            with pytest.raises(RuntimeError, match="does not round to nearest"):
                process.check_rounding()
        finally:
            libm.fesetround(nearest)
    assert sound_radius(net, x).shape == (2,)


SEEN = """
import torch, torch.nn.functional as F
from torch import nn
from linf_plugin import arithmetic
from linf_plugin.rounding import UNIT, check_program
torch.manual_seed(0)
net, x = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, bias=False)).eval(), torch.randn(16, 16, 8, 8)
def refused():
    try:
        check_program(net, x)
    except RuntimeError as error:
        return str(error)
    return ""
print(refused())
arithmetic.ENVIRONMENT["cpu"].clear()
print(refused())
w = net[0].weight.detach()
error = (net(x) - F.conv2d(x.double(), w.double(), padding=1)).abs()
print((error > 144 * UNIT * F.conv2d(x.abs(), w.abs(), padding=1)).any().item())
"""


def test_the_variable_of_onednn_is_refused_and_what_it_does_here_is_seen():
    """On a processor that multiplies bfloat16 numbers; elsewhere oneDNN ignores it, and the probe finds nothing."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "ONEDNN_DEFAULT_FPMATH_MODE": "BF16"},
    )
    by_name, by_probe, less = done.stdout.split("\n")[:3]
    assert "ONEDNN_DEFAULT_FPMATH_MODE=BF16" in by_name, done.stderr
    assert ("is not computed in float32" in by_probe) == (less == "True")
