"""Margins and radii: exact values, never rounded up, and never wrong about a net."""

import math
from fractions import Fraction

import pytest
import torch
from cases import INF
from torch import nn

from linf_plugin import build, certified_radius, margin
from linf_plugin.layers.lipschitz import lipschitz_bound

NAN = math.nan


def _one(*logits, dtype=torch.float32):
    return torch.tensor([logits], dtype=dtype)


LABEL_0 = torch.tensor([0])

MARGINS = {  # logits, labels, margin
    "right": (_one(3.0, 1.0, 2.0), LABEL_0, 1.0),
    "wrong": (_one(1.0, 3.0, 2.0), LABEL_0, -2.0),
    "tie": (_one(2.0, 2.0, 1.0), LABEL_0, 0.0),
    "predicted": (_one(1.0, 3.0, 2.5), None, 0.5),
    "predicted-tie": (_one(1.0, 3.0, 3.0), None, 0.0),
    "nan-label": (_one(NAN, 1.0), LABEL_0, NAN),
    "nan-other": (_one(1.0, NAN, 0.0), LABEL_0, NAN),
    "nan-predicted": (_one(1.0, NAN, 0.0), None, NAN),
    "nan-all": (_one(NAN, NAN), None, NAN),
    "inf": (_one(INF, 1.0), LABEL_0, INF),
    "far-apart": (_one(1.0, -(2.0**-40)), LABEL_0, 1.0 + 2.0**-40),  # float32 would round to 1
}


@pytest.mark.parametrize("logits, labels, expected", MARGINS.values(), ids=MARGINS)
def test_margin(logits, labels, expected):
    got = margin(logits, labels)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=0, equal_nan=True)


def test_margin_of_many():
    z = torch.randn(20, 5)
    labels = torch.randint(5, (20,), dtype=torch.uint8)
    pairs = zip(z.tolist(), labels.tolist())
    expected = [row[y] - max(v for k, v in enumerate(row) if k != y) for row, y in pairs]
    assert margin(z, labels).tolist() == expected
    assert margin(z).tolist() == margin(z, z.argmax(1)).tolist()
    assert margin(z[:0], labels[:0]).shape == margin(z[:0]).shape == (0,)


def test_margin_has_a_gradient():
    z = _one(3.0, 1.0, 2.0).requires_grad_()
    margin(z, LABEL_0).sum().backward()
    assert z.grad.tolist() == [[1.0, 0.0, -1.0]]


RADII = {  # logits, labels, radius
    "right": (_one(3.0, 1.0, 2.0), LABEL_0, 0.5),
    "predicted": (_one(1.0, 3.0, 2.5), None, 0.25),
    "wrong": (_one(1.0, 3.0), LABEL_0, 0.0),
    "tie": (_one(2.0, 2.0), LABEL_0, 0.0),
    "predicted-tie": (_one(2.0, 2.0), None, 0.0),
    "nan": (_one(NAN, 1.0), LABEL_0, 0.0),
    "nan-other": (_one(1.0, 0.0, NAN), None, 0.0),
    "inf": (_one(INF, 1.0), LABEL_0, 0.0),
    "minus-inf": (_one(1.0, 0.0, -INF), LABEL_0, 0.0),
}


def _assert_rounded_down(radius: float, exact: Fraction, dtype: torch.dtype) -> None:
    """At most ``exact``, and below it by no more than a few roundings; 0 stays 0."""
    info = torch.finfo(dtype)
    assert Fraction(radius) <= exact
    assert Fraction(radius) >= min(exact, Fraction(info.max)) * (1 - 4 * Fraction(info.eps)) - Fraction(info.tiny)


@pytest.mark.parametrize("logits, labels, expected", RADII.values(), ids=RADII)
def test_radius(logits, labels, expected):
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        radius = certified_radius(logits.to(dtype), labels)
        assert radius.dtype == dtype and radius.shape == (1,)
        assert (radius > 0).item() == (expected > 0)
        _assert_rounded_down(radius.item(), Fraction(expected), dtype)


def test_radius_of_nothing_and_without_gradient():
    assert certified_radius(torch.rand(0, 3), torch.zeros(0, dtype=torch.long)).shape == (0,)
    assert not certified_radius(_one(3.0, 1.0).requires_grad_()).requires_grad


ROUNDING = {  # rows of logits
    "near": lambda n: torch.randn(n, 3, dtype=torch.float64),
    "whole": lambda n: torch.randint(-99, 100, (n, 3)).double(),
    "far-apart": lambda n: torch.randn(n, 3).double() * torch.tensor([1.0, 1e-9, 1e-20]).double(),
    "tiny": lambda n: torch.randn(n, 3, dtype=torch.float64) * 1e-20,
}


