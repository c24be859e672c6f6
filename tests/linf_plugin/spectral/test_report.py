"""The report of a model: each layer by every method, refusals by name, and the product of a chain."""

import math

import pytest
import torch
from spectral_layers import largest, operator
from torch import nn

from linf_plugin.spectral import SPECTRAL_METHODS, Bound, bound, report
from linf_plugin.spectral.chain import STRETCHES, stretch
from linf_plugin.spectral.reporting import _number


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.LeakyReLU(0.1))
    return nn.Sequential(body, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_every_layer_has_every_bound():
    net = _net()
    found = report(net, shape=(2, 10, 10), methods=SPECTRAL_METHODS)
    assert [row.name for row in found.rows] == ["0.0", "0.2", "3"] and found.methods == tuple(SPECTRAL_METHODS)
    for row, size in zip(found.rows, (10, 10, None)):
        layer = net.get_submodule(row.name)
        for method, one in row.bounds.items():
            assert one == bound(layer, method, size=size, certify=method != "power")
        assert row.best.value == row.bounds["matrix"].value
    jacobian = operator(nn.Sequential(*net[0][::2], *net[1:]), 2, 10, 10)  # with all slopes 1
    assert largest(jacobian) <= found.product
    assert "≥" in str(found) and "Certificates: gram, svd, lipbound, norm2toep, matrix." in str(found)
    assert "Lower bounds, which certify nothing: power." in str(found) and "images of 10×10" in str(found)


def test_the_product_bounds_the_net():
    net = _net().double()
    found = report(net)
    assert found.product == pytest.approx(math.prod(row.best.value for row in found.rows) / 2)  # AvgPool2d(2): ½
    assert {one.holds_for for one in found.rows[0].bounds.values() if one.certified} == {"every image size"}
    for _ in range(50):
        x, y = torch.randn(2, 1, 2, 10, 10, dtype=torch.float64)
        assert (net(x) - net(y)).norm() <= found.product * (x - y).norm()
    assert str(found).endswith("and the constants of the other layers.")


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.layer(x)


@pytest.mark.parametrize(
    "model, reason",
    [
        (Residual(), "No product: Residual may apply its layers in any order, or add what they return."),
        (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), "No product: .*BatchNorm1d: fold it into the layer before"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), "No product: .*Softmax"),
        (nn.Sequential(nn.ReLU()), "No product: the model has no linear layer."),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "0: padding_mode='reflect': no bound"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")), "No product: layer '0'"),
        (nn.MultiheadAttention(4, 2), "out_proj: no bound .* NonDynamicallyQuantizableLinear"),
        (nn.Linear(3, 2), "Product: .* of 1 layers."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_has_no_bound_says_why(model, reason):
    text = str(report(model.eval()))
    assert pytest.importorskip("re").search(reason, text), text


def test_a_layer_that_is_used_twice_counts_twice():
    layer = nn.Linear(3, 3)
    found = report(nn.Sequential(layer, nn.Tanh(), layer).eval(), methods=["svd"])
    assert len(found.rows) == 1 and found.product == pytest.approx(found.rows[0].best.value ** 2)
    conv = nn.Conv2d(1, 1, 2, stride=2)
    twice = report(nn.Sequential(conv, conv).eval(), shape=(1, 8, 8))  # it sees two sizes
    assert twice.rows[0].bounds["svd"].holds_for == "every image size"


def test_a_method_that_needs_a_size_says_so():
    found = report(nn.Sequential(nn.Conv2d(1, 1, 3)).eval(), methods=["matrix"])
    assert found.product is None and "size: the method 'matrix' needs" in str(found)
    only_lower = report(nn.Linear(2, 2).eval(), methods=["power"])
    assert isinstance(only_lower.rows[0].bounds["power"], Bound) and only_lower.product is None


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.AvgPool2d(2), (1, 6, 6)),
        (nn.AvgPool2d(3, 1, padding=1), (1, 6, 6)),
        (nn.AvgPool2d((3, 2), (2, 1)), (2, 7, 6)),
        (nn.AvgPool2d(2, divisor_override=1), (1, 4, 4)),
        (nn.AvgPool2d(4, 4, divisor_override=4), (1, 8, 8)),
    ],
)
def test_average_pools_stretch_as_their_matrices(layer, shape):
    norm = largest(operator(layer, *shape))
    assert norm * (1 - 1e-14) <= stretch(layer) <= norm * 1.6
    if layer.kernel_size == layer.stride:
        assert stretch(layer) == pytest.approx(norm)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(3, 1),
        *(kind() for kind in (nn.ReLU, nn.ELU, nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.ReLU6)),
        nn.LeakyReLU(3.0),
        nn.ELU(2.0),
    ],
)
def test_other_layers_stretch_no_more_than_is_said(layer):
    for _ in range(30):
        x, y = torch.randn(2, 1, 1, 6, 6, dtype=torch.float64)
        y = x + 1e-3 * y
        assert (layer(x) - layer(y)).norm() <= stretch(layer) * (x - y).norm() * (1 + 1e-9)
    assert type(layer) in STRETCHES


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        nn.MaxPool2d(2, dilation=2),
        nn.GELU(),
    ],
)
def test_layers_without_a_constant_are_refused(layer):
    with pytest.raises(TypeError, match=type(layer).__name__):
        stretch(layer)
    assert stretch(nn.Dropout().eval()) == 1


def test_wrong_requests_are_named():
    with pytest.raises(ValueError, match="training mode"):
        report(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="methods must be among gram"):
        report(nn.Linear(2, 2).eval(), methods=["magic"])
    with pytest.raises(RuntimeError, match=r"shape=\(3,\): the model cannot run"):
        report(nn.Sequential(nn.Linear(2, 2)).eval(), shape=(3,))
    broken = nn.Linear(2, 2).eval()
    broken.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="NaN"):
        report(broken)
    hooked = nn.Sequential(nn.Linear(2, 2)).eval()
    hooked[0].register_forward_hook(lambda *_: None)
    assert "has forward hooks" in str(report(hooked))


def test_printed_numbers_are_no_smaller_than_the_bounds():
    for value in (1 / 3, 2 / 3, 1e-30 / 3, 123456.7, 999999.96, 1e300 / 7, 0.0, math.inf, 2.0):
        assert value <= float(_number(value)) <= value * (1 + 2e-5)
