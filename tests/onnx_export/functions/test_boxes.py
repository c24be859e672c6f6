"""Ranges of distances over boxes in standard ONNX against the specification."""

import functools
import math

import numpy as np
import pytest
import torch
from cases import INF, box, by_windows, each_conv, each_dtype, each_shape, each_sort, rows
from one_operator import all_in_evaluator, all_in_onnxruntime, box_conv_model, box_dist_model, box_sort_model

from linf_plugin.kernels import reference
from onnx_export.functions.distances import BLOCK


def assert_ranges(ends: list[np.ndarray], expected: tuple[torch.Tensor, ...], rtol: float = 0.0) -> None:
    for y, z in zip(ends, expected, strict=True):
        assert torch.from_numpy(y).dtype == z.dtype
        torch.testing.assert_close(torch.from_numpy(y), z, rtol=rtol, atol=0, equal_nan=True)


def assert_sorted_ranges(ends: list[np.ndarray], lower, upper, w, rho: float, k: int) -> None:
    """As ``assert_sorted_sums``, with terms that are the same to the bit."""
    terms = len(reference.coefficients(rho, k, w.shape[1]))
    expected = torch.ops.linf.box_sorted_dist(lower, upper, w, rho, k)
    assert_ranges(ends, expected, 2 * (terms + 2) * torch.finfo(w.dtype).eps / 2)


def boxes(shape: tuple[int, int, int], **options) -> tuple[torch.Tensor, ...]:
    """lower, upper, w; the first box is around the first row of w."""
    x, w = rows(shape, **options)
    x[:1] = w[:1] if len(w) else 0
    return *box(x), w


@each_dtype
@each_shape
def test_box_dist(shape, dtype):
    lower, upper, w = boxes(shape, dtype=dtype)
    ends = all_in_onnxruntime(box_dist_model(lower, upper, w), lower=lower.numpy(), upper=upper.numpy())
    assert_ranges(ends, reference.box_dist(lower, upper, w, INF))


@each_dtype
@each_sort
@each_shape
def test_box_sorted_dist(shape, sort, dtype):
    lower, upper, w = boxes(shape, dtype=dtype)
    ends = all_in_onnxruntime(box_sort_model(lower, upper, w, *sort), lower=lower.numpy(), upper=upper.numpy())
    assert_sorted_ranges(ends, lower, upper, w, *sort)


@each_dtype
@each_conv
def test_box_conv(conv_case, dtype):
    x_shape, w_shape, conv = conv_case
    (lower, upper), w = box(torch.randn(x_shape, dtype=dtype)), torch.randn(w_shape, dtype=dtype)
    distance = functools.partial(reference.box_dist, p=INF)
    expected = by_windows(distance, (lower, upper), w, conv)
    model = box_conv_model(lower, upper, w, conv, expected[0].shape)
    assert_ranges(all_in_onnxruntime(model, lower=lower.numpy(), upper=upper.numpy()), expected)


@pytest.mark.parametrize(
    "shape",
    [(3, 300, 2000), (700, 10, 1000), (2, 2, BLOCK + 1)],
    ids=["several-tiles", "several-blocks", "row-beyond-a-block"],
)
def test_boxes_in_blocks(shape):
    lower, upper, w = boxes(shape)
    given = {"lower": lower.numpy(), "upper": upper.numpy()}
    ends = all_in_onnxruntime(box_dist_model(lower, upper, w), **given)
    assert_ranges(ends, torch.ops.linf.box_dist(lower, upper, w, INF))
    ends = all_in_onnxruntime(box_sort_model(lower, upper, w, 0.5, 4), **given)
    assert_sorted_ranges(ends, lower, upper, w, 0.5, 4)


def test_box_conv_in_blocks_of_images():
    w, conv = torch.randn(4, 16, 3, 3), ([1, 1], [1, 1], [1, 1], 1)
    lower, upper = box(torch.randn(9, 16, 32, 32))
    expected = torch.ops.linf.box_conv2d(lower, upper, w, INF, *conv)
    model = box_conv_model(lower, upper, w, conv, expected[0].shape)
    assert_ranges(all_in_onnxruntime(model, lower=lower.numpy(), upper=upper.numpy()), expected)


def test_evaluator_agrees_on_boxes():
    lower, upper, w = boxes((3, 4, 5))
    given = {"lower": lower.numpy(), "upper": upper.numpy()}
    ends = all_in_evaluator(box_dist_model(lower, upper, w), **given)
    assert_ranges(ends, reference.box_dist(lower, upper, w, INF))
    ends = all_in_evaluator(box_sort_model(lower, upper, w, 0.5, 3), **given)
    assert_sorted_ranges(ends, lower, upper, w, 0.5, 3)
    (lower, upper), w, conv = box(torch.randn(2, 4, 5, 4)), torch.randn(2, 2, 3, 2), ([2, 1], [1, 0], [1, 2], 2)
    ends = all_in_evaluator(
        box_conv_model(lower, upper, w, conv, (2, 2, 3, 2)), lower=lower.numpy(), upper=upper.numpy()
    )
    assert_ranges(ends, torch.ops.linf.box_conv2d(lower, upper, w, INF, *conv))


@pytest.mark.parametrize(
    "bad_lower, bad_upper",
    [(math.nan, 0.5), (0.5, math.nan), (math.nan, math.nan), (-INF, 0.5), (0.5, INF), (-INF, INF), (INF, INF)],
)
def test_not_finite_boxes(bad_lower, bad_upper):
    """As PyTorch: NaN in either end reaches both ends of its row and nothing else; a box may be all numbers."""
    features = 19
    lower, upper, w = boxes((features + 1, 3, features))
    lower[:features].fill_diagonal_(bad_lower)
    upper[:features].fill_diagonal_(bad_upper)
    given = {"lower": lower.numpy(), "upper": upper.numpy()}
    ends = all_in_onnxruntime(box_dist_model(lower, upper, w), **given)
    assert_ranges(ends, reference.box_dist(lower, upper, w, INF))
    sums = all_in_onnxruntime(box_sort_model(lower, upper, w, 0.5, 3), **given)
    assert_sorted_ranges(sums, lower, upper, w, 0.5, 3)
    for y in (*ends, *sums):
        assert np.isnan(y[:features]).all() == (math.isnan(bad_lower) or math.isnan(bad_upper))
        assert np.isfinite(y[features]).all()


def test_nan_weight_of_boxes():
    lower, upper, w = boxes((4, 3, 9))
    w[1, 7] = math.nan
    for y in all_in_onnxruntime(box_dist_model(lower, upper, w), lower=lower.numpy(), upper=upper.numpy()):
        assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()


@pytest.mark.parametrize("end", ["lower", "upper"])
def test_nan_pixel_of_a_box(end):
    """Reaches the windows of its group that it lies in, and nothing else."""
    lower, upper = box(torch.randn(2, 2, 6, 6))
    w, conv = torch.randn(4, 1, 3, 3), ([1, 1], [1, 1], [1, 1], 2)
    given = {"lower": lower.numpy(), "upper": upper.numpy()}
    given[end][1, 0, 2, 3] = math.nan
    expected = np.zeros((2, 4, 6, 6), bool)
    expected[1, :2, 1:4, 2:5] = True
    for y in all_in_onnxruntime(box_conv_model(lower, upper, w, conv, (2, 4, 6, 6)), **given):
        assert np.array_equal(np.isnan(y), expected)
