"""Dense distances and sorted sums in standard ONNX against the specification."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import INF, each_dtype, each_p, each_shape, each_sort, few_p, rows
from one_operator import assert_distances, assert_sorted_sums, dist_model, in_evaluator, in_onnxruntime, sort_model

import linf_plugin
from linf_plugin.kernels import reference
from onnx_export.functions.distances import BLOCK


@each_dtype
@each_p
@each_shape
def test_dist(shape, p, dtype):
    x, w = rows(shape, dtype=dtype)
    x[:1] = w[:1] if len(w) else 0  # a distance of 0
    exact = dtype if p == INF else torch.float64
    y = in_onnxruntime(dist_model(x, w, p), x=x.numpy())
    assert_distances(y, reference.dist(x.to(exact), w.to(exact), p), dtype, p, shape[2])


@few_p
@pytest.mark.parametrize(
    "shape",
    [(3, 300, 2000), (700, 10, 1000), (2, 2, BLOCK + 1), (257, 33, 65)],
    ids=["several-tiles", "several-blocks", "row-beyond-a-block", "one-row-short"],
)
def test_dist_in_blocks(shape, p):
    x, w = rows(shape)
    exact = torch.float32 if p == INF else torch.float64
    y = in_onnxruntime(dist_model(x, w, p), x=x.numpy())
    assert_distances(y, linf_plugin.dist(x.to(exact), w.to(exact), p), torch.float32, p, shape[2])


@each_dtype
@each_sort
@each_shape
def test_sorted_dist(shape, sort, dtype):
    x, w = rows(shape, dtype=dtype)
    x[:1] = w[:1] if len(w) else 0  # a distance of 0
    assert_sorted_sums(in_onnxruntime(sort_model(x, w, *sort), x=x.numpy()), x, w, *sort)


def test_sorted_dist_in_blocks():
    x, w = rows((70, 30, 2000))
    assert x.numel() * len(w) > 8 * BLOCK
    assert_sorted_sums(in_onnxruntime(sort_model(x, w, 0.5, 10), x=x.numpy()), x, w, 0.5, 10)


@each_sort
def test_evaluator_agrees_on_sorted_sums(sort):
    x, w = rows((3, 4, 5))
    assert_sorted_sums(in_evaluator(sort_model(x, w, *sort), x=x.numpy()), x, w, *sort)


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_not_finite_rows_of_sorted_sums(bad):
    features = 19
    x, w = rows((features + 1, 3, features))
    x[:features].fill_diagonal_(bad)
    y = torch.from_numpy(in_onnxruntime(sort_model(x, w, 0.5, 3), x=x.numpy()))
    torch.testing.assert_close(y, linf_plugin.sorted_dist(x, w, 0.5, 3), rtol=1e-6, atol=0, equal_nan=True)
    assert not y[:features].isfinite().any() and y[features].isfinite().all()
    w[1, 7] = math.nan
    y = in_onnxruntime(sort_model(x[features:], w, 0.5, 3), x=x[features:].numpy())
    assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()


@each_p
def test_evaluator_agrees(p):
    x, w = rows((3, 4, 5))
    model = dist_model(x, w, p)
    np.testing.assert_allclose(in_evaluator(model, x=x.numpy()), in_onnxruntime(model, x=x.numpy()), rtol=1e-6)


@each_p
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e-39], ids=["large", "small", "subnormal"])
def test_powers_stay_in_range(p, scale):
    x, w = rows((3, 4, 33))
    x, w = x * scale, w * scale
    y = in_onnxruntime(dist_model(x, w, p), x=x.numpy())
    np.testing.assert_allclose(y, linf_plugin.dist(x.double(), w.double(), p).numpy(), rtol=1e-5)


@each_p
@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_not_finite_rows(p, bad):
    """As PyTorch, whichever coordinate it is: NaN reaches its row and nothing else."""
    features = 19
    x, w = rows((features + 1, 3, features))
    x[:features].fill_diagonal_(bad)
    y = torch.from_numpy(in_onnxruntime(dist_model(x, w, p), x=x.numpy()))
    torch.testing.assert_close(y, linf_plugin.dist(x, w, p), rtol=1e-6, atol=0, equal_nan=True)
    assert not y[:features].isfinite().any() and y[features].isfinite().all()


@few_p
def test_nan_weight(p):
    x, w = rows((4, 3, 9))
    w[1, 7] = math.nan
    y = in_onnxruntime(dist_model(x, w, p), x=x.numpy())
    assert np.isnan(y[:, 1]).all() and np.isfinite(y[:, [0, 2]]).all()


def test_weights_are_prepared_when_loaded(tmp_path):
    """Only what depends on x is left for every run."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this machine only
    model = dist_model(*rows((1, 3, 4)), INF)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes.count("Pad") == nodes.count("IsNaN") == nodes.count("Scan") == 1
