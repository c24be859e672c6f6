"""Diagonal-circulant layers: the matrix that they apply, its norms, and the linear layer that replaces them."""

import math

import pytest
import torch
from spectral_layers import largest, operator
from torch import nn
from torch.autograd import gradcheck

import linf_plugin as lp
from linf_plugin.certificates import pair_bounds
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.architectures import build
from linf_plugin.models.spec import check_size
from linf_plugin.norms import NORMS
from linf_plugin.spectral.structured import circulant

SIZES = [(1, 1), (2, 2), (2, 1), (3, 3), (7, 7), (8, 8), (8, 3), (13, 10), (64, 64), (96, 10)]
each_size = pytest.mark.parametrize("n, out", SIZES)
each_kind = pytest.mark.parametrize("normalized", (False, True), ids=("plain", "normalized"))


def layer_of(n, out=None, seed=0, **arguments):
    """A layer in float64 whose numbers are all random."""
    torch.manual_seed(seed)
    layer = lp.DiagonalCirculant(n, out, dtype=torch.float64, **arguments).eval()
    nn.init.normal_(layer.column)
    nn.init.normal_(layer.diagonal)
    return layer


def exact_norms(matrix):
    """The operator norm of a matrix in each norm."""
    return {2.0: largest(matrix), math.inf: matrix.abs().sum(1).max().item(), 1.0: matrix.abs().sum(0).max().item()}


@torch.no_grad()
@each_size
def test_the_layer_is_the_product_of_a_diagonal_and_a_circulant_matrix(n, out):
    layer = layer_of(n, out)
    matrix = torch.diag(layer.diagonal) @ circulant(layer.column)[:out]
    torch.testing.assert_close(operator(layer, n), matrix, rtol=1e-12, atol=1e-13)
    x = torch.randn(2, 5, n, dtype=torch.float64)
    torch.testing.assert_close(layer(x), x @ matrix.T + layer.bias, rtol=1e-12, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("n", (1, 2, 3, 8, 64, 75))
def test_with_signs_on_the_diagonal_all_bounds_are_exact(n):
    """As a layer starts.  The singular values are then |FFT(c)|."""
    torch.manual_seed(n)
    layer = lp.DiagonalCirculant(n, dtype=torch.float64)
    assert (layer.diagonal.abs() == 1).all()
    matrix = operator(layer, n)
    spectrum = torch.fft.fft(layer.column).abs().sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(matrix), spectrum, rtol=1e-11, atol=1e-12)
    for norm, exact in exact_norms(matrix).items():
        assert exact * (1 - 1e-12) <= lipschitz_bound(layer, norm) <= exact * (1 + 1e-11)


@torch.no_grad()
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=str)
@each_size
def test_bounds_hold_and_that_of_the_maximum_norm_is_exact(n, out, dtype):
    """The matrix of the stored numbers, in float64."""
    for seed in range(10):
        layer = layer_of(n, out, seed).to(dtype)
        matrix = layer.diagonal.double()[:, None] * circulant(layer.column.double(), out)
        exact = exact_norms(matrix)
        bounds = {norm: lipschitz_bound(layer, norm) for norm in exact}
        assert all(bounds[norm] >= exact[norm] * (1 - 1e-14) for norm in exact)
        assert bounds[math.inf] <= exact[math.inf] * (1 + 1e-12) and bounds[1.0] == bounds[math.inf]
        for norm, value in bounds.items():
            assert layer.stretch(norm).item() == pytest.approx(value, rel=1e-5 if dtype == torch.float32 else 1e-11)


@each_kind
@pytest.mark.parametrize("n, out", [(1, 1), (2, 1), (3, 3), (6, 4), (7, 7)])
def test_gradients(n, out, normalized):
    layer = layer_of(n, out, normalized=normalized)
    names = [name for name, _ in layer.named_parameters()]
    x = torch.randn(3, n, dtype=torch.float64, requires_grad=True)

    def applied(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values)), (x,))

    assert gradcheck(applied, (x, *layer.parameters()))
    assert gradcheck(
        lambda c, d: torch.stack(
            [torch.func.functional_call(Stretch(layer, k), {"of.column": c, "of.diagonal": d}, ()) for k in (1, 2)]
        ),
        (layer.column, layer.diagonal),
    )


