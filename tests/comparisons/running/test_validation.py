"""The figures that choose a model are those of the certificates, but for rounding."""

import math

import pytest
import torch

from comparisons.running.validation import margins, validation
from linf_plugin import build, materialise
from linf_plugin.certificates.cascade import certify, margin_bound
from linf_plugin.certificates.table import CERTIFICATES
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.models.architectures import ARCHITECTURES
from linf_plugin.models.lipschitz import SIZES
from linf_plugin.models.relu import LAYOUTS

COMMON = {"shape": (1, 4, 4), "classes": 3, "mean": (0.3,), "std": 0.5}
RESIDUAL = {"dense": 1, "inner": 3, "hidden": 8}
NETS = {  # architecture, its arguments, certificate
    "dist": ("linf-mlp", {"width": 12, "depth": 3}, "lipschitz"),
    "clip": ("linf-mlp", {"width": 12, "depth": 3, "clip": 0.1}, "ibp"),
    "sort": ("sortnet-mlp", {"width": 12, "depth": 3, "rho": 0.5}, "lipschitz"),
    "conv": ("linf-conv", {"channels": (4,), "strides": (2,), "width": 8}, "lipschitz"),
    "head": ("linf-mlp-head", {"width": 12, "depth": 2, "hidden": 6}, "ibp"),
    "sort-head": ("sortnet-mlp", {"width": 12, "depth": 2, "rho": 0.5, "hidden": 6}, "ibp"),
    "conv-head": ("linf-conv", {"channels": (4,), "strides": (2,), "width": 8, "hidden": 6}, "ibp"),
    "relu": ("relu-mlp", {"width": 12, "depth": 3}, "ibp"),
    "relu-conv": ("relu-conv", {"channels": (4,), "strides": (2,), "width": 8}, "ibp"),
    "sll": ("sll-mlp", {"depth": 3, "hidden": 12}, "lipschitz-l2"),
    "cpl": ("cpl-mlp", {"depth": 2, "hidden": 12}, "lipschitz-l2"),
    "aol": ("aol-mlp", {"depth": 2, "width": 12}, "lipschitz-l2"),
    "circulant": ("circulant-mlp", {"depth": 3}, "lipschitz-l2"),
    "sll-conv": ("sll-conv", {"convs": 1, "width": 4, **RESIDUAL}, "lipschitz-l2"),
    "cpl-conv": ("cpl-conv", {"convs": 1, "width": 4, "method": "norm2toep", **RESIDUAL}, "lipschitz-l2"),
    "aol-conv": ("aol-conv", {"channels": (4,), "strides": (2,), "width": 8}, "lipschitz-l2"),
    **{f"sll-{size}": (f"sll-{size}", {"convs": 1, "width": 3, **RESIDUAL}, "lipschitz-l2") for size in SIZES},
    **{name: (name, {"shape": (1, 16, 16), "width": 4, "hidden": (8,)}, "ibp") for name in LAYOUTS},
}
EPS = 0.002


@pytest.fixture
def problem(name):
    """A net with random means, images with pixels at both ends of their range, and labels most of which fit."""
    architecture, arguments, certificate = NETS[name]
    model = build(architecture, **COMMON | arguments).eval()
    for m in model.modules():
        if isinstance(m, MeanShift):
            m.running_mean.normal_()
    x = (3 * torch.rand(60, *model.input_shape) - 1).clamp(0, 1)
    y = model(x).argmax(1)
    y[::10] = (y[::10] + 1) % 3
    return model, x, y, certificate


@pytest.mark.parametrize("name", NETS)
def test_margins_are_those_of_the_certificate(problem):
    model, x, y, certificate = problem
    ours, theirs = (
        margins(model, x, y, EPS, CERTIFICATES[certificate].norm),
        margin_bound(model, x, y, EPS, certificate, sound=False),
    )
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
    further = margins(model, x, y, 2 * EPS, CERTIFICATES[certificate].norm)
    assert (further <= ours).all() and (further < ours).any()  # clipped pixels of some images do not move at all


@pytest.mark.parametrize("name", NETS)
def test_fractions_are_those_of_the_certificate(problem):
    model, x, y, certificate = problem
    norm = CERTIFICATES[certificate].norm
    found = validation(x, y, EPS, norm)(model)
    assert found["clean"] == 0.9 == pytest.approx((model(x).argmax(1) == y).double().mean().item())
    certified = certify(materialise(model), x, y, EPS, [certificate], norm=norm).certified.double().mean().item()
    assert 0 < certified <= found["certified"] <= certified + 1 / 60 and found["certified"] <= 0.9


@pytest.mark.parametrize("name", ["relu", "relu-conv", "sll", "aol-conv"])
def test_margins_in_l2_are_those_of_the_lipschitz_bound(problem, name):
    model, x, y, _ = problem
    theirs = margin_bound(materialise(model), x, y, EPS, "lipschitz-l2", sound=False)
    ours = margins(model, x, y, EPS, 2.0).double()
    if name == "aol-conv":  # 1 for its layers while it trains; the bounds of its weights may be lower
        assert (theirs > ours - 1e-4).all() and (theirs < ours + math.sqrt(2) * EPS).all()
    else:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sll", "cpl-conv"])
def test_a_net_that_is_lipschitz_in_l2_has_margins_in_the_ball_around_that_of_linf(problem):
    """16 pixels: the ℓ2 ball has four times the radius."""
    model, x, y, _ = problem
    assert torch.equal(margins(model, x, y, EPS), margins(model, x, y, 4 * EPS, 2.0))


def test_every_architecture_is_here():
    assert {architecture for architecture, *_ in NETS.values()} == set(ARCHITECTURES)
