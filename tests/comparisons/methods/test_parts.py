"""The parts of a method: what their names stand for, and what the harness gives them."""

import inspect
import itertools
import math

import pytest
import torch
from torch import nn

from comparisons import certificates
from comparisons.attacks.attack import ATTACKS
from comparisons.methods.augmentations import AUGMENTATIONS
from comparisons.methods.initialisations import INITIALISATIONS
from comparisons.methods.kinds import METHODS, certificates_of, label_of
from comparisons.methods.parts import ATTACKING, PARTS
from comparisons.recipes.recipe import MethodRecipe
from linf_plugin import build
from linf_plugin.layers.base import distance_layers
from linf_plugin.training import shift_and_flip

EVERY = [(part, name) for part, about in {**PARTS, "attack": ATTACKING}.items() for name in about.registry]


@pytest.mark.parametrize(("part", "name"), EVERY)
def test_every_function_takes_what_the_harness_gives(part, name):
    """And what a recipe may say besides has a type that a file can hold."""
    about = {**PARTS, "attack": ATTACKING}[part]
    takes = inspect.signature(about.function(name)).parameters
    given = set(about.given) - ({"climbed"} if part == "attack" and not ATTACKS[name].climbs else set())
    assert given <= set(takes) or part == "architecture"  # the other arguments of that depend on the name
    said = about.parameters(name)
    assert not set(said) & set(about.given)
    assert all(p.annotation is not p.empty for p in said.values())


def test_every_part_of_a_method_has_a_registry():
    """All its tables but the schedule, which is one function's."""
    tables = {key for key, p in inspect.signature(MethodRecipe).parameters.items() if p.annotation is dict}
    assert tables == set(PARTS)


def test_defaults_are_filled_in_where_the_name_is_known():
    assert PARTS["loss"].filled({"name": "hinge"}) == {"name": "hinge", "mix": 1.0}
    assert PARTS["loss"].filled({"name": "hinge", "mix": 0.5}) == {"name": "hinge", "mix": 0.5}
    assert PARTS["loss"].filled({"name": "gone", "a": 1}) == {"name": "gone", "a": 1}
    assert ATTACKING.filled({"name": "pgd", "steps": 3}) == {
        "name": "pgd",
        "steps": 3,
        "restarts": 2,
        "batch_size": 512,
    }


def test_a_kind_has_every_certificate_that_it_does_not_leave_out(monkeypatch):
    """Also one that is added."""
    every = certificates.names()
    assert certificates_of("linf-dist") == every and certificates_of("ibp") == every[1:]
    monkeypatch.setattr(certificates, "names", lambda: (*every, "smoothing"))
    assert all(certificates_of(kind)[-1] == "smoothing" for kind in METHODS)


def test_a_method_with_a_name_of_its_own_is_labelled_by_both():
    assert label_of("linf-dist", "linf-dist") == "ℓ∞-dist net" and label_of("wide", "linf-dist") == "ℓ∞-dist net (wide)"


def test_attacks_say_their_norm():
    assert ATTACKS["pgd"].norm == math.inf and ATTACKS["pgd"].label == "PGD"


# Initialisations.

IMAGES = {"shape": (1, 12, 12), "classes": 10}
NETS = {
    "mlp": ("relu-mlp", {"width": 600, "depth": 4}),
    "conv": ("relu-conv", {"channels": (48, 48), "strides": (1, 1), "width": 600}),
}


def _states(model: nn.Module) -> list[torch.Tensor]:
    return [a.clone() for a in model.state_dict().values()]


@pytest.mark.parametrize("name", NETS)
def test_by_default_weights_stay_as_they_are(name):
    architecture, sizes = NETS[name]
    model = build(architecture, **IMAGES, **sizes)
    before = _states(model)
    state = torch.get_rng_state()
    INITIALISATIONS["default"](model)
    assert all(torch.equal(a, b) for a, b in zip(before, _states(model)))
    assert torch.equal(state, torch.get_rng_state())  # no random number is drawn


@pytest.mark.parametrize("name", NETS)
def test_interval_weights_keep_the_width_of_intervals(name):
    """From a ReLU to the next the mean width stays; as torch starts the net, it grows from layer to layer."""
    architecture, sizes = NETS[name]
    model = build(architecture, **IMAGES, **sizes).eval()
    grown = _growth(model)
    INITIALISATIONS["interval"](model)
    kept = _growth(model)
    assert all(0.8 < growth < 1.25 for growth in kept) and min(grown) > 2, (kept, grown)
    assert all((layer.bias == 0).all() for layer in model if isinstance(layer, (nn.Linear, nn.Conv2d)))


@torch.no_grad()
def _growth(model: nn.Module) -> list[float]:
    """Mean width behind each ReLU but the first as a multiple of that behind the one before, on random images."""
    low, high, widths = torch.rand(20, *IMAGES["shape"]) - 0.05, None, []
    high = low + 0.1
    for layer in model:
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            middle, half = (low + high) / 2, (high - low) / 2
            absolute = _with(layer, layer.weight.abs(), None)
            middle, half = layer(middle), absolute(half)
            low, high = middle - half, middle + half
        else:
            low, high = layer(low), layer(high)
        if isinstance(layer, nn.ReLU):
            inside = high[..., 2:-2, 2:-2] - low[..., 2:-2, 2:-2] if high.dim() == 4 else high - low  # no padding
            widths.append(inside.mean().item())
    return [b / a for a, b in itertools.pairwise(widths)]


def _with(layer: nn.Module, weight: torch.Tensor, bias):
    if isinstance(layer, nn.Linear):
        return lambda x: nn.functional.linear(x, weight, bias)
    return lambda x: nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)


def test_interval_weights_leave_distance_layers_alone():
    model = build("linf-mlp-head", shape=(1, 4, 4), classes=3, width=6, depth=2, hidden=5)
    before = [layer.weight.clone() for layer in distance_layers(model)]
    heads = [layer.weight.clone() for layer in model if isinstance(layer, nn.Linear)]
    INITIALISATIONS["interval"](model)
    assert all(torch.equal(a, layer.weight) for a, layer in zip(before, distance_layers(model)))
    assert heads and not any(
        torch.equal(a, b.weight) for a, b in zip(heads, (m for m in model if isinstance(m, nn.Linear)))
    )


# Augmentations.


def test_none_and_shifts_by_nothing_are_no_augmentation():
    assert AUGMENTATIONS["none"]() is None and AUGMENTATIONS["shift-flip"](padding="zero", shift_share=0.5) is None


def test_shift_flip_is_the_function_of_the_trainer():
    x = torch.rand(6, 1, 5, 5)
    augment = AUGMENTATIONS["shift-flip"](shift=2, shift_share=0.5, padding="zero", flip=True)
    ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
    expected = shift_and_flip(x, theirs, pixels=2, flip=True, padding="zero", share=0.5)
    assert torch.equal(augment(x, ours), expected) and not torch.equal(expected, x)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [({"padding": "mirror"}, "padding must be one of edge, zero"), ({"shift_share": 1.1}, "shift_share must lie in")],
)
def test_what_an_augmentation_cannot_be_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        AUGMENTATIONS["shift-flip"](**arguments)
