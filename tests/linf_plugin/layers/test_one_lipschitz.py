"""Layers that are 1-Lipschitz in ℓ2: their invariants, and what replaces them after training."""

import math

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin.layers import growth
from linf_plugin.layers.gershgorin import squared_norm
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.reparametrised import Reparametrised
from linf_plugin.layers.sll import absolute_gram

FORMS = {  # layer and the shape of a sample
    "sll": (lambda: lp.SLLLinear(6, 9), (6,)),
    "sll, few": (lambda: lp.SLLLinear(7, 3, bias=False), (2, 7)),
    "sll conv": (lambda: lp.SLLConv2d(3, 4), (3, 4, 5)),
    "sll conv, flat": (lambda: lp.SLLConv2d(2, 5, (1, 5)), (2, 3, 2)),
    "cpl": (lambda: lp.CPLLinear(6, 8), (6,)),
    "cpl, svd": (lambda: lp.CPLLinear(6, 4, method="svd"), (6,)),
    "cpl conv": (lambda: lp.CPLConv2d(2, 3, method="norm2toep"), (2, 4, 4)),
    "cpl conv, gram": (lambda: lp.CPLConv2d(2, 2, iterations=3), (2, 3, 3)),
    "aol": (lambda: lp.AOLLinear(6, 4), (6,)),
    "aol, wide": (lambda: lp.AOLLinear(3, 8, bias=False), (3,)),
    "aol conv": (lambda: lp.AOLConv2d(2, 3, 3, padding=1), (2, 4, 5)),
    "aol conv, stride": (lambda: lp.AOLConv2d(2, 5, 4, stride=2, padding=(1, 3)), (2, 6, 5)),
    "aol conv, valid": (lambda: lp.AOLConv2d(2, 3, (2, 1)), (2, 4, 3)),
    "pad": (lambda: lp.PadChannels(2, 3), (2, 2, 3)),
    "unshuffle": (lambda: lp.UnshufflePixels(2, 2), (2, 6, 4)),
    "pool": (lambda: lp.AveragePool(2, 2), (2, 5, 4)),
}
each_form = pytest.mark.parametrize("make, shape", FORMS.values(), ids=FORMS)
TRAINED = {name: case for name, case in FORMS.items() if name not in ("pad", "unshuffle", "pool")}
each_trained = pytest.mark.parametrize("make, shape", TRAINED.values(), ids=TRAINED)


def random(make, size: float = 1.0):
    """The layer in float64 with random parameters of this size."""
    torch.manual_seed(0)
    layer = make().double().eval()
    for a in layer.parameters():
        nn.init.normal_(a, std=size)
    return layer


def jacobian_norm(layer, shape) -> float:
    """The largest ℓ2 norm of the Jacobian at some inputs."""
    found = 0.0
    for size in (0.3, 3.0):
        x = size * torch.randn(1, *shape, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda a: layer(a).flatten(), x).flatten(1)
        found = max(found, torch.linalg.matrix_norm(jacobian, 2).item())
    return found


@each_form
@pytest.mark.parametrize("size", (0.1, 1.0, 30.0))
def test_no_form_stretches(make, shape, size):
    assert 0.1 < jacobian_norm(random(make, size), shape) <= 1 + 1e-12


@torch.no_grad()
@each_form
def test_what_replaces_a_form_is_the_same_function_with_a_certified_bound(make, shape):
    form = random(make).float()
    plain = form.plain()
    assert not isinstance(plain, Reparametrised) and not plain.training
    x = torch.randn(5, *shape)
    torch.testing.assert_close(plain(x), form(x), rtol=1e-4, atol=1e-5)
    bound = lipschitz_bound(plain, 2)
    fixed = isinstance(form, (lp.PadChannels, lp.UnshufflePixels, lp.AveragePool))
    assert bound <= 1 + (1e-12 if fixed else 0.0)
    if isinstance(plain, (lp.PotentialLinear, lp.PotentialConv2d)):
        assert bound == 1.0


@each_trained
def test_gradients_are_finite_also_of_zeros(make, shape):
    for size in (1.0, 0.0):
        form = random(make, size).float().train()
        form(torch.randn(2, *shape)).square().sum().backward()
        assert all(a.grad is not None and a.grad.isfinite().all() for a in form.parameters())


@torch.no_grad()
@each_trained
def test_rows_and_columns_of_zeros(make, shape):
    form = random(make)
    form.weight[0] = 0
    form.weight[:, 0] = 0
    assert jacobian_norm(form, shape) <= 1 + 1e-12
    for a in form.parameters():
        a.zero_()
    x = torch.randn(2, *shape, dtype=torch.float64)
    y = form(x)
    assert y.isfinite().all() and form.plain()(x).isfinite().all()
    if isinstance(form, (lp.SLLLinear, lp.SLLConv2d, lp.CPLLinear, lp.CPLConv2d)):
        assert torch.equal(y, x) and torch.equal(form.plain()(x), x)


@pytest.mark.parametrize("make", [FORMS[name][0] for name in ("sll", "sll conv", "cpl", "cpl conv", "aol", "aol conv")])
@pytest.mark.parametrize("value", (math.nan, math.inf))
def test_weights_that_are_not_finite_are_refused_after_training(make, value):
    form = random(make)
    form.weight.data.view(-1)[1] = value
    with pytest.raises(ValueError, match="weight must not hold NaN or infinite values"):
        form.plain()