class Stretch(nn.Module):
    """The bound of a layer, as a module without inputs."""

    def __init__(self, of, norm):
        super().__init__()
        self.of, self.norm = of, norm

    def forward(self):
        return self.of.stretch(self.norm)


@torch.no_grad()
@each_size
def test_a_normalised_layer_starts_orthogonal_and_does_not_stretch(n, out):
    torch.manual_seed(n)
    layer = lp.DiagonalCirculant(n, out, normalized=True, dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(operator(layer, n)), torch.ones(out, dtype=torch.float64))
    for size in (1e-3, 1.0, 1e3):
        layer = layer_of(n, out, normalized=True)
        layer.column.copy_(size * torch.randn(n))
        assert 1e-3 < largest(operator(layer, n)) <= 1 + 1e-12
        assert lipschitz_bound(layer, 2) == 1.0


@torch.no_grad()
@each_kind
@each_size
def test_a_linear_layer_of_weights_that_are_rounded_once_replaces_it(n, out, normalized):
    layer = layer_of(n, out, normalized=normalized).float()
    plain = layer.plain()
    assert type(plain) is nn.Linear and not plain.training and plain.weight.dtype == torch.float32
    x = torch.randn(4, n)
    torch.testing.assert_close(plain(x), layer(x), rtol=1e-4, atol=1e-5)
    if normalized:
        assert lipschitz_bound(plain, 2) <= 1
    else:
        matrix = layer.diagonal.double()[:, None] * circulant(layer.column.double(), out)
        assert torch.equal(plain.weight, matrix.float())
        for norm in NORMS.values():
            assert lipschitz_bound(plain, norm) <= lipschitz_bound(layer, norm) * (1 + 1e-6)
    with_signs = lp.DiagonalCirculant(n, out, bias=False, normalized=True).plain()  # an orthogonal matrix, rounded
    assert with_signs.bias is None and 1 - 1e-5 < lipschitz_bound(with_signs, 2) <= 1


@torch.no_grad()
def test_parameters_and_work_do_not_grow_with_the_square():
    """The matrix of this layer would have a million rows."""
    n = 2**20
    layer = lp.DiagonalCirculant(n)
    assert sum(a.numel() for a in layer.parameters()) == 3 * n
    x = torch.zeros(1, n)
    x[0, 5] = 1
    column = layer.diagonal * layer.column.roll(5) + layer.bias
    torch.testing.assert_close(layer(x)[0], column, rtol=1e-4, atol=1e-6)
    assert lp.DiagonalCirculant(n, 2).plain().weight.shape == (2, n)


@pytest.mark.parametrize("depth, parameters", ((3, 21_524), (6, 49_172)))
def test_nets_on_flattened_images_have_the_published_numbers_of_parameters(depth, parameters):
    net = build("circulant-mlp", shape=(3, 32, 32), classes=10, depth=depth)
    assert sum(a.numel() for a in net.parameters()) == parameters


@torch.no_grad()
def test_the_pairs_of_a_form_are_those_of_the_net_that_replaces_it():
    """Where the diagonals are signs, the bounds of both are exact up to rounding."""
    torch.manual_seed(0)
    for normalized in (False, True):
        net = build("circulant-mlp", shape=(1, 4, 4), classes=5, depth=3, std=0.5, normalized=normalized).eval()
        plain = lp.materialise(net)
        assert [type(layer) for layer in plain[2:]] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
        assert lipschitz_bound(net[0], 2) == (1.0 if normalized else 2.0)
        found, expected = (pair_bounds(m, 2) + 100 * torch.eye(5) for m in (net, plain))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
        if not normalized:  # or else the rows of the last layer are orthogonal, and nothing is gained
            whole = pair_bounds(nn.Sequential(net, nn.Identity()), 2)  # of all logits
            assert found[~torch.eye(5).bool()].max() < 0.8 * whole


