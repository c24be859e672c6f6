"""The norm of absolute weights: never below the exact one, and near it."""

import copy
import math
from fractions import Fraction

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.layers.absolute import absolute_norm


@torch.no_grad()
@pytest.mark.parametrize(
    "layer, size",
    [
        (nn.Linear(7, 5), None),
        (nn.Conv2d(2, 4, 3, padding=1), 5),
        (nn.Conv2d(4, 6, (3, 2), stride=2, groups=2), 6),
        (nn.Conv2d(3, 2, 2, dilation=2, padding=3), 4),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 4),
        (nn.Conv2d(2, 2, 1, padding=2, padding_mode="circular"), 4),
        (nn.Conv2d(3, 3, 4, stride=4, groups=3), 8),
        (nn.Conv2d(2, 3, 3, stride=2, dilation=3, padding=3), 9),
        (nn.Conv2d(2, 3, (2, 3), stride=(3, 2), padding=1), 7),
    ],
    ids=str,
)
def test_absolute_weights_stretch_no_more_than_that(layer, size):
    """Against the largest singular value of the map, which the images of a basis give."""
    torch.manual_seed(0)
    weight = torch.randn_like(layer.weight)
    layer.weight.copy_(weight)
    absolute = copy.deepcopy(layer).double()
    absolute.weight.copy_(weight.abs())
    shape = (layer.in_features,) if size is None else (layer.in_channels, size, size)
    basis = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    matrix = (absolute(basis) - absolute(torch.zeros_like(basis[:1]))).flatten(1)
    exact = torch.linalg.svdvals(matrix)[0].item()
    assert exact * (1 - 1e-12) <= absolute_norm(layer) < 3 * exact


@torch.no_grad()
def test_dense_maps_and_disjoint_windows_are_bounded_up_to_rounding():
    """Also where power iteration stands still or goes nowhere, and with numbers that have no square in float32."""
    for weight in (torch.rand(5, 7), torch.eye(4), torch.triu(torch.rand(6, 6)), -torch.rand(1, 9), torch.rand(9, 1)):
        for scale in (1.0, 1e-40, 1e38):
            layer = nn.Linear(*weight.T.shape)
            layer.weight.copy_(scale * weight)
            exact = torch.linalg.svdvals(layer.weight.double().abs())[0].item()
            assert exact * (1 - 1e-14) <= absolute_norm(layer) <= exact * (1 + 1e-5)
    assert 1 <= absolute_norm(lp.AveragePool(3, 2).plain()) < 1 + 1e-12
    layer.weight.zero_()
    assert absolute_norm(layer) == 0


@torch.no_grad()
def test_a_bound_of_absolute_weights_is_exact_arithmetic_or_above():
    """Of a matrix of ones the norm is known without rounding: √(rows·columns)."""
    for rows, columns in ((3, 27), (16, 4), (50, 2), (200, 800)):
        layer = nn.Linear(columns, rows)
        layer.weight.fill_(-1.0)
        found = absolute_norm(layer)
        assert Fraction(found) ** 2 >= rows * columns and found < math.sqrt(rows * columns) * (1 + 1e-12)


def test_broken_weights_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = math.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        absolute_norm(layer)
