"""Lipschitz bounds hold in the norm that they name, and none can be read without a norm."""

import math
import warnings

import pytest
import torch
from torch import nn

import linf_plugin as lp
from linf_plugin import moved
from linf_plugin.layers.facts import FACTS, RANDOM, TRAINED
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.layers.shifts import CenterCrop
from linf_plugin.norms import NORMS, SYMBOLS


def normalisation(layer):
    """Batch normalisation with scales of both signs."""
    torch.manual_seed(1)
    for a in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(a)
    layer.running_var.uniform_(0.1, 2)
    return layer


def larger(layer, factor):
    """A layer whose ℓ2 bound is far above 1."""
    with torch.no_grad():
        layer.weight *= factor
    return layer


def larger_diagonal(layer):
    """A layer with a diagonal of different numbers."""
    nn.init.normal_(layer.diagonal, std=3)
    return layer


LAYERS = {  # layer type → layers, and the shape of a sample
    lp.Normalize: [(lp.Normalize([0.1, 0.2], 0.5), (2, 3, 3))],
    CenterCrop: [(CenterCrop(2), (2, 4, 3))],
    nn.Flatten: [(nn.Flatten(), (2, 2, 2))],
    nn.Identity: [(nn.Identity(), (3,))],
    lp.LinfDistLinear: [(lp.LinfDistLinear(4, 3, p=p), (4,)) for p in (1.0, 2.5, math.inf)],
    lp.LinfDistConv2d: [(lp.LinfDistConv2d(2, 4, 2, padding=1, groups=2, p=p), (2, 3, 3)) for p in (2.0, math.inf)],
    lp.SortDistLinear: [(lp.SortDistLinear(5, 3, rho=rho, k=3), (5,)) for rho in (0.4, 1.0)],
    lp.MeanShift: [(lp.MeanShift(3), (3, 2, 2))],
    lp.Negate: [(lp.Negate(), (3,))],
    nn.Linear: [(nn.Linear(4, 3), (4,)), (nn.Linear(3, 2), (2, 3))],
    nn.Conv2d: [(nn.Conv2d(2, 4, 2, padding=1, stride=2, groups=2), (2, 5, 5))],
    nn.ReLU: [(nn.ReLU(), (4,))],
    nn.Tanh: [(nn.Tanh(), (4,))],
    nn.BatchNorm1d: [(normalisation(nn.BatchNorm1d(4)), (4,)), (nn.BatchNorm1d(3, affine=False), (3, 2))],
    nn.BatchNorm2d: [(normalisation(nn.BatchNorm2d(3)), (3, 2, 2))],
    lp.ParamRamp: [(lp.ParamRamp(4, 0.7), (4,)), (lp.ParamRamp(2), (2, 3, 3))],
    lp.MaxMin: [(lp.MaxMin(), (6,)), (lp.MaxMin(), (4, 2, 3))],
    lp.PotentialLinear: [(lp.PotentialLinear(5, 3), (5,)), (larger(lp.PotentialLinear(4, 6, bias=False), 4), (2, 4))],
    lp.PotentialConv2d: [
        (lp.PotentialConv2d(2, 3), (2, 4, 5)),
        (larger(lp.PotentialConv2d(2, 3, (1, 5)), 6), (2, 3, 4)),
    ],
    lp.SLLLinear: [(lp.SLLLinear(5, 4), (5,))],
    lp.SLLConv2d: [(lp.SLLConv2d(2, 3), (2, 4, 4))],
    lp.CPLLinear: [(lp.CPLLinear(5, 4), (5,))],
    lp.CPLConv2d: [(lp.CPLConv2d(2, 3, method="norm2toep"), (2, 4, 4))],
    lp.AOLLinear: [(lp.AOLLinear(5, 4), (5,))],
    lp.AOLConv2d: [(lp.AOLConv2d(2, 3, 2, stride=2, padding=1), (2, 4, 4))],
    lp.DiagonalCirculant: [
        (lp.DiagonalCirculant(5), (5,)),
        (larger_diagonal(lp.DiagonalCirculant(6, 4)), (2, 6)),
        (lp.DiagonalCirculant(5, normalized=True), (5,)),
    ],
    lp.NormalizedRows: [(lp.NormalizedRows(5, 4), (5,))],
    lp.PadChannels: [(lp.PadChannels(2, 3), (2, 2, 2))],
    lp.UnshufflePixels: [(lp.UnshufflePixels(2, 2), (2, 4, 6))],
    lp.AveragePool: [(lp.AveragePool(2, 2), (2, 5, 4)), (lp.AveragePool(2, 2, 4.0), (2, 4, 4))],
    lp.GaussianNoise: [(lp.GaussianNoise(0.1), (3,))],
    lp.LaplaceNoise: [(lp.LaplaceNoise(0.1), (3,))],
    lp.UniformNoise: [(lp.UniformNoise(0.1), (3,))],
}
CASES = [(layer, shape) for rows in LAYERS.values() for layer, shape in rows]


