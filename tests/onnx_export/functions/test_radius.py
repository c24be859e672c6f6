"""The certified radius of logits in standard ONNX: never too large, and 0 where nothing is certified."""

import math
from fractions import Fraction

import numpy as np
import onnx
import pytest
import torch
from cases import INF
from one_operator import in_onnxruntime, one_node

import linf_plugin
from onnx_export.functions.domain import LINF, OPSET
from onnx_export.functions.library import attach


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


def pairwise(logits, bounds, x=None, centre=0.0, slack=0.0, slope=0.0, most=1e38, prediction=None) -> np.ndarray:
    x = np.zeros((len(logits), 1, 2, 2), np.float32) if x is None else x
    given = {"x": x, "logits": logits, "prediction": logits.argmax(1) if prediction is None else prediction}
    constants = {"bounds": bounds, "centre": np.array(centre)}
    constants |= {"slack": np.array(slack), "slope": np.array(slope), "most": np.array(most)}
    shapes = {name: ["n", *a.shape[1:]] for name, a in given.items()}
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in given.items()}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("PairwiseRadius", [*given, *constants], ["y"], domain=LINF.domain)],
        "g",
        [onnx.helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in given],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])],
        [onnx.numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    model = attach(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10))
    onnx.checker.check_model(model, full_check=True)
    return in_onnxruntime(model, **given)


@pytest.mark.parametrize("one", [False, True], ids=["each", "one bound"])
@pytest.mark.parametrize("slack, slope", [(0.0, 0.0), (1e-6, 1e-3), (0.3, 0.1)])
def test_pairwise_radius_in_exact_arithmetic(one, slack, slope):
    """Never above the least quotient, nor above the most, and near it."""
    rng = np.random.default_rng(0)
    logits, x = rng.standard_normal((300, 4)).astype(np.float32), rng.random((300, 1, 2, 2), np.float32)
    bounds, centre = rng.random((1, 1) if one else (300, 4)) + 0.1, np.float64([0.3]).reshape(1, 1, 1)
    ours, positive = pairwise(logits, bounds, x, centre, slack, slope, most=0.5), 0
    for i, (z, r) in enumerate(zip(logits, ours)):
        y, k = int(z.argmax()), np.broadcast_to(bounds, (300, 4))[i]
        away = math.sqrt(sum((Fraction(float(a)) - Fraction(0.3)) ** 2 for a in x[i].ravel()))
        lost = Fraction(slack) + Fraction(slope) * Fraction(away) * (1 - Fraction(1, 2**50))
        exact = min((Fraction(float(z[y])) - Fraction(float(z[j])) - lost) / Fraction(k[j]) for j in range(4) if j != y)
        exact = max(min(exact, Fraction(1, 2)), Fraction(0))
        assert 0 <= Fraction(float(r)) <= exact and r >= float(exact) * (1 - 3e-7)
        positive += r > 0
    assert positive > 100


def test_pairwise_radius_is_that_of_one_bound():
    logits = torch.randn(500, 10)
    ours, theirs = pairwise(logits.numpy(), np.array([[2 * 0.7]])), radius(logits.numpy(), 0.7)
    assert np.array_equal(ours, theirs)


def test_pairwise_radius_of_ties_and_of_another_class():
    logits = np.float32([[1, 1, 0], [1, np.nextafter(np.float32(1), 0), 0], [0, 0, 0]])
    r = pairwise(logits, np.ones((1, 1)))
    assert r[0] == r[2] == 0 and 0 < r[1] < 2**-23
    assert (pairwise(logits, np.ones((1, 1)), prediction=np.int64([2, 1, 2])) == 0).all()


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
def test_pairwise_radius_of_not_finite(bad):
    logits, x = np.random.default_rng(0).random((6, 4), np.float32), np.zeros((6, 1, 2, 2), np.float32)
    logits[np.arange(4), np.arange(4)] = bad
    x[4, 0, 1, 0] = bad
    r = pairwise(logits, np.ones((6, 4)), x, slope=1e-9, prediction=np.int64([0, 1, 2, 3, 0, int(logits[5].argmax())]))
    assert (r[:5] == 0).all() and r[5] > 0


def test_pairwise_radius_of_pixels_out_of_range_and_of_nothing():
    logits, x = np.random.default_rng(0).random((4, 4), np.float32), np.zeros((4, 1, 2, 2), np.float32)
    x[:3, 0, 1, 1] = [np.nextafter(np.float32(1), 2), -1e-45, 1]
    r = pairwise(logits, np.ones((1, 1)), x)
    assert (r[:2] == 0).all() and (r[2:] > 0).all()
    assert pairwise(np.zeros((0, 4), np.float32), np.ones((1, 1)), prediction=np.zeros(0, np.int64)).shape == (0,)
