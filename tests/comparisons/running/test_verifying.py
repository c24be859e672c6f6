"""Complete verifiers as the last step of a method: what they are asked, what is counted, what it contradicts."""

from dataclasses import replace
from types import SimpleNamespace

import torch

import comparisons.running.measure as module
from comparisons.recipes.recipe import recipe_from
from comparisons.running.evaluate import evaluate
from comparisons.running.verifying import verified
from comparisons.verifiers.request import Request
from linf_plugin.certificates import CERTIFICATES
from linf_plugin.norms import Ball

YES, NO = True, False
BALL = Ball(0.6, low=0.0, high=1.0)
ASKS = ("scripted",)


def bools(*values) -> torch.Tensor:
    return torch.tensor(values)


def test_only_undecided_images_are_asked_about(numbered, scripted, tmp_path):
    net, x, labels = numbered
    scripted.words, scripted.point = ["", "sat", "unsat", "sat", "", "unknown", "timeout", ""], [0.6]
    certified, survives = bools(YES, *[NO] * 7), bools(YES, YES, YES, YES, NO, YES, YES, YES)
    kept = tmp_path / "kept.jsonl"
    request = Request(ASKS, samples=7)
    found = verified(request, net, x, labels, BALL, certified, survives, kept=kept, progress=False)
    assert (found.eps, found.samples, found.certified, found.broken) == (0.6, 7, 1, 1)
    (said,) = found.verifiers.values()
    assert (said.verified, said.falsified, said.unknown) == ((2,), (1, 3), {"undecided": (5,), "time": (6,)})
    assert said.seconds > 0 and found.contradictions == () and scripted.asked() == [1, 2, 3, 5, 6]
    assert len(kept.read_text().splitlines()) == 6


def test_a_falsified_image_that_is_certified_is_a_contradiction(numbered, scripted):
    net, x, labels = numbered
    scripted.words, scripted.point = ["unsat", "sat"] * 4, [0.6]
    certified, survives = bools(*[YES] * 4, *[NO] * 4), bools(*[YES] * 6, NO, NO)
    found = verified(Request(ASKS, certified=True), net, x, labels, BALL, certified, survives, progress=False)
    assert found.contradictions == (1, 3) and found.verifiers["scripted"].verified == (0, 2, 4)
    found = verified(Request(ASKS), net, x, labels, BALL, certified, survives, progress=False)
    assert found.contradictions == () and found.verifiers["scripted"].falsified == (5,)


def test_a_verifier_that_does_not_take_the_net_is_left_out(numbered, scripted):
    net, x, labels = numbered
    scripted.refuses = "it is too round"
    every = torch.ones(8, dtype=torch.bool)
    found = verified(Request(ASKS), net, x, labels, BALL, ~every, every, progress=False)
    assert found.verifiers["scripted"].asked == 0
    assert found.verifiers["scripted"].refused == "scripted one does not take this model: it is too round"


def test_it_is_the_last_step_of_an_evaluation(numbered, scripted, monkeypatch):
    """At the headline ε, of what the best theorem and all attacks leave."""
    net, x, labels = numbered
    scripted.words, scripted.point = ["unsat", "sat", "unsat"], [0.52]
    x = x[:, None, :]

    def proved(problem):
        """The first image at the larger ε, and no image at the smaller one."""
        return lambda some, labels: torch.where((some.flatten() == 0) & (problem.ball.eps == 0.6), 1.0, -1.0).double()

    monkeypatch.setitem(CERTIFICATES, "ibp", replace(CERTIFICATES["ibp"], bound=proved))

    def attack_all(model, x, labels, eps, tables, *, seed, among):
        by = torch.where(among & (x.flatten() > 0.025), 0, -1)
        return SimpleNamespace(by=by, names=("pgd",), points=x, seconds={"pgd": 0.0})

    monkeypatch.setattr(module, "attack_all", attack_all)
    table = {
        "description": "",
        "dataset": "digits",
        "eps": 0.6,
        "evaluation": {"eps_values": [0.3, 0.6], "certificates": ["ibp"], "attacks": [{"name": "pgd"}]},
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
    recipe = recipe_from("mine", "mine.toml", table)
    assert evaluate(recipe, "mine", net, x, labels, seed=0, progress=False)[0].verification is None
    recipe = recipe_from("mine", "mine.toml", {**table, "verify": {"methods": ["scripted"]}})
    found = evaluate(recipe, "mine", net, x, labels, seed=0, progress=False)[0].verification
    assert (found.eps, found.samples, found.certified, found.broken) == (0.6, 8, 1, 5)
    assert (found.verifiers["scripted"].verified, found.verifiers["scripted"].falsified) == ((2,), (1,))