@each_kind
def test_zeros_and_numbers_of_any_size(normalized):
    for size in (0.0, 1e-140, 1e-30, 1e100):
        layer = layer_of(6, 4, normalized=normalized)
        layer.column.data.mul_(size)
        layer(torch.randn(2, 6, dtype=torch.float64)).square().sum().backward()
        assert all(a.grad.isfinite().all() for a in layer.parameters())
        assert layer.plain().weight.isfinite().all()
        if not normalized:
            exact = layer.diagonal.abs().max().item() * layer.column.abs().sum().item()
            assert exact * (1 - 1e-14) <= lipschitz_bound(layer, math.inf) <= exact * (1 + 1e-12) + 5e-324
    layer = layer_of(3, normalized=normalized)
    layer.diagonal.data.zero_()
    x = torch.randn(2, 3, dtype=torch.float64)
    assert torch.equal(layer(x), layer.bias.expand(2, 3)) and torch.equal(layer.plain()(x), layer(x))
    assert normalized or lipschitz_bound(layer, 2) == 0.0


@torch.no_grad()
@each_kind
def test_inputs_of_any_layout(normalized):
    layer = layer_of(6, 4, normalized=normalized)
    matrix = operator(layer, 6)
    for x in (torch.randn(6, 5).T, torch.randn(4, 12)[:, ::2], torch.randn(6), torch.randn(0, 6), torch.randn(2, 0, 6)):
        y = layer(x.double())
        torch.testing.assert_close(y, x.double() @ matrix.T + layer.bias)
        assert y.shape == (*x.shape[:-1], 4)
    x = torch.randn(3, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer.float()(x.bfloat16()), layer(x.bfloat16().float()))
    assert layer(torch.randn(0, 6, requires_grad=True)).dtype == torch.float32


@pytest.mark.parametrize("value", (math.nan, math.inf))
@pytest.mark.parametrize("name", ("column", "diagonal"))
def test_parameters_that_are_not_finite_are_named(name, value):
    layer = layer_of(4)
    getattr(layer, name).data[1] = value
    for call in (layer.plain, lambda: lipschitz_bound(layer, 2), lambda: lipschitz_bound(layer, math.inf)):
        with pytest.raises(ValueError, match=f"{name} must not hold NaN or infinite values"):
            call()


def _spec(**arguments):
    return {"input_shape": [4], "layers": [["diagonal_circulant", {"features": 4, **arguments}]]}


WRONG = [
    (lambda: lp.DiagonalCirculant(0), ValueError, "features must be at least 1"),
    (lambda: lp.DiagonalCirculant(3.0), TypeError, "features must be an int"),
    (lambda: lp.DiagonalCirculant(3, 4), ValueError, "out_features must be at most features=3, got 4"),
    (lambda: layer_of(3)(torch.randn(2, 4).double()), ValueError, r"x must have shape \(..., 3\), got \(2, 4\)"),
    (lambda: layer_of(3)(torch.tensor(1.0).double()), ValueError, r"x must have shape \(..., 3\), got \(\)"),
    (lambda: layer_of(3)(torch.randn(2, 3)), TypeError, "column is torch.float64 but x is torch.float32"),
    (lambda: layer_of(3)(torch.randn(2, 3).half()), TypeError, "x must be float32 or float64, got torch.float16"),
    (lambda: layer_of(3).stretch(3), ValueError, "norm must be one of"),
    (lambda: lp.Net(_spec(normalized=1)), TypeError, "normalized of layer 0 of spec, diagonal_circulant, must be True"),
    (lambda: lp.Net(_spec(out_features=5)), ValueError, "out_features must be at most features=4, got 5"),
    (lambda: lipschitz_bound(layer_of(3, normalized=True), "linf"), TypeError, "no ℓ∞ Lipschitz bound is known for"),
    (
        lambda: check_size(build("circulant-mlp", shape=(1, 3, 3), classes=2, depth=2, activation="max-min").spec),
        ValueError,
        r"layer 3 of spec, max_min, does not take a value of shape \(9,\)",
    ),
    (
        lambda: build("circulant-mlp", shape=(9,), classes=2, depth=2, activation="elu"),
        ValueError,
        "activation must be",
    ),
    (
        lambda: layer_of(3).load_state_dict(layer_of(3, normalized=True).state_dict()),
        RuntimeError,
        "normalized=True there, False here",
    ),
]


@pytest.mark.parametrize("call, error, message", WRONG, ids=[message for *_, message in WRONG])
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
