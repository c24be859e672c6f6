"""The bodies in standard ONNX against the specification, in onnxruntime and in ONNX's own evaluator."""

import functools
import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cases import (
    INF,
    box,
    by_windows,
    each_conv,
    each_dtype,
    each_p,
    each_shape,
    each_sort,
    few_p,
    rows,
    value_tolerance,
)
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import linf_plugin
from linf_plugin.kernels import reference
from onnx_export.functions.distances import BLOCK
from onnx_export.functions.domain import LINF, OPSET
from onnx_export.functions.library import STEP_SIZES, attach, for_device
from onnx_export.functions.windows import WINDOW_BLOCK


def one_node(
    name: str, inputs: dict, constants: dict, shape: tuple, outputs: tuple = ("y",), **attributes
) -> onnx.ModelProto:
    """A checked model of one node: ``inputs`` (a batch of each) and ``constants`` are arrays, in order."""
    dtype = helper.np_dtype_to_tensor_dtype(next(iter(inputs.values())).dtype)
    graph = helper.make_graph(
        [helper.make_node(name, [*inputs, *constants], outputs, domain=LINF.domain, **attributes)],
        "g",
        [helper.make_tensor_value_info(key, dtype, ["n", *a.shape[1:]]) for key, a in inputs.items()],
        [helper.make_tensor_value_info(key, dtype, ["n", *shape[1:]]) for key in outputs],
        [numpy_helper.from_array(a, key) for key, a in constants.items()],
    )
    model = attach(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    return model


def all_in_onnxruntime(model: onnx.ModelProto, **inputs) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def in_onnxruntime(model: onnx.ModelProto, **inputs) -> np.ndarray:
    (y,) = all_in_onnxruntime(model, **inputs)
    return y


def all_in_evaluator(model: onnx.ModelProto, **inputs) -> list[np.ndarray]:
    with np.errstate(divide="ignore"):  # log 0 is −∞, as it should
        return ReferenceEvaluator(model).run(None, inputs)


def in_evaluator(model: onnx.ModelProto, **inputs) -> np.ndarray:
    (y,) = all_in_evaluator(model, **inputs)
    return y


def exponent(p: float) -> tuple[str, dict]:
    return ("Linf", {}) if p == INF else ("Lp", {"p": p})


def dist_model(x, w, p: float) -> onnx.ModelProto:
    name, attributes = exponent(p)
    return one_node(f"{name}Dist", {"x": x.numpy()}, {"w": w.numpy()}, (len(x), len(w)), **attributes)


def sort_model(x, w, rho: float, k: int) -> onnx.ModelProto:
    c = reference.coefficients(rho, k, w.shape[1])
    return one_node("SortDist", {"x": x.numpy()}, {"w": w.numpy()}, (len(x), len(w)), coefficients=c)


def conv_model(x, w, p: float, conv: tuple, shape: tuple) -> onnx.ModelProto:
    stride, padding, dilation, _ = conv
    name, attributes = exponent(p)
    return one_node(
        f"{name}DistConv",
        {"x": x.numpy()},
        {"w": w.numpy()},
        shape,
        strides=stride,
        pads=[*padding, *padding],
        dilations=dilation,
        **attributes,
    )


def assert_distances(y: np.ndarray, expected: torch.Tensor, dtype: torch.dtype, p: float, features: int) -> None:
    """y has the dtype and, at p = ∞ exactly, the values."""
    assert torch.from_numpy(y).dtype == dtype
    torch.testing.assert_close(
        torch.from_numpy(y).to(expected.dtype), expected, rtol=value_tolerance(dtype, p, features), atol=0
    )


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


def assert_sorted_sums(y: np.ndarray, x, w, rho: float, k: int) -> None:
    """Of K terms at most: a product each, and additions in any order, lose eps/2 of the sum each."""
    expected = linf_plugin.sorted_dist(x.double(), w.double(), rho, k)
    terms = len(reference.coefficients(rho, k, w.shape[1]))
    tolerance = (terms + 2) * torch.finfo(x.dtype).eps / 2
    assert torch.from_numpy(y).dtype == x.dtype
    torch.testing.assert_close(torch.from_numpy(y).double(), expected, rtol=tolerance, atol=0)


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
    x, w = rows((3, 4, 5))
    model = dist_model(x, w, p)
    np.testing.assert_allclose(in_evaluator(model, x=x.numpy()), in_onnxruntime(model, x=x.numpy()), rtol=1e-6)
    x, w, conv = torch.randn(2, 4, 5, 4), torch.randn(2, 2, 3, 2), ([2, 1], [1, 0], [1, 2], 2)
    model = conv_model(x, w, p, conv, (2, 2, 3, 2))
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


@few_p
def test_nan_pixel(p):
    """Reaches the windows of its group that it lies in, and nothing else."""
    x, w, conv = torch.randn(2, 2, 6, 6), torch.randn(4, 1, 3, 3), ([1, 1], [1, 1], [1, 1], 2)
    x[1, 0, 2, 3] = math.nan
    y = in_onnxruntime(conv_model(x, w, p, conv, (2, 4, 6, 6)), x=x.numpy())
    expected = np.zeros((2, 4, 6, 6), bool)
    expected[1, :2, 1:4, 2:5] = True
    assert np.array_equal(np.isnan(y), expected)


# Boxes.


def box_model(name: str, lower, upper, w, shape: tuple, **attributes) -> onnx.ModelProto:
    inputs = {"lower": lower.numpy(), "upper": upper.numpy()}
    return one_node(name, inputs, {"w": w.numpy()}, shape, ("near", "far"), **attributes)


def box_dist_model(lower, upper, w) -> onnx.ModelProto:
    return box_model("LinfBoxDist", lower, upper, w, (len(lower), len(w)))


def box_sort_model(lower, upper, w, rho: float, k: int) -> onnx.ModelProto:
    c = reference.coefficients(rho, k, w.shape[1])
    return box_model("SortBoxDist", lower, upper, w, (len(lower), len(w)), coefficients=c)


def box_conv_model(lower, upper, w, conv: tuple, shape: tuple) -> onnx.ModelProto:
    stride, padding, dilation, _ = conv
    return box_model(
        "LinfBoxDistConv", lower, upper, w, shape, strides=stride, pads=[*padding, *padding], dilations=dilation
    )


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


# How they run.


def test_weights_are_prepared_when_loaded(tmp_path):
    """Only what depends on x is left for every run."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file fits this machine only
    model = dist_model(*rows((1, 3, 4)), INF)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert nodes.count("Pad") == nodes.count("IsNaN") == nodes.count("Scan") == 1


MEMORY = """
import sys
from pathlib import Path
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
small, large = (rng.random((n, *map(int, sys.argv[2:])), np.float32) for n in (1, 256))
def kilobytes(key):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if key in line)
session.run(None, {i.name: small for i in session.get_inputs()})
before = kilobytes("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, and not from the parent's
session.run(None, {i.name: large for i in session.get_inputs()})
print(kilobytes("VmHWM") - before)
"""

CONV = ([1, 1], [1, 1], [1, 1], 1)
KINDS = {  # the shape of x, a model for any number of them
    "linear": ((512,), lambda x: dist_model(x, torch.randn(512, 512), INF)),
    "conv": ((16, 32, 32), lambda x: conv_model(x, torch.randn(2, 16, 3, 3), INF, CONV, (1, 2, 32, 32))),
    "box-linear": ((512,), lambda x: box_dist_model(x, x, torch.randn(512, 512))),
    "box-sorted": ((512,), lambda x: box_sort_model(x, x, torch.randn(512, 512), 0.5, 3)),
    "box-conv": ((16, 32, 32), lambda x: box_conv_model(x, x, torch.randn(2, 16, 3, 3), CONV, (1, 2, 32, 32))),
}


@pytest.mark.parametrize("shape, make", KINDS.values(), ids=KINDS)
def test_memory_is_bounded(tmp_path, shape, make):
    """All differences at once would take 256 MB, all windows 151 MB; of boxes twice that."""
    model = make(torch.zeros(1, *shape))
    onnx.save(model, tmp_path / "m.onnx")
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "m.onnx"), *map(str, shape)]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    copies = 3 * len(model.graph.input)
    assert kilobytes < (32 << 10) + copies * 256 * math.prod(shape) * 4 / 1024


# The radius.


def radius(logits: np.ndarray, lipschitz: float, x: np.ndarray | None = None, slack=0.0, most=1e38) -> np.ndarray:
    x = np.zeros((len(logits), 1, 2, 2), np.float32) if x is None else x
    constants = {"lipschitz": np.array(lipschitz), "slack": np.array(slack), "most": np.array(most)}
    model = one_node("CertifiedRadius", {"x": x, "logits": logits}, constants, x.shape[:1])
    return in_onnxruntime(model, x=x, logits=logits)


@pytest.mark.parametrize("lipschitz", [0.5, 0.4999999, 1.0, 2 / 3, 1e-3, 3.7e5, 1e20])
def test_radius_is_rounded_down(lipschitz):
    logits = torch.randn(5000, 10) * 10 ** torch.linspace(-44, 37, 5000).unsqueeze(1)
    ours, theirs = radius(logits.numpy(), lipschitz), linf_plugin.certified_radius(logits, lipschitz=lipschitz)
    assert (ours <= theirs.numpy()).all()
    ordinary = (theirs >= 1e-37) & (theirs < 1e38)
    assert ordinary.sum() > 2000
    np.testing.assert_allclose(ours[ordinary], theirs[ordinary], rtol=3e-7)


@pytest.mark.parametrize("slack", [1e-6, 0.3, 5.0])
def test_radius_less_slack(slack):
    """In exact arithmetic never above (margin − slack) / 2L, nor above the most."""
    logits = torch.randn(500, 4).numpy()
    ours = radius(logits, 0.7, slack=slack, most=0.25)
    for z, r in zip(logits, ours):
        second, first = sorted(map(Fraction, z.tolist()))[-2:]
        exact = (first - second - Fraction(slack)) / (2 * Fraction(0.7))
        assert 0 <= Fraction(float(r)) <= max(min(exact, Fraction(1, 4)), 0)
        assert r >= min(float(exact), 0.25) * (1 - 3e-7)


def test_radius_of_ties():
    logits = np.float32([[1, 1, 0], [1, np.nextafter(np.float32(1), 0), 0], [0, 0, 0]])
    r = radius(logits, 1.0)
    assert r[0] == r[2] == 0 and 0 < r[1] < 2**-25


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_radius_of_not_finite(bad):
    logits, x = np.random.default_rng(0).random((6, 4), np.float32), np.zeros((6, 1, 2, 2), np.float32)
    logits[np.arange(4), np.arange(4)] = bad
    x[4, 0, 1, 0] = bad
    r = radius(logits, 1.0, x)
    assert (r[:5] == 0).all() and r[5] > 0


def test_radius_of_pixels_out_of_range():
    logits, x = np.random.default_rng(0).random((4, 4), np.float32), np.zeros((4, 1, 2, 2), np.float32)
    x[:3, 0, 1, 1] = [np.nextafter(np.float32(1), 2), -1e-45, 1]
    r = radius(logits, 1.0, x)
    assert (r[:2] == 0).all() and (r[2:] > 0).all()


def test_radius_of_nothing():
    assert radius(np.zeros((0, 4), np.float32), 1.0).shape == (0,)


# Attaching.


def test_attach_adds_what_is_used_once():
    x, w = rows((2, 3, 4))
    model = dist_model(x, w, INF)
    names = [f.name for f in model.functions]
    assert names == ["DistBlocks", "DistJoin", "LinfDist"]
    assert [f.name for f in attach(model).functions] == names


def test_attach_wants_the_opset():
    graph = helper.make_graph([helper.make_node("LinfDist", ["x", "w"], ["y"], domain="linf")], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(ValueError, match="opset 18"):
        attach(model)


# For another device.


def assert_converts(model: onnx.ModelProto, **inputs) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """To "cuda" and back, to the same bytes; the results of both on the CPU."""
    before = model.SerializeToString()
    other = for_device(model, "cuda")
    onnx.checker.check_model(other, full_check=True)
    assert model.SerializeToString() == before == for_device(model, "cpu").SerializeToString()
    assert for_device(other, "cpu").SerializeToString() == before != other.SerializeToString()
    return all_in_onnxruntime(model, **inputs), all_in_onnxruntime(other, **inputs)


@pytest.mark.parametrize("shape", [(0, 3, 5), (3, 4, 0), (1, 1, 1), (33, 65, 257), (70, 30, 1000)], ids=str)
def test_large_steps_give_the_same(shape):
    x, w = rows(shape)
    (lower, upper), given = box(x), {"x": x.numpy()}
    ends = {"lower": lower.numpy(), "upper": upper.numpy()}
    for model, inputs in ((dist_model(x, w, INF), given), (box_dist_model(lower, upper, w), ends)):
        for y, z in zip(*assert_converts(model, **inputs), strict=True):
            assert np.array_equal(y, z)
    (_,), (y,) = assert_converts(sort_model(x, w, 0.5, 3), **given)
    assert_sorted_sums(y, x, w, 0.5, 3)
    (_,), (y,) = assert_converts(dist_model(x, w, 3.0), **given)
    assert_distances(y, reference.dist(x.double(), w.double(), 3.0), torch.float32, 3.0, shape[2])


def test_large_steps_of_convolutions_give_the_same():
    x, w, conv = torch.randn(9, 16, 32, 32), torch.randn(4, 16, 3, 3), ([1, 1], [1, 1], [1, 1], 1)
    (y,), (z,) = assert_converts(conv_model(x, w, INF, conv, (9, 4, 32, 32)), x=x.numpy())
    assert np.array_equal(y, z)


@pytest.mark.parametrize("device", STEP_SIZES)
def test_steps(tmp_path, device):
    """As many as the constants say: what a step holds is the size of the blocks."""
    x, w = rows((70, 30, 1000))
    model = for_device(dist_model(x, w, INF), device)
    graph = helper.make_graph(
        [helper.make_node("DistBlocks", ["x", "w"], ["xs", "ws"], domain=LINF.domain)],
        "g",
        model.graph.input,
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("xs", "ws")],
        model.graph.initializer,
    )
    del model.graph.output[:]
    model.graph.CopyFrom(graph)
    xs, ws = all_in_onnxruntime(model, x=x.numpy())
    step = xs.shape[1] * ws.shape[2] * 1000
    assert step == 70 * 30 * 1000 if device == "cuda" else BLOCK / 2 < step <= BLOCK


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, got 'tpu'"):
        for_device(onnx.ModelProto(), "tpu")