@torch.no_grad()
@pytest.mark.parametrize("make", [FORMS[name][0] for name in ("sll", "sll, few", "sll conv", "sll conv, flat")])
def test_the_diagonal_of_an_sll_layer_is_not_less_than_the_gram_matrix(make):
    """T − WWᵀ on images of one pixel and of many."""
    form = random(make)
    diagonal = 1 / form.scale()
    weight = form.weight if form.weight.dim() == 2 else _operator(form, (4, 3))
    diagonal = diagonal.repeat_interleave(len(weight) // len(diagonal))
    rest = torch.diag(diagonal) - weight @ weight.T
    assert torch.linalg.eigvalsh(rest).min() >= -1e-12 * diagonal.max()


def _operator(form, size):
    """The matrix of the convolution inside a layer, on images of this size."""
    plain = lp.PotentialConv2d(form.channels, form.inner, form.kernel_size, bias=False).double()
    one_hot = torch.eye(form.channels * size[0] * size[1], dtype=torch.float64).view(-1, form.channels, *size)
    return plain.into(one_hot, form.weight, None).flatten(1).T


@torch.no_grad()
def test_a_step_from_power_iteration_stretches_and_that_of_the_form_does_not():
    """W is 64×96.  The step is 2/‖W‖², and power iteration finds less than ‖W‖."""
    worst = {"power": 0.0, "form": 0.0}
    for seed in range(5):
        torch.manual_seed(seed)
        form = lp.CPLLinear(96, 64, bias=False).double()
        v = torch.randn(96, dtype=torch.float64)
        for _ in range(5):
            v = form.weight.T @ (form.weight @ v)
            v = v / v.norm()
        for name, d in (("power", 1 / (form.weight @ v).square().sum()), ("form", form.scale()[0])):
            jacobian = torch.eye(96, dtype=torch.float64) - 2 * d * form.weight.T @ form.weight  # every neuron is on
            worst[name] = max(worst[name], torch.linalg.matrix_norm(jacobian, 2).item())
    assert worst["form"] <= 1 + 1e-12 and worst["power"] > 1.02


@torch.no_grad()
@pytest.mark.parametrize("factor", (1.0, 1.5, 4.0))
@pytest.mark.parametrize("kernel", (None, (3, 3), (1, 5)), ids=str)
def test_a_plain_layer_with_a_long_step_has_the_bound_of_its_norm(kernel, factor):
    torch.manual_seed(0)
    layer = lp.PotentialLinear(7, 5) if kernel is None else lp.PotentialConv2d(2, 3, kernel)
    layer = layer.double()
    layer.weight *= factor * math.sqrt(2 / squared_norm(layer.weight))
    shape = (7,) if kernel is None else (2, 6, 6)
    bound, found = lipschitz_bound(layer, 2), jacobian_norm(layer, shape)
    assert found <= bound * (1 + 1e-12)
    assert bound == pytest.approx(max(1.0, growth.square_above(layer) - 1)) and (bound > 1) == (factor > 1)


@torch.no_grad()
def test_the_bound_by_absolute_values_holds_and_is_that_of_an_sll_layer():
    """It is at least the exact norm, on images of any size, and its vector is found: for an SLL layer it is 2."""
    torch.manual_seed(0)
    for kernel in ((1, 1), (3, 3), (3, 1)):
        layer = lp.PotentialConv2d(2, 4, kernel, bias=False).double()
        exact = max(
            torch.linalg.matrix_norm(_operator(layer, size), 2).item() ** 2 for size in ((1, 1), (3, 5), (8, 8))
        )
        found = squared_norm(layer.weight)
        gershgorin = absolute_gram(layer.weight).sum(1).max().item()
        assert exact <= found <= gershgorin * (1 + 1e-12)
    for seed in range(3):
        torch.manual_seed(seed)
        form = lp.SLLLinear(20, 12).double()
        assert squared_norm(form.plain().weight) == pytest.approx(2, abs=1e-6)


def test_numbers_of_any_size_have_a_bound():
    for size in (1e-300, 1e-40, 1.0, 1e150):
        weight = size * torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        assert squared_norm(weight) == pytest.approx(9 * size * size, rel=1e-9, abs=1e-300)
    assert squared_norm(torch.zeros(3, 2)) == 0.0
    with pytest.raises(ValueError, match="weight must not hold NaN"):
        squared_norm(torch.tensor([[math.nan]]))


WRONG = [
    (lambda: lp.SLLConv2d(2, 3, 4), "kernel_size must be odd"),
    (lambda: lp.PotentialConv2d(2, 3, (3, 2)), "kernel_size must be odd"),
    (lambda: lp.SLLLinear(0, 3), "features must be at least 1"),
    (lambda: lp.CPLLinear(3, 3, method="power"), "method must be one of gram, norm2toep, svd"),
    (lambda: lp.PadChannels(3, 2), "out_channels must be at least in_channels=3"),
    (lambda: lp.UnshufflePixels(2, 0), "size must be at least 1"),
    (lambda: lp.UnshufflePixels(2, 2)(torch.zeros(1, 3, 4, 4)), r"x must have shape \(N, 2, H, W\)"),
    (lambda: lp.UnshufflePixels(2, 2)(torch.zeros(1, 2, 3, 4)), "H and W multiples of 2"),
    (lambda: lp.AveragePool(2, 2, 0.0), "divisor must be positive"),
]


@pytest.mark.parametrize("make, message", WRONG, ids=[message for _, message in WRONG])
def test_wrong_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
