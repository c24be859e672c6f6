"""Circulant, Toeplitz and doubly-block Toeplitz matrices: what they are, their symbols, norms and products."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from spectral_layers import largest
from torch.autograd import gradcheck

from linf_plugin.spectral.structured import (
    circulant,
    circulant_bound,
    circulant_product,
    circulant_symbol,
    diagonal_circulant_bound,
    doubly_block_toeplitz,
    toeplitz,
    toeplitz_bound,
    toeplitz_product,
    toeplitz_symbol,
)


def _vector(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 13, 100])
@pytest.mark.parametrize("taps", [1, 2, 100])
def test_singular_values_of_a_circulant_are_those_of_its_transform(n, taps):
    c = _vector(n, n)
    c[taps:] = 0
    matrix = circulant(c)
    assert torch.equal(circulant(c, 2), matrix[:2])
    assert torch.equal(matrix[:, 0], c) and torch.equal(matrix.roll(1, 0).roll(1, 1), matrix)
    found = circulant_symbol(c).abs().sort(descending=True).values
    torch.testing.assert_close(found, torch.linalg.svdvals(matrix), rtol=1e-12, atol=1e-13)
    bounds = {norm: circulant_bound(c, norm) for norm in (2, "linf", "l1", math.inf)}
    exact = {2: largest(matrix), "linf": matrix.abs().sum(1).max().item(), "l1": matrix.abs().sum(0).max().item()}
    for norm, value in exact.items():
        assert value * (1 - 1e-14) <= bounds[norm] <= value * (1 + 1e-12)
    assert bounds[math.inf] == bounds["linf"]
    x = torch.stack([_vector(n, 1), _vector(n, 2)])
    torch.testing.assert_close(circulant_product(c, x), x @ matrix.T)
    assert circulant_product(c, x[:0]).shape == (0, n)


@pytest.mark.parametrize("rows, n", [(1, 1), (5, 5), (3, 8), (1, 9), (64, 64), (10, 100)])
def test_a_diagonal_enlarges_a_circulant_by_its_largest_number(rows, n):
    """In the maximum norm exactly so; in the others at most."""
    for seed in range(20):
        d, c = _vector(rows, seed) * 10.0 ** (seed - 10), _vector(n, seed + 100)
        matrix = d[:, None] * circulant(c, rows)
        bounds = {norm: diagonal_circulant_bound(d, c, norm) for norm in (2, math.inf, 1)}
        exact = {2: largest(matrix), math.inf: matrix.abs().sum(1).max().item(), 1: matrix.abs().sum(0).max().item()}
        assert all(exact[norm] * (1 - 1e-14) <= bounds[norm] for norm in exact)
        assert bounds[1] == bounds[math.inf] <= exact[math.inf] * (1 + 1e-12)
        assert bounds[2] == pytest.approx(d.abs().max().item() * circulant_bound(c), rel=1e-12)


@pytest.mark.parametrize("n", (2, 3, 64))
def test_bounds_of_float32_numbers_cover_rounding(n):
    """Exact sums of rational numbers: the bound in the maximum norm is not below them."""
    for seed in range(50):
        d, c = _vector(n, seed).float(), _vector(n, seed + 100).float()
        exact = max(map(abs, map(Fraction, d.tolist()))) * sum(map(abs, map(Fraction, c.tolist())))
        assert Fraction(diagonal_circulant_bound(d, c, math.inf)) >= exact
        signs = d.sign()
        one = sum(Fraction(a) for a in c.tolist())  # FFT(c) at the frequency 0
        assert Fraction(diagonal_circulant_bound(signs, c, 2)) >= abs(one)


@pytest.mark.parametrize("shape", [(1, 1), (5, 4), (4, 5), (1, 6), (6, 1), (40, 40)])
def test_a_toeplitz_matrix_is_bounded_by_its_symbol(shape):
    column, row = _vector(shape[0], 1), _vector(shape[1], 2)
    row[0] = column[0]
    matrix = toeplitz(column, row)
    assert torch.equal(matrix[:, 0], column) and torch.equal(matrix[0], row)
    assert torch.equal(matrix[1:, 1:], matrix[:-1, :-1])
    omega = torch.linspace(0, 2 * math.pi, 5000, dtype=torch.float64)
    top = toeplitz_symbol(column, row, omega).abs().max().item()
    assert largest(matrix) <= top * (1 + 1e-6) and top * (1 - 1e-12) <= toeplitz_bound(column, row) <= 1.01 * top
    x = torch.stack([_vector(shape[1], 3), _vector(shape[1], 4)])
    torch.testing.assert_close(toeplitz_product(column, row, x), x @ matrix.T)


def test_a_doubly_block_toeplitz_matrix_convolves():
    kernel, image = _vector(6).view(2, 3), _vector(20, 1).view(4, 5)
    for padding in (0, 1, (0, 2)):
        expected = F.conv2d(image[None, None], kernel[None, None], padding=padding).flatten()
        torch.testing.assert_close(doubly_block_toeplitz(kernel, (4, 5), padding) @ image.flatten(), expected)
    same = doubly_block_toeplitz(_vector(9).view(3, 3), (4, 5))
    blocks = same.view(4, 5, 4, 5).transpose(1, 2)  # blocks[i][j] depends on i − j only, and is Toeplitz itself
    assert torch.equal(blocks[1:, 1:], blocks[:-1, :-1]) and torch.equal(same[1:5, 1:5], same[:4, :4])


def test_products_have_gradients():
    c, x = _vector(7).requires_grad_(), _vector(7, 1).requires_grad_()
    assert gradcheck(circulant_product, (c, x))
    column, row = _vector(4, 2), torch.cat([_vector(4, 2)[:1], _vector(2, 3)])
    assert gradcheck(lambda x: toeplitz_product(column, row, x), (_vector(3, 4).requires_grad_(),))


@pytest.mark.parametrize("scale", [0.0, 1e-300, 1e300])
def test_extreme_circulants(scale):
    c = torch.tensor([3.0, -4.0], dtype=torch.float64) * scale
    for norm in (2, math.inf):
        assert 7 * scale <= circulant_bound(c, norm) <= 7 * scale * (1 + 1e-12)
        assert 7 * scale <= diagonal_circulant_bound(-torch.ones(1), c, norm) <= 7 * scale * (1 + 1e-12)
    small, large = torch.full((2,), 2.0**-600, dtype=torch.float64), torch.full((2,), 2.0**600, dtype=torch.float64)
    assert diagonal_circulant_bound(small, large, math.inf) == pytest.approx(2, rel=1e-12)
    assert 0 < diagonal_circulant_bound(small, small, 2) < 2.0**-1000  # the product has no normal number
    assert diagonal_circulant_bound(large, large, 2) == math.inf


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: circulant(torch.ones(2, 2)), "c must be a vector"),
        (lambda: circulant_bound(torch.ones(0)), "c must be a vector"),
        (lambda: circulant_bound(torch.tensor([math.nan])), "weight must not hold NaN"),
        (lambda: circulant_bound(torch.ones(2), 3), "norm must be one of"),
        (lambda: diagonal_circulant_bound(torch.ones(2, 1), torch.ones(2)), "diagonal must be a vector"),
        (lambda: diagonal_circulant_bound(torch.ones(2), torch.ones(0)), "column must be a vector"),
        (lambda: diagonal_circulant_bound(torch.tensor([math.inf]), torch.ones(2)), "diagonal must not hold NaN"),
        (lambda: diagonal_circulant_bound(torch.ones(1), torch.tensor([math.nan])), "column must not hold NaN"),
        (lambda: diagonal_circulant_bound(torch.ones(2), torch.ones(1)), "diagonal must have at most 1 numbers"),
        (lambda: circulant_product(torch.ones(2), torch.ones(3)), "x must have rows of 2 numbers"),
        (lambda: toeplitz(torch.ones(2), torch.zeros(2)), "row must begin as column does, with 1.0, got 0.0"),
        (lambda: toeplitz_product(torch.ones(2), torch.ones(3), torch.ones(2)), "x must have rows of 3 numbers"),
        (lambda: doubly_block_toeplitz(torch.ones(2), (3, 3)), r"kernel must have shape \(kh, kw\)"),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=text):
        call()
