"""The pieces of the proofs: cosines, factors of grids, rounding, symbols, what a process must do."""

import math
import random

import mpmath
import pytest
import torch

from linf_plugin.spectral import bound
from linf_plugin.spectral.geometry import Convolution, axes, fold
from linf_plugin.spectral.outward import Matrices, back, frobenius, gamma, gram, read, scaled, up
from linf_plugin.spectral.roots import cosine_below, roots
from linf_plugin.spectral.svd import svd_upper
from linf_plugin.spectral.symbol import circle_factor, error, grid, matrices


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 12, 33, 96])
def test_roots_of_unity_are_within_a_unit(n):
    with mpmath.workdps(40):
        for j, (c, s) in enumerate(roots(n).T.tolist()):
            angle = 2 * mpmath.pi * j / n
            assert abs(c - mpmath.cos(angle)) <= 2.0**-53 and abs(s - mpmath.sin(angle)) <= 2.0**-53


def test_the_factor_of_a_circle_is_above_the_secant():
    with mpmath.workdps(40):
        for reach in range(1, 8):
            for points in (reach + 1, 2 * reach + 1, 16 * reach):
                secant = 1 / mpmath.cos(mpmath.pi * reach / (2 * points))
                assert secant <= circle_factor(reach, points) <= secant * (1 + 1e-12)
                assert cosine_below(reach, 4 * points) <= 1 / secant


def test_no_smaller_factor_of_a_circle_would_do():
    """|1 + z·e^{irω}|/2 is |cos| of r·ω/2 and an angle; z moves its maximum to the middle of two points of the grid."""
    for reach, points in ((1, 3), (2, 6), (3, 9), (4, 32)):
        z = complex(math.cos(math.pi / points * reach), -math.sin(math.pi / points * reach))
        on_grid, everywhere = (
            (1 + z * torch.exp(1j * reach * torch.arange(n, dtype=torch.float64) * (2 * math.pi / n))).abs().max() / 2
            for n in (points, 20000)
        )
        assert everywhere.item() == pytest.approx(1, abs=1e-6)
        assert circle_factor(reach, points) * on_grid.item() == pytest.approx(1, abs=1e-12)


def test_the_factor_holds_for_random_symbols_in_two_dimensions():
    rng = random.Random(0)
    for _ in range(60):
        kernel = torch.randn(1, 2, 2, rng.randint(1, 4), rng.randint(1, 4), dtype=torch.float64)
        coarse = grid(axes(Convolution(kernel[0])), tuple(kernel.shape[-2:]), fine=2)
        fine = grid(axes(Convolution(kernel[0])), tuple(kernel.shape[-2:]), fine=40)

        def largest(used):
            a = matrices(kernel, used, used.indices)
            return torch.linalg.svdvals(a.re if a.im is None else torch.complex(a.re, a.im)).max().item()

        assert largest(fine) <= coarse.factor * largest(coarse) * (1 + 1e-12)


def test_large_kernels_have_a_coarser_grid():
    used = {k: grid(axes(Convolution(torch.ones(1, 1, k, k))), (k, k)) for k in (3, 9, 31)}
    assert used[3].counts == (32, 32) and used[9].counts == (128, 128) and used[31].counts == (120, 120)
    assert used[3].factor < used[31].factor < 1.18
    layer = Convolution(torch.randn(1, 1, 31, 31), padding=15)
    lower = bound(layer, "power", certify=False, iterations=3).value
    assert lower <= bound(layer).value <= 1.3 * bound(layer, "norm2toep", iterations=1).value


def _exact_symbol(kernel, j, counts, steps):
    """F(ω) in 40 digits, as a list of rows."""
    with mpmath.workdps(40):
        out, inputs, kh, kw = kernel.shape
        turn = [
            [
                mpmath.expjpi(
                    2 * (mpmath.mpf(steps[0] * y * j[0]) / counts[0] + mpmath.mpf(steps[1] * x * j[1]) / counts[1])
                )
                for x in range(kw)
            ]
            for y in range(kh)
        ]
        return [
            [
                mpmath.fsum(mpmath.mpf(kernel[o, i, y, x].item()) * turn[y][x] for y in range(kh) for x in range(kw))
                for i in range(inputs)
            ]
            for o in range(out)
        ]


def test_a_symbol_is_off_by_less_than_is_claimed():
    torch.manual_seed(0)
    for size, dilation in ((None, 1), (6, 2)):
        kernel = torch.randn(1, 2, 3, 3, 2, dtype=torch.float64)
        used = grid(axes(Convolution(kernel[0], padding=1, size=size, dilation=dilation)), (3, 2), fine=3)
        found, claimed = matrices(kernel, used, used.indices), error(kernel)
        for b, j in enumerate(used.indices.tolist()):
            exact = _exact_symbol(kernel[0], j, used.counts, used.steps)
            with mpmath.workdps(40):
                off = mpmath.sqrt(
                    sum(
                        abs(exact[o][i] - mpmath.mpc(found.re[b, o, i].item(), found.im[b, o, i].item())) ** 2
                        for o in range(2)
                        for i in range(3)
                    )
                )
            assert off <= claimed <= 1e-13


