"""Every way gives distances, and what gives others is noticed."""

import math
import re

import numpy as np
import pytest
import torch

from linf_plugin.kernels import reference
from onnx_export.bench import right, ways
from onnx_export.bench.cases import QUICK, tensors_of
from onnx_export.bench.right import deviation, exact
from onnx_export.bench.ways import WAYS


@pytest.mark.parametrize("case", QUICK.cases, ids=["inf", "finite", "conv"])
def test_each_way_gives_distances(case):
    x, w = tensors_of(case)
    expected = exact(case, x, w)
    before = torch.get_num_threads()
    try:
        for way in WAYS:
            if not (way == "broadcast" and "pixels" in case):
                assert deviation(case, ways.call(way, case, w, 1)(x), expected) is None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda y: np.nextafter(y, 9, dtype=np.float32), "off by up to"),
        (lambda y: np.where(y == y.max(), np.float32(np.nan), y), "off by up to nan"),
        (lambda y: y[:-1], r"float32 of shape \(4, 7\)"),
        (lambda y: y.astype(np.float64), r"float64 of shape \(5, 7\)"),
    ],
    ids=["one-bit", "nan", "a-row-less", "float64"],
)
def test_deviations(change, words):
    case = QUICK.cases[0]
    y = reference.dist(*tensors_of(case), math.inf)
    assert deviation(case, y.numpy(), y) is None
    assert re.match(words, deviation(case, change(y.numpy()), y))


def test_kernels_that_are_wrong_stop_it(monkeypatch):
    monkeypatch.setattr(right, "ours", lambda x, w, p: 1 + reference.dist(x, w, p))
    with pytest.raises(ArithmeticError, match="5×33×7, p = inf"):
        exact(QUICK.cases[0], *tensors_of(QUICK.cases[0]))
