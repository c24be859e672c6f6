"""Certified bounds are no smaller than the largest singular value of the layer's matrix, and close to it."""

import math
from itertools import pairwise

import mpmath
import pytest
import torch
from spectral_layers import draw, largest, operator
from torch import nn

from linf_plugin import spectral
from linf_plugin.spectral import SPECTRAL_METHODS, Convolution, bound
from linf_plugin.spectral.bounding import EXACT

CERTIFYING = [name for name, row in SPECTRAL_METHODS.items() if row.upper is not None]
LAYERS = 500


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("part", range(5))
def test_no_bound_of_a_random_layer_is_below_its_norm(part):
    """Paddings, strides, groups, dilations, even kernels, images smaller than the kernel; for the size and for all."""
    exact_ones = 0
    for seed in range(part, LAYERS, 5):
        layer, size = draw(seed)
        shape = (layer.in_channels, *size)
        found = {
            (name, s): bound(layer, name, size=s) for name in CERTIFYING for s in (size, None) if s or name != "matrix"
        }
        lower = bound(layer, "power", size=size, certify=False)
        norm = largest(operator(layer, *shape))
        for key, one in found.items():
            assert one.certified and math.isfinite(one.value)
            assert one.value >= norm * (1 - 1e-14), (seed, key, one, norm)
            if one.kind == EXACT:
                exact_ones += 1
                assert one.value <= norm * (1 + 1e-11), (seed, key, one, norm)
        assert lower.kind == "lower" and not lower.certified
        assert lower.value <= norm * (1 + 1e-12)
    assert exact_ones > LAYERS / 5  # those by the matrix, and some circular ones


def test_a_bound_for_a_size_is_as_tight_as_the_grid_allows():
    """Valid convolutions lie inside the circular one of their own size; strides are folded into channels."""
    torch.manual_seed(3)
    plain = nn.Conv2d(3, 4, 3)
    assert bound(plain, "svd", size=12).value <= 1.1 * bound(plain, "matrix", size=12).value
    patches = nn.Conv2d(3, 8, 4, stride=4)
    rows = largest(patches.weight.detach().double().flatten(1))
    for size in (8, None):
        assert bound(patches, "svd", size=size).value == pytest.approx(rows, rel=1e-12)
    strided, whole = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(3, 4, 3, padding=1)
    strided.weight.data = whole.weight.data.abs()
    whole.weight.data = whole.weight.data.abs()
    assert bound(strided).value < 0.7 * bound(whole).value


def test_the_bound_for_every_size_is_the_limit_of_large_images():
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight.data.fill_(1.0)  # its symbol is largest at 0, where it is 9
    every = {name: bound(layer, name).value for name in ("gram", "svd", "lipbound", "norm2toep")}
    assert all(9 <= value < 9.1 for value in every.values()), every
    assert 8.9 < bound(layer, "matrix", size=24).value < 9


def test_the_circular_bound_of_the_same_size_would_be_wrong_for_zeros():
    """What public code does: the symbol at the n frequencies of the image, without room for the padding."""
    wrong = 0
    for seed in range(300):
        torch.manual_seed(seed)
        n = 3
        zeros, circular = (nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode) for mode in ("zeros", "circular"))
        circular.weight.data = zeros.weight.data
        norm = largest(operator(zeros, 1, n, n))
        wrong += bound(circular, "svd", size=n).value < norm
        assert bound(zeros, "svd", size=n).value >= norm
    assert wrong > 0


def test_a_circular_output_that_repeats_pixels_has_a_larger_norm():
    layer = nn.Conv2d(1, 1, 1, padding=3, padding_mode="circular")
    layer.weight.data.fill_(1.0)
    norm = largest(operator(layer, 1, 3, 3))
    assert norm == pytest.approx(3.0)  # nine copies of each pixel
    assert all(bound(layer, name, size=size).value >= 3 for name in ("gram", "svd") for size in (3, None))
    assert bound(layer, "svd", size=3).value == pytest.approx(3.0)


def _exactly(matrix: torch.Tensor) -> mpmath.mpf:
    with mpmath.workdps(60):
        return max(mpmath.svd_r(mpmath.matrix(matrix.double().tolist()), compute_uv=False))


