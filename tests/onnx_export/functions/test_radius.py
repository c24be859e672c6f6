"""The certified radius of logits in standard ONNX: never too large, and 0 where nothing is certified."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import INF
from one_operator import in_onnxruntime, one_node

import linf_plugin


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