@pytest.mark.parametrize("lipschitz", (1.0, 3.0, 0.7, 1 / 0.3081, 1e-3, 1e6), ids=lambda v: f"L={v:.3g}")
@pytest.mark.parametrize(
    "dtype",
    (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
@pytest.mark.parametrize("make", ROUNDING.values(), ids=ROUNDING)
def test_radius_is_margin_over_2_lipschitz_rounded_down(make, dtype, lipschitz):
    logits = make(200).to(dtype)
    for row, radius in zip(logits.tolist(), certified_radius(logits, None, lipschitz).tolist()):
        top, second, _ = sorted(map(Fraction, row), reverse=True)
        _assert_rounded_down(radius, (top - second) / (2 * Fraction(lipschitz)), dtype)


def test_radius_stays_finite():
    """Beyond the largest number, rounding down ends at it."""
    for dtype in (torch.float32, torch.float64):
        top = torch.finfo(dtype).max
        radius = certified_radius(_one(top, -top, dtype=dtype), LABEL_0, 1e-3)
        assert 0.99 * top < radius.item() <= top


LOGITS = torch.rand(2, 3)
BAD = {  # logits, labels, exception, what the message names
    "one-class": (torch.rand(2, 1), None, ValueError, "logits.*classes"),
    "1d": (torch.rand(3), None, ValueError, "logits"),
    "3d": (torch.rand(2, 3, 4), None, ValueError, "logits"),
    "int-logits": (torch.ones(2, 3, dtype=torch.long), None, TypeError, "logits"),
    "float-labels": (LOGITS, torch.tensor([0.0, 1.0]), TypeError, "labels"),
    "bool-labels": (LOGITS, torch.tensor([True, False]), TypeError, "labels"),
    "label-too-large": (LOGITS, torch.tensor([0, 3]), ValueError, r"labels.*\[0, 2\]"),
    "label-negative": (LOGITS, torch.tensor([0, -1]), ValueError, "labels"),
    "too-few-labels": (LOGITS, torch.tensor([0]), ValueError, "labels"),
    "labels-2d": (LOGITS, torch.tensor([[0], [1]]), ValueError, "labels"),
}


@pytest.mark.parametrize("function", (margin, certified_radius))
@pytest.mark.parametrize("logits, labels, error, names", BAD.values(), ids=BAD)
def test_bad_input_is_named(logits, labels, error, names, function):
    with pytest.raises(error, match=names):
        function(logits, labels)


@pytest.mark.parametrize("lipschitz", (0.0, -1.0, NAN, INF))
def test_bad_lipschitz_is_named(lipschitz):
    with pytest.raises(ValueError, match="lipschitz"):
        certified_radius(LOGITS, None, lipschitz)


NETS = {
    "shallow": dict(name="linf-mlp", shape=(1, 1, 3), classes=3, width=5, depth=1, std=0.5),
    "deep": dict(name="linf-mlp", shape=(1, 1, 3), classes=4, width=6, depth=3, mean=(0.5,), std=0.3),
    "conv": dict(name="linf-conv", shape=(1, 3, 3), classes=3, channels=(2,), strides=(1,), width=4),
    "head": dict(name="linf-mlp-head", shape=(1, 1, 3), classes=3, width=5, depth=2, hidden=4),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("arguments", NETS.values(), ids=NETS)
def test_no_perturbation_within_the_radius_changes_a_prediction(arguments, seed):
    torch.manual_seed(seed)
    net = build(**arguments).eval().double()
    for a in net.parameters():  # not the identity start, so that layers mix
        nn.init.normal_(a)
    x = torch.rand(20, *net.input_shape, dtype=torch.float64)
    prediction = net(x).argmax(1)
    radius = certified_radius(net(x), prediction, lipschitz_bound(net, math.inf))
    assert (radius > 0).all()
    corners = torch.randint(0, 2, (300, *x.shape)).double() * 2 - 1
    inner = torch.rand(300, *x.shape, dtype=torch.float64) * 2 - 1
    steps = torch.cat((corners, inner)) * 0.999 * radius.view(-1, 1, 1, 1)
    moved = net((x + steps).flatten(0, 1)).unflatten(0, (600, 20)).argmax(2)
    assert (moved == prediction).all()


def test_the_radius_can_be_tight():
    """Two neurons at 0 and 1 share the line: from 0 the prediction turns at 1/2, the radius."""
    net = build("linf-mlp", shape=(1, 1, 1), classes=2, width=1, depth=1).eval().double()
    net[2].weight.data = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    radius = certified_radius(net(torch.zeros(1, 1, 1, 1).double()), None, lipschitz_bound(net, math.inf))
    assert 0.5 * (1 - 1e-15) <= radius.item() <= 0.5
    inside, outside = torch.tensor([0.999, 1.001], dtype=torch.float64).view(2, 1, 1, 1) * radius
    assert net(torch.stack((inside, outside))).argmax(1).tolist() == [0, 1]