@pytest.mark.parametrize("scale", [1.0, 2.0**-1020, 1e300, 1e-300, 5e-320])
@pytest.mark.parametrize("name", CERTIFYING)
def test_dense_bounds_hold_to_the_last_digit(name, scale):
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        rows, columns = 1 + seed % 4, 1 + seed // 2
        weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
        if seed == 5:
            weight = weight[:1] * torch.ones(4, 1, dtype=torch.float64)  # rank 1
        value, exact = bound(weight, name).value, _exactly(weight)
        assert mpmath.mpf(value) >= exact
        if name in ("gram", "svd", "matrix"):
            assert value <= float(exact) * (1 + 1e-3) + 5e-324


@pytest.mark.parametrize("name", CERTIFYING)
def test_weights_of_very_different_sizes(name):
    weight = torch.tensor([[1e300, 1e-300], [0.0, 5e-324], [1e-20, 1e290]], dtype=torch.float64)
    assert bound(weight, name).value >= 1e300
    groups = Convolution(torch.tensor([1e-200, 0.0, 3e-5], dtype=torch.float64).view(3, 1, 1, 1), groups=3)
    assert 3e-5 <= bound(groups, name).value <= 3e-5 * (1 + 1e-9)
    assert bound(torch.full((3, 2), 1e308, dtype=torch.float64), name).value == math.inf  # no float64 is so large


@pytest.mark.parametrize("name", CERTIFYING)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_weights_and_all_types(name, dtype):
    assert bound(torch.zeros(3, 4, dtype=dtype), name).value == 0.0
    assert bound(nn.Conv2d(4, 2, 3, groups=2).to(dtype).requires_grad_(False), name, size=7).value > 0
    zero = Convolution(torch.zeros(2, 2, 3, 3, dtype=dtype), padding=1, size=5)
    assert bound(zero, name).value == 0.0
    one = bound(torch.full((1, 1), -0.5, dtype=dtype), name)
    assert 0.5 <= one.value <= 0.5 * (1 + 1e-9) and one.holds_for == "this matrix"


def test_what_a_bound_says():
    conv, dense = nn.Conv2d(2, 3, 3, padding=1), nn.Linear(4, 5)
    assert bound(conv).holds_for == "every image size" and bound(conv, size=(6, 5)).holds_for == "images of 6×5"
    assert bound(dense).kind == EXACT and bound(conv).kind == "upper" and bound(dense).method == "svd"
    assert bound(nn.Conv1d(2, 3, 5, padding=2), size=9).holds_for == "images of 1×9"
    uncertified = bound(dense, "gram", certify=False)
    assert not uncertified.certified and uncertified.iterations == 15 and bound(dense, "svd").iterations == 0
    assert spectral.bound(dense, "gram", iterations=3).iterations == 3


def test_a_convolution_of_rows():
    layer = nn.Conv1d(2, 3, 4, stride=2, padding=3, dilation=2, padding_mode="circular")
    norm = largest(operator(layer, 2, 8))
    assert norm <= bound(layer, size=8).value <= norm * 1.2
    assert bound(layer).value >= norm * (1 - 1e-14)


def test_more_steps_are_tighter():
    torch.manual_seed(1)
    weight, conv = torch.randn(12, 20), nn.Conv2d(3, 4, 3, padding=1)
    for what, name, most in (
        (weight, "gram", 16),
        (conv, "gram", 12),
        (conv, "norm2toep", 5),
        (weight, "norm2toep", 8),
    ):
        values = [bound(what, name, iterations=t).value for t in range(most)]
        assert all(b <= a * (1 + 1e-12) for a, b in pairwise(values)) and values[-1] < 0.95 * values[0]


def test_an_unproved_factor_leaves_the_frobenius_norm(monkeypatch):
    """Whatever LAPACK returns, the bound holds."""
    torch.manual_seed(2)
    weight = torch.randn(5, 7, dtype=torch.float64)
    norm = largest(weight)
    for eigenvalues in (
        lambda h: torch.zeros(h.shape[:2], dtype=torch.float64),
        lambda h: h.new_full(h.shape[:2], math.nan),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch.linalg, "eigvalsh", eigenvalues)
            assert bound(weight, "svd").value == pytest.approx(weight.norm().item())
    with monkeypatch.context() as patch:
        real = torch.linalg.cholesky_ex
        patch.setattr(torch.linalg, "cholesky_ex", lambda m: (real(m)[0] * 0.9, real(m)[1]))
        assert norm < bound(weight, "svd").value <= weight.norm().item() * (1 + 1e-12)