@pytest.mark.parametrize("complex_", [False, True])
def test_errors_of_gram_products_are_bounded(complex_):
    for seed in range(20):
        torch.manual_seed(seed)
        a, _ = scaled(Matrices(torch.randn(1, 5, 4).double() ** 3, torch.randn(1, 5, 4).double() if complex_ else None))
        h, claimed = gram(a, frobenius(a))
        with mpmath.workdps(40):
            zero = torch.zeros_like(a.re)

            def entry(m, i, j):
                return mpmath.mpc(m.re[0, i, j].item(), (zero if m.im is None else m.im)[0, i, j].item())

            off = 0
            for i in range(4):
                for j in range(4):
                    exact = mpmath.fsum(mpmath.conj(entry(a, k, i)) * entry(a, k, j) for k in range(5))
                    off += (
                        abs(exact - mpmath.mpc(h.re[0, i, j].item(), 0 if h.im is None else h.im[0, i, j].item())) ** 2
                    )
            assert 0 < mpmath.sqrt(off) <= claimed.item()
            norm = mpmath.sqrt(sum(abs(entry(a, i, j)) ** 2 for i in range(5) for j in range(4)))
            assert norm <= frobenius(a).item() <= norm * (1 + 1e-13)


def test_rounding_outward():
    with mpmath.workdps(40):
        for k in (0, 1, 5, 1000, 1 << 26):
            exact_gamma = k * mpmath.mpf(2) ** -53 / (1 - k * mpmath.mpf(2) ** -53)
            assert gamma(k) >= exact_gamma
            for x in (1.0, 1 / 3, 7e-200):
                assert up(x, k) >= mpmath.mpf(x) / (1 - exact_gamma)
    with pytest.raises(ValueError, match="sums of"):
        gamma((1 << 26) + 1)
    assert back(0.75, 3) == 6.0 and back(0.0, 3) == 0.0 and back(1.0, 1024) == math.inf
    assert back(0.75, -1074) >= 0.75 * 2.0**-1073 / 2 > 0 and back(1.0, -2000) == 5e-324


@pytest.mark.parametrize("value", [0.0, 5e-324, 1e-310, 1.0, 1.7e308])
def test_weights_are_read_exactly(value):
    w, exponent = read(torch.tensor([[value, -value]], dtype=torch.float64))
    assert w.abs().max() < 1 and [math.ldexp(one, exponent) for one in w[0].tolist()] == [value, -value]


def test_small_weights_that_a_process_reads_as_zero_are_refused():
    weights = [torch.tensor([[1e-40, 1.0]]), torch.tensor([[1e-310, 1.0]], dtype=torch.float64)]
    for weight in weights:
        assert bound(weight).value >= 1
    if torch.set_flush_denormal(True):
        try:
            for weight in weights:
                with pytest.raises(RuntimeError, match="set_flush_denormal"):
                    bound(weight)
            assert bound(torch.ones(2, 2)).value >= 2
        finally:
            torch.set_flush_denormal(False)


def test_other_arithmetic_is_refused(monkeypatch):
    monkeypatch.setenv("MKL_BLAS_COMPUTE_MODE", "COMPLEX_3M")
    with pytest.raises(RuntimeError, match="MKL_BLAS_COMPUTE_MODE"):
        bound(torch.ones(2, 2))


def test_stacks_of_matrices_are_bounded_each():
    torch.manual_seed(0)
    re, im = torch.randn(6, 4, 7).double(), torch.randn(6, 4, 7).double()
    scale = torch.tensor([1.0, 1e-200, 0.0, 1e150, 3.0, 1e-5], dtype=torch.float64)[:, None, None]
    a = Matrices(re * scale, im * scale)
    exact = torch.linalg.svdvals(torch.complex(a.re, a.im))[:, 0]
    found = svd_upper(a)
    big = scale.flatten() > 1e-100
    assert (found >= exact * (1 - 1e-14)).all() and (found[big] <= exact[big] * (1 + 1e-12)).all() and found[2] == 0


def test_strides_are_folded_into_channels():
    """Tap u of the kernel is tap u // s of the channel of phase u mod s."""
    weight = torch.arange(5.0).view(1, 1, 1, 5) + 1
    folded = fold(*(lambda c: (c, axes(c)))(Convolution(weight, (1, 2))))
    assert folded.shape == (1, 1, 2, 1, 3)
    assert folded[0, 0, :, 0].tolist() == [[1, 3, 5], [2, 4, 0]]
    dilated = Convolution(weight[..., :2], (1, 3), dilation=(1, 4))  # taps at 0 and 4: phases 0 and 1
    assert fold(dilated, axes(dilated))[0, 0, :, 0].tolist() == [[1, 0], [0, 2]]