def test_every_layer_type_has_a_case():
    missing = {kind.__name__ for kind in FACTS.keys() - LAYERS.keys()}
    assert not missing, f"{missing}: add a case to LAYERS in this file"


@torch.no_grad()
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
@pytest.mark.parametrize("layer, shape", CASES, ids=lambda a: type(a).__name__ if isinstance(a, nn.Module) else str(a))
def test_bounds_hold_in_their_norm(layer, shape, norm):
    """Steps in all directions and in single coordinates, large and small."""
    layer = layer.double().eval()
    try:
        bound = lipschitz_bound(layer, norm)
    except TypeError as error:
        assert "Lipschitz bound is known for" in str(error) and (norm != math.inf or type(layer) in TRAINED + RANDOM)
        return
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4000, *shape, generator=generator, dtype=torch.float64)
    step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    one = torch.zeros_like(step).flatten(1)
    one[torch.arange(len(x)), torch.randint(one.shape[1], (len(x),), generator=generator)] = 1.0
    for size in (1e-3, 1.0, 30.0):
        for direction in (step, one.view_as(x), step.sign()):
            moved_by = (layer(x + size * direction) - layer(x)).flatten(1)
            given = (size * direction).flatten(1)
            ends = (torch.linalg.vector_norm(a, ord=norm, dim=1) for a in (moved_by, given))
            after, before = ends
            assert (after <= bound * before * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize(
    "layer, norm",
    (
        (lp.LinfDistLinear(2, 2), "l2"),
        (nn.Conv2d(1, 1, 2), "l1"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "l2"),
        (lp.SLLLinear(2, 2), "linf"),
        (lp.GaussianNoise(0.0), "l2"),
    ),
    ids=str,
)
def test_a_norm_without_a_bound_is_refused_by_name(layer, norm):
    symbol = SYMBOLS[NORMS[norm]]
    with pytest.raises(TypeError, match=f"no {symbol} Lipschitz bound is known for {type(layer).__name__}"):
        lipschitz_bound(nn.Sequential(nn.ReLU(), layer), norm)


def test_the_attribute_of_another_module_is_not_read():
    """A layer that states its ℓ2 bound there would give a false certificate in ℓ∞."""

    class Spectral(nn.Module):
        lipschitz = 1.0

        def forward(self, x):
            return x.sum(1, keepdim=True).expand(-1, 2) / math.sqrt(2 * x.shape[1])  # 1 in ℓ2, not in ℓ∞

    model = nn.Sequential(Spectral()).eval()
    x, y = torch.rand(2, 9), torch.zeros(2, dtype=torch.long)
    with pytest.raises(TypeError, match="Spectral: give it a method lipschitz_in"):
        lipschitz_bound(model, math.inf)
    with pytest.raises(TypeError, match="Spectral: give it a method lipschitz_in"):
        lp.certificates.margin_bound(model, x, y, 0.1, "lipschitz", sound=False)


@pytest.mark.parametrize("layer", (nn.BatchNorm1d(3), nn.BatchNorm2d(2), lp.ParamRamp(2)), ids=str)
def test_no_bound_is_known_in_training_mode(layer):
    assert lipschitz_bound(layer.eval(), math.inf) >= 0.9
    with pytest.raises(TypeError, match=f"Lipschitz bound is known for {type(layer).__name__}"):
        lipschitz_bound(layer.train(), math.inf)


def test_normalisation_by_the_batch_has_no_bound():
    with pytest.raises(TypeError, match="BatchNorm1d that normalises by its batch"):
        lipschitz_bound(nn.BatchNorm1d(3, track_running_stats=False).eval(), math.inf)


def test_a_subclass_states_its_own_bound():
    class Twice(lp.LinfDistLinear):
        def forward(self, x):
            return 2 * super().forward(x)

    with pytest.raises(TypeError, match="Twice"):
        lipschitz_bound(Twice(2, 2), math.inf)


def test_what_was_read_without_a_norm_is_of_the_maximum_norm_and_warns_once(monkeypatch):
    monkeypatch.setattr(moved, "_told", set())
    layer = lp.LinfDistLinear(16, 2, p=2)
    net = lp.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2)
    with pytest.warns(DeprecationWarning, match="lipschitz_bound") as told:
        assert layer.lipschitz == 4.0 and lp.Negate().lipschitz == 1.0 and net.lipschitz == 1.0
        assert lp.lipschitz_bound(layer) == 4.0
    assert len(told) == 2  # one for the attribute, one for the function
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert layer.lipschitz == lp.lipschitz_bound(layer) == 4.0
