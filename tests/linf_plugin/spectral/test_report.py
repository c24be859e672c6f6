"""The report of a model: each layer by every method, refusals by name, and the product of a chain."""

import math

import pytest
import torch
from spectral_layers import largest, operator
from torch import nn

import linf_plugin as lp
from linf_plugin.layers.facts import TRAINED
from linf_plugin.layers.growth import inner_map
from linf_plugin.layers.lipschitz import lipschitz_bound
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


LIPSCHITZ_NETS = {
    "sll-mlp": dict(depth=2, hidden=12),
    "cpl-mlp": dict(depth=2, hidden=12),
    "aol-mlp": dict(depth=2, width=12),
    "sll-conv": dict(convs=2, dense=1, width=3, inner=4, hidden=8, pool=2),
    "cpl-conv": dict(convs=1, dense=1, width=3, inner=4, hidden=8, pool=2),
    "circulant-mlp": dict(depth=2, normalized=True),
}


def _lipschitz_net(name: str) -> lp.Net:
    torch.manual_seed(0)
    return lp.build(name, shape=(1, 6, 6), classes=4, mean=(0.3,), **LIPSCHITZ_NETS[name]).eval()


@pytest.mark.parametrize("name", LIPSCHITZ_NETS)
def test_nets_of_one_lipschitz_layers_have_a_row_for_each_layer_and_a_product(name):
    net = lp.materialise(_lipschitz_net(name))
    found = report(net, methods=["svd", "power"])
    weights = {key.removesuffix(".weight") for key in net.state_dict() if key.endswith(".weight")}
    assert {row.name for row in found.rows} == weights and found.product is not None, found.reason
    features = math.prod(row.factor for row in found.rows[:-1])
    assert features == pytest.approx(lipschitz_bound(net[:-1], 2), rel=1e-4) and features < 1 + 1e-4
    assert features > (0.6 if name == "aol-mlp" else 0.999)  # AOL layers shrink what is not orthogonal
    assert found.product == pytest.approx(features * found.rows[-1].factor)
    for row in found.rows:
        layer = net.get_submodule(row.name)
        residual = isinstance(layer, (lp.PotentialLinear, lp.PotentialConv2d))
        assert row.constant == (lipschitz_bound(layer, 2) if residual else None)
        assert row.bounds["svd"] == bound(inner_map(layer) if residual else layer, "svd")
    exact = net.double()
    for _ in range(30):
        x, y = torch.rand(2, 1, 1, 6, 6, dtype=torch.float64)
        assert (exact(x) - exact(y)).norm() <= found.product * (x - y).norm()


def test_a_residual_layer_that_stretches_multiplies_by_its_constant_not_by_the_norm_of_its_weight():
    layer = lp.PotentialLinear(2, 2, bias=False).eval()
    layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    net = nn.Sequential(layer, lp.MaxMin(), nn.Linear(2, 2, bias=False)).eval()
    net[2].weight.data = torch.eye(2)
    found = report(net)
    assert found.rows[0].best.value == pytest.approx(3) and found.rows[0].constant == pytest.approx(8)
    assert found.product == pytest.approx(8)
    x, y = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])  # 1 − 9·1
    assert (layer(x) - layer(y)).norm().item() == pytest.approx(8)
    text = str(found)
    assert "| constant |" in text and "the constant of each of 1 residual layers, and the constants of" in text
    assert "constant" not in str(report(net[2]))


def test_sizes_of_images_reach_residual_convolutions():
    net = lp.materialise(_lipschitz_net("sll-conv"))
    found = report(net, shape=(1, 6, 6), methods=["svd", "matrix"])
    kinds = {row.name: row for row in found.rows if row.kind == "PotentialConv2d"}
    assert kinds and all(row.bounds["svd"].holds_for == "images of 6×6" for row in kinds.values())
    for name, row in kinds.items():
        kernel = net.get_submodule(name).weight
        exact = largest(operator(_conv(kernel), kernel.shape[1], 6, 6))
        assert row.bounds["matrix"].value == pytest.approx(exact)


def _conv(kernel: torch.Tensor) -> nn.Conv2d:
    made = nn.Conv2d(kernel.shape[1], kernel.shape[0], kernel.shape[2:], padding=kernel.shape[2] // 2, bias=False)
    made.weight.data = kernel.detach().double()
    return made


FORMS = {
    "SLLLinear": lp.SLLLinear(4, 3),
    "SLLConv2d": lp.SLLConv2d(2, 3),
    "CPLLinear": lp.CPLLinear(4, 3),
    "CPLConv2d": lp.CPLConv2d(2, 3),
    "AOLLinear": lp.AOLLinear(4, 3),
    "AOLConv2d": lp.AOLConv2d(2, 3, 3),
    "DiagonalCirculant": lp.DiagonalCirculant(4, 3),
    "NormalizedRows": lp.NormalizedRows(4, 3),
}


def test_every_form_for_training_with_weights_is_tried():
    assert {kind.__name__ for kind in TRAINED} == FORMS.keys() | {"PadChannels", "UnshufflePixels", "AveragePool"}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_for_training_is_told_to_be_replaced(name):
    form = FORMS[name]
    found = report(nn.Sequential(nn.ReLU(), form).eval())
    (row,) = found.rows
    assert row.name == "1" and row.kind == name and row.best is None and row.factor is None
    assert row.shape == ((3, 4) if name == "DiagonalCirculant" else tuple(form.weight.shape))
    assert f"1: {name} is a form for training: replace it first, with linf_plugin.materialise(net)." in str(found)
    assert f"No product: layer '1' ({name}) has no certificate." in str(found)
    assert report(lp.materialise(nn.Sequential(nn.ReLU(), form).eval())).product is not None


def test_layers_are_known_by_their_exact_type_and_modules_may_state_their_constant():
    class Other(lp.PotentialLinear):
        def forward(self, x):
            return 9 * x

    found = report(nn.Sequential(Other(3, 2), nn.Linear(3, 2)).eval(), methods=["svd"])
    assert [row.name for row in found.rows] == ["1"] and "No product: no Lipschitz bound is known for Other" in str(
        found
    )
    hooked = nn.Sequential(lp.PotentialLinear(3, 2)).eval()
    hooked[0].register_forward_hook(lambda *_: None)
    assert report(hooked).product is None and "has forward hooks" in str(report(hooked))

    class Stated(nn.Module):
        def lipschitz_in(self, norm):
            return 3.0

    stated = report(nn.Sequential(Stated(), nn.Linear(3, 2)).eval(), methods=["svd"])
    assert stated.product == pytest.approx(3 * stated.rows[0].best.value)


def test_a_residual_layer_with_broken_weights_is_refused():
    layer = lp.PotentialLinear(3, 2).eval()
    layer.weight.data.fill_(math.inf)
    with pytest.raises(ValueError, match="NaN"):
        report(layer)
