"""What chooses a model: the best figure wins, and nothing else changes."""

import math

import pytest
import torch
from torch import nn

from linf_plugin import build
from linf_plugin.layers.base import distance_layers, set_p
from linf_plugin.layers.shifts import MeanShift
from linf_plugin.state import tensors
from linf_plugin.training import selection

X = torch.rand(30, 1, 4, 4)


def make(kind="linf-mlp", **more):
    model = build(kind, shape=(1, 4, 4), classes=2, width=8, depth=3, **more)
    set_p(model, 8)
    return model.train()


def measured(figures: list[float], models=None):
    """The best after candidates with these figures, one an epoch."""
    best, remaining = None, iter(figures)
    for epoch in range(len(figures)):
        model = make() if models is None else models[epoch]
        _, best = selection.measure({"last": model}, lambda _: {"certified": next(remaining)}, epoch, best, X, 0)
    return best


@pytest.mark.parametrize(
    ("figures", "epoch"),
    [
        ([0.1, 0.3, 0.2], 1),
        ([0.3, 0.3, 0.1], 1),
        ([0, 0, 0], 2),
        ([math.nan, 0.1, math.nan], 1),
        ([math.nan, math.nan], 1),
        ([0.1, math.inf], 1),
        ([-math.inf], 0),
    ],
)
def test_the_best_wins_and_of_equals_the_later(figures, epoch):
    assert measured(figures).epoch == epoch


def test_of_equal_weights_and_average_the_average_wins():
    both = {"last": make(), "average": make()}
    found, best = selection.measure(both, lambda _: {"certified": 0.5, "clean": 1}, 4, None, X, 0)
    assert (best.epoch, best.weights, best.figures) == (4, "average", {"certified": 0.5, "clean": 1.0})
    assert found == {"last": best.figures, "average": best.figures}


def test_the_state_that_is_kept_is_that_of_the_best():
    models = [make() for _ in range(3)]
    best = measured([0.1, 0.9, 0.3], models)
    for name, value in tensors(models[1]).items():
        if "running_mean" not in name:  # these were estimated anew
            assert torch.equal(best.state[name], value), name
    with torch.no_grad():
        models[1][2].weight.zero_()
    assert not torch.equal(best.state["2.weight"], models[1][2].weight)  # it is a copy


@pytest.mark.parametrize("kind", [{}, {"kind": "sortnet-mlp", "rho": 0.5, "group": 4}], ids=["dist", "sort"])
def test_candidates_are_finished_and_the_model_and_random_numbers_stay(kind):
    model = make(**kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, seen = torch.get_rng_state(), []

    def validate(candidate):
        assert not any(m.training for m in candidate.modules())
        assert all(layer.p == math.inf for layer in distance_layers(candidate))
        first = next(i for i, m in enumerate(candidate) if isinstance(m, MeanShift))
        torch.testing.assert_close(candidate[first].running_mean, candidate[:first](X).mean(0))
        seen.append(torch.rand(()).item())
        with torch.no_grad():
            candidate[2].weight.zero_()
        return {"certified": 0}

    for _ in range(2):
        selection.measure({"last": model}, validate, 0, None, X, 7)
    assert seen[0] == seen[1]
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(m.training for m in model.modules()) and all(layer.p == 8 for layer in distance_layers(model))


def test_means_of_a_candidate_come_from_a_part_of_many_images(monkeypatch):
    monkeypatch.setattr(selection, "BATCH", 8)
    parts = list(selection.batches(X, 3, at_most=20))
    assert [len(part) for part in parts] == [8, 8, 4]
    chosen = torch.cat(parts).flatten(1).tolist()
    everything = X.flatten(1).tolist()
    assert all(image in everything for image in chosen) and len({tuple(image) for image in chosen}) == 20
    assert chosen != everything[:20]
    assert torch.equal(torch.cat(list(selection.batches(X, 3, at_most=20))), torch.cat(parts))
    for at_most in (30, 31, None):
        assert torch.equal(torch.cat(list(selection.batches(X, 3, at_most=at_most))), X)


def test_a_net_without_means_is_finished_too():
    assert not selection.finish(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), [X]).training


@pytest.mark.parametrize("figures", [{}, {"clean": 0.5}])
def test_validate_must_say_what_is_certified(figures):
    with pytest.raises(ValueError, match='"certified"'):
        selection.measure({"last": make()}, lambda _: figures, 0, None, X, 0)
