"""What attacks and certificates contradict follows from norms and failure probabilities."""

import math

import pytest
import torch
from torch import nn

import comparisons.running.evaluate as module
from comparisons.attacks.attack import ATTACKS, Attack
from comparisons.recipes.recipe import recipe_from
from comparisons.running.evaluate import contradicted, evaluate

TABLE = {
    "description": "",
    "dataset": "digits",
    "eps": 0.1,
    "evaluation": {
        "eps_values": [0.05, 0.1],
        "certificates": ["ibp", "crown"],
        "attacks": [{"name": "pgd", "steps": 1}, {"name": "second"}],
    },
    "methods": {
        "mine": {
            "kind": "ibp",
            "architecture": {"name": "relu-mlp", "width": 8, "depth": 2},
            "loss": {"name": "ibp"},
            "optimizer": {"name": "adam", "lr": 1e-3},
            "batch_size": 64,
            "schedule": {"epochs": 3, "eps": 0.1},
        }
    },
}
YES, NO = True, False


def bools(*values) -> torch.Tensor:
    return torch.tensor(values)


@pytest.fixture
def facts(monkeypatch):
    """A certificate of ℓ2 balls, one that may fail, and attacks in ℓ2 and ℓ∞."""
    norms, failures = {"l2-lipschitz": 2.0, "smoothing": 2.0}, {"smoothing": 0.001}
    monkeypatch.setattr(module, "norm_of", lambda name: norms.get(name, math.inf))
    monkeypatch.setattr(module, "failure_of", lambda name: failures.get(name, 0.0))
    monkeypatch.setitem(ATTACKS, "l2-pgd", Attack("ℓ2 PGD", 2.0, None))
    monkeypatch.setitem(ATTACKS, "second", Attack("second", math.inf, None))


def test_a_theorem_is_contradicted_by_an_attack_of_its_norm(facts):
    proofs = {"ibp": bools(YES, YES, NO, NO), "crown": bools(NO, YES, YES, NO), "best": bools(YES, YES, YES, NO)}
    assert contradicted(proofs, {"pgd": bools(YES, YES, YES, NO)}) == (0, {})
    assert contradicted(proofs, {"pgd": bools(NO, NO, YES, NO)}) == (2, {})  # an image counts once
    assert contradicted(proofs, {"l2-pgd": bools(NO, NO, NO, NO)}) == (0, {})


def test_attacks_of_one_norm_are_one(facts):
    proofs = {"ibp": bools(YES, YES, YES)}
    both = {"pgd": bools(NO, YES, YES), "second": bools(NO, NO, YES), "l2-pgd": bools(YES, YES, NO)}
    assert contradicted(proofs, both) == (2, {})


def test_what_may_fail_is_counted_apart(facts):
    proofs = {"l2-lipschitz": bools(YES, NO, NO), "smoothing": bools(YES, YES, NO), "ibp": bools(YES, YES, YES)}
    assert contradicted(proofs, {"l2-pgd": bools(NO, NO, NO)}) == (1, {"smoothing": 2})
    assert contradicted(proofs, {"l2-pgd": bools(NO, NO, NO), "pgd": bools(NO, NO, YES)}) == (2, {"smoothing": 2})
    assert contradicted({"smoothing": bools(YES)}, {"pgd": bools(NO)}) == (0, {})


def test_a_method_is_measured_under_every_attack(facts, monkeypatch):
    """Figures by attack and by certificate, over ε; a certificate that may fail, and with it the best of all."""
    monkeypatch.setattr(module, "norm_of", lambda name: math.inf)
    monkeypatch.setattr(module, "failure_of", lambda name: {"crown": 0.25}.get(name, 0.0))
    proofs = {"ibp": bools(YES, NO, NO, NO), "crown": bools(NO, YES, NO, NO), "best": bools(YES, YES, NO, NO)}
    monkeypatch.setattr(module, "certify_each", lambda model, x, y, eps, names, norm, progress, seconds: proofs)
    seen = []

    def find(model, x, labels, eps, *, seed, batch_size: int = 512, strength: int = 1):
        seen.append((eps, strength))
        return torch.where(labels.view(-1, 1, 1, 1) % 2 == 1, 0.5, x)  # all classes alike: class 0

    def nothing(model, x, labels, eps, *, seed, batch_size: int = 512, steps):
        return x

    monkeypatch.setitem(ATTACKS, "pgd", Attack("PGD", math.inf, nothing))
    monkeypatch.setitem(ATTACKS, "second", Attack("second", math.inf, find))
    evaluation = {**TABLE["evaluation"], "attacks": [{"name": "pgd", "steps": 1}, {"name": "second", "strength": 7}]}
    monkeypatch.setitem(TABLE, "evaluation", evaluation)
    monkeypatch.setattr("comparisons.recipes.recipe.check_named", lambda *_: None)
    recipe = recipe_from("mine", "mine.toml", TABLE)
    model = nn.Flatten().eval()
    x, y = 0.5 + 0.01 * torch.eye(4).view(4, 1, 2, 2), torch.arange(4)
    found = evaluate(recipe, "mine", model, x, y, seed=5, progress=False)
    assert found.clean == 1 and seen == [(0.05, 7), (0.1, 7)]
    assert found.attacked == {"pgd": {0.05: 1.0, 0.1: 1.0}, "second": {0.05: 0.5, 0.1: 0.5}}
    assert {name: c.failure for name, c in found.certified.items()} == {"ibp": 0, "crown": 0.25, "best": 0}
    assert found.certified["best"].accuracy == {0.05: 0.5, 0.1: 0.5}
    assert (found.contradictions, found.broken) == (0, {"crown": 2})  # at two ε
