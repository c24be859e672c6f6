"""Convolutions in pieces compute what PyTorch computes at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from linf_plugin.bounds import pieces, within
from linf_plugin.certificates import margin_bound

GEOMETRY = {
    "plain": {},
    "padded": {"padding": 1},
    "unequal": {"padding": (1, 0), "stride": (2, 1), "dilation": (1, 2)},
    "groups": {"groups": 2, "padding": 1, "stride": 2},
}
each_geometry = pytest.mark.parametrize("geometry", GEOMETRY.values(), ids=GEOMETRY)
each_batch = pytest.mark.parametrize("batch", [0, 1, 2, 7])
biased = pytest.mark.parametrize("bias", [False, True])


@pytest.fixture
def small(monkeypatch):
    """Every piece is one sample."""
    monkeypatch.setattr(pieces, "BUFFER", 1)
    monkeypatch.setattr(pieces, "LEAST", 1)


def _case(batch, out, groups, bias):
    x = torch.randn(batch, 7, 6, 4, dtype=torch.float64).permute(0, 3, 2, 1)  # not contiguous
    weight = torch.randn(out, 4 // groups, 3, 2, dtype=torch.float64)
    return x, weight, torch.randn(out, dtype=torch.float64) if bias else None


@each_geometry
@each_batch
@biased
def test_convolutions(geometry, batch, bias, small):
    x, weight, b = _case(batch, 6, geometry.get("groups", 1), bias)
    with pieces.InPieces():
        y = F.conv2d(x, weight, b, **geometry)
    assert torch.equal(y, F.conv2d(x, weight, b, **geometry))


def test_padding_by_name(small):
    x, weight, b = _case(3, 6, 1, True)
    with pieces.InPieces(), pytest.warns(UserWarning, match="even kernel lengths"):
        y = F.conv2d(x, weight, b, padding="same")
    assert y.shape == (3, 6, 6, 7)
    torch.testing.assert_close(y, F.conv2d(F.pad(x, (0, 1, 1, 1)), weight, b))


@each_geometry
@each_batch
@biased
@pytest.mark.parametrize("extra", [0, 1])
def test_transposed_convolutions(geometry, batch, bias, extra, small):
    groups = geometry.get("groups", 1)
    x, weight, _ = _case(batch, 4, 1, False)
    weight = weight[:, : 6 // groups]
    b = torch.randn(weight.shape[1] * groups, dtype=torch.float64) if bias else None
    more = {**geometry, "output_padding": (extra if "stride" in geometry else 0, 0)}
    with pieces.InPieces():
        y = F.conv_transpose2d(x, weight, b, **more)
    torch.testing.assert_close(y, F.conv_transpose2d(x, weight, b, **more), rtol=1e-13, atol=1e-13)


def test_only_float64_without_gradients_is_divided(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError

    monkeypatch.setattr(pieces, "PIECES", {torch.conv2d: refuse})
    x, weight, _ = _case(3, 4, 1, False)
    with pieces.InPieces():
        with pytest.raises(AssertionError):
            F.conv2d(x, weight)
        F.conv2d(x.float(), weight.float())
        F.conv2d(x[0], weight)
        F.conv2d(x[:1], weight)
        y = F.conv2d(x, weight.clone().requires_grad_())
    assert y.requires_grad


def test_gradients_are_left_as_they_are(small):
    x, weight, _ = _case(3, 4, 1, False)
    weight.requires_grad_()
    with pieces.InPieces():
        (found,) = torch.autograd.grad(F.conv_transpose2d(x, weight, padding=1).square().sum(), weight)
    (wanted,) = torch.autograd.grad(F.conv_transpose2d(x, weight, padding=1).square().sum(), weight)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown", "alpha-crown"])
def test_certificates_use_them_and_do_not_change(method, small, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)
    ).eval()
    x, labels = torch.rand(3, 1, 7, 7), torch.tensor([0, 1, 2])
    calls = []
    counted = {
        function: lambda *args, _divided=divided, **kwargs: calls.append(1) or _divided(*args, **kwargs)
        for function, divided in pieces.PIECES.items()
    }
    monkeypatch.setattr(pieces, "PIECES", counted)
    bound = margin_bound(net, x, labels, 0.02, method)
    assert calls
    monkeypatch.setattr(pieces, "PIECES", {})
    torch.testing.assert_close(bound, margin_bound(net, x, labels, 0.02, method), rtol=1e-9, atol=1e-9)


def test_small_nets_and_nets_without_convolutions_are_bounded_as_before():
    conv, dense = nn.Sequential(nn.Conv2d(1, 2, 3)), nn.Linear(3, 2)
    assert isinstance(pieces.for_net(conv, pieces.LEAST), pieces.InPieces)
    assert not isinstance(pieces.for_net(conv, pieces.LEAST - 1), pieces.InPieces)
    assert not isinstance(pieces.for_net(dense, pieces.LEAST), pieces.InPieces)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 3)])
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_noise_is_weighted_in_pieces(shape, batch, monkeypatch):
    A, amount = torch.randn(3, batch, *shape), torch.rand(batch, *shape)
    whole = (A.abs() * amount).flatten(2).sum(2) if shape else A.abs() * amount
    for size in (1, 10, within.BUFFER):
        monkeypatch.setattr(within, "BUFFER", size)
        torch.testing.assert_close(within._weighted(A, amount), whole)
