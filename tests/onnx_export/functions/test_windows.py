"""Convolutional distances in standard ONNX against the specification."""

import math

import numpy as np
import torch
from cases import INF, by_windows, each_conv, each_dtype, each_p, few_p
from one_operator import assert_distances, conv_model, in_evaluator, in_onnxruntime

from linf_plugin.kernels import reference
from onnx_export.functions.windows import WINDOW_BLOCK


@each_dtype
@few_p
@each_conv
def test_conv(conv_case, p, dtype):
    x_shape, w_shape, conv = conv_case
    x, w = torch.randn(x_shape, dtype=dtype), torch.randn(w_shape, dtype=dtype)
    exact = dtype if p == INF else torch.float64
    (expected,) = by_windows(lambda a, b: reference.dist(a, b, p), (x.to(exact),), w.to(exact), conv)
    y = in_onnxruntime(conv_model(x, w, p, conv, expected.shape), x=x.numpy())
    assert_distances(y, expected, dtype, p, math.prod(w_shape[1:]))


def test_conv_in_blocks_of_images():
    x, w, conv = torch.randn(9, 16, 32, 32), torch.randn(4, 16, 3, 3), ([1, 1], [1, 1], [1, 1], 1)
    assert 1 < 9 * 32 * 32 * 9 * 16 / WINDOW_BLOCK < 9, "several blocks, of several images"
    expected = torch.ops.linf.dist_conv2d(x, w, INF, *conv)
    y = in_onnxruntime(conv_model(x, w, INF, conv, expected.shape), x=x.numpy())
    assert np.array_equal(y, expected.numpy())


@each_p
def test_evaluator_agrees(p):
    x, w, conv = torch.randn(2, 4, 5, 4), torch.randn(2, 2, 3, 2), ([2, 1], [1, 0], [1, 2], 2)
    model = conv_model(x, w, p, conv, (2, 2, 3, 2))
    np.testing.assert_allclose(in_evaluator(model, x=x.numpy()), in_onnxruntime(model, x=x.numpy()), rtol=1e-6)


@few_p
def test_nan_pixel(p):
    """Reaches the windows of its group that it lies in, and nothing else."""
    x, w, conv = torch.randn(2, 2, 6, 6), torch.randn(4, 1, 3, 3), ([1, 1], [1, 1], [1, 1], 2)
    x[1, 0, 2, 3] = math.nan
    y = in_onnxruntime(conv_model(x, w, p, conv, (2, 4, 6, 6)), x=x.numpy())
    expected = np.zeros((2, 4, 6, 6), bool)
    expected[1, :2, 1:4, 2:5] = True
    assert np.array_equal(np.isnan(y), expected)
