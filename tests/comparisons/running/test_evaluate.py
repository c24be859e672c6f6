"""What a method of a recipe is measured at, and the figures that follow from what is known of each sample."""

import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import comparisons.running.measure as module
from comparisons.attacks.attack import ATTACKS
from comparisons.recipes.recipe import recipe_from
from comparisons.running.asked import Asked
from comparisons.running.evaluate import evaluate
from comparisons.running.per_sample import PerSample, from_plain, joined
from linf_plugin.certificates import CERTIFICATES, Curve
from linf_plugin.certificates.result import Tally

TABLE = {
    "description": "",
    "dataset": "digits",
    "eps": 0.1,
    "evaluation": {
        "eps_values": [0.05, 0.1],
        "certificates": ["ibp", "crown"],
        "attacks": [{"name": "pgd", "steps": 1}],
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
NONE = math.inf


def per_sample(
    proved: dict[str, list[float]], broken: list[float], by: list[str], wrong: int | None = None
) -> PerSample:
    """Samples of class 0, of which one may be misclassified."""
    count = len(broken)
    prediction = torch.tensor([int(i == wrong) for i in range(count)])
    radii = {name: torch.tensor(some, dtype=torch.float64) for name, some in proved.items()}
    return PerSample(
        sample=torch.arange(count),
        labels=torch.zeros(count, dtype=torch.long),
        prediction=prediction,
        margin=torch.ones(count),
        proved=radii,
        bound={name: some * 2 for name, some in radii.items()},
        radius={},
        broken=torch.tensor(broken, dtype=torch.float64),
        by=by,
        points={},
        attack_seconds={"pgd": 1.0, "second": 2.0},
        tried={eps: dict.fromkeys(proved, (count, 0.5)) for eps in (0.1, 0.05)},
    )


@pytest.fixture
def may_fail(monkeypatch):
    """ "crown" may fail."""
    monkeypatch.setitem(CERTIFICATES, "crown", dataclasses.replace(CERTIFICATES["crown"], failure=0.25))


def test_figures_count_what_holds_at_each_radius(may_fail):
    proved = {"ibp": [0.1, 0.05, -1, -1, -1], "crown": [0.1, 0.1, 0.1, -1, -1]}
    broken, by = [NONE, NONE, 0.1, 0.05, NONE], ["", "", "second along a copy", "pgd", ""]
    found = per_sample(proved, broken, by, wrong=4)
    assert found.best().tolist() == [0.1, 0.05, -1, -1, -1]
    assert found.attacked(["pgd", "second"], (0.05, 0.1)) == {
        "pgd": {0.05: 0.6, 0.1: 0.6},
        "second": {0.05: 0.6, 0.1: 0.4},
    }
    assert (found.broken_by(0.05), found.broken_by(0.1)) == ({"pgd": 1}, {"second along a copy": 1, "pgd": 1})
    assert found.broken_though_certified((0.05, 0.1)) == {"crown": 1}
    assert found.contradicted() == {} and found.certify_seconds() == {"ibp": 1.0, "crown": 1.0}


def test_a_theorem_is_contradicted_at_its_radius_or_below(may_fail):
    found = per_sample({"lipschitz": [0.05] * 3, "ibp": [0.1] * 3, "crown": [1.0] * 3}, [0.05, 0.1, NONE], ["pgd"] * 3)
    assert found.contradicted() == {0: "lipschitz", 1: "ibp"}
    assert found.broken_though_certified((0.05, 0.1)) == {"crown": 3}  # two samples, one of them at both ε


def test_an_attack_or_a_certificate_of_another_norm_is_refused(monkeypatch):
    monkeypatch.setitem(ATTACKS, "l2-pgd", dataclasses.replace(ATTACKS["pgd"], norm=2.0))
    with pytest.raises(ValueError, match="the attack l2-pgd moves samples in ℓ2, and the balls are those of ℓ∞"):
        Asked((0.1,), math.inf, ("ibp",), True, ({"name": "l2-pgd"},), 0)
    with pytest.raises(ValueError, match="ibp certifies ℓ∞ balls, and norm is ℓ2"):
        Asked((0.1,), 2.0, ("ibp",), True, (), 0)


def test_parts_are_joined_in_the_order_of_their_samples():
    whole = per_sample({"ibp": [0.1, 0.05, -1, -1]}, [NONE, NONE, 0.1, 0.05], ["", "", "pgd", "second"])
    whole.points[2] = torch.zeros(1)

    def part(rows):
        tensors = {name: value[rows] for name, value in vars(whole).items() if isinstance(value, torch.Tensor)}
        of = {name: {k: v[rows] for k, v in getattr(whole, name).items()} for name in ("proved", "bound")}
        rest = {"by": [whole.by[i] for i in rows], "points": {2: torch.zeros(1)} if 2 in rows else {}}
        return PerSample(**vars(whole) | tensors | of | rest)

    for parallel, seconds in ((True, 1.0), (False, 2.0)):
        found = joined([part([0, 2]), part([1, 3])], parallel=parallel)
        assert found.sample.tolist() == [0, 1, 2, 3] and found.by == whole.by and list(found.points) == [2]
        assert torch.equal(found.proved["ibp"], whole.proved["ibp"]) and torch.equal(found.broken, whole.broken)
        assert found.attack_seconds["pgd"] == seconds and found.certify_seconds()["ibp"] == seconds
        assert found.tried[0.1]["ibp"][0] == 8
    again = from_plain(whole.plain())
    assert again.tried == whole.tried and torch.equal(again.points[2], whole.points[2]) and again.by == whole.by


def test_a_method_is_measured_under_every_attack(may_fail, monkeypatch):
    """Figures by attack and by certificate, over ε; a certificate that may fail, and with it the best of all."""
    seen = []

    def curve(model, x, labels, eps_values, methods, *, broken, **options):
        radii = {"ibp": [0.1, -1, -1, -1], "crown": [-1, 0.1, -1, -1]}
        proved = {name: torch.tensor(some, dtype=torch.float64) for name, some in radii.items()}
        found = Curve(tuple(sorted(eps_values, reverse=True)), labels == 0, proved, proved, {}, {})
        found.tallies.update({eps: dict.fromkeys(methods, Tally(4, 1, 0.5)) for eps in found.eps_values})
        seen.append((tuple(methods), eps_values, options["norm"], options["sound"]))
        broken(found)
        return found

    def attack_all(model, x, labels, eps, tables, *, seed, among):
        seen.append((eps, seed, tables, among.tolist()))
        by = torch.where(among & (torch.arange(4) % 2 == 1), 1, -1)
        return SimpleNamespace(by=by, names=("pgd", "pgd along a copy"), points=x + 1, seconds={"pgd": 0.25})

    monkeypatch.setattr(module, "certify_curve", curve)
    monkeypatch.setattr(module, "attack_all", attack_all)
    recipe = recipe_from("mine", "mine.toml", TABLE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.eye(4).view(4, 1, 2, 2), torch.tensor([0, 0, 0, 1])
    found, each = evaluate(recipe, "mine", model, x, y, seed=5, progress=False)
    attacks = ({"name": "pgd", "steps": 1},)
    assert seen == [
        (("ibp", "crown"), (0.1, 0.05), math.inf, True),
        (0.05, 5, attacks, [True, True, True, False]),
        (0.1, 5, attacks, [True, False, True, False]),
    ]
    assert found.clean == 0.75 and found.attacked == {"pgd": {0.05: 0.5, 0.1: 0.5}}
    assert {name: c.failure for name, c in found.certified.items()} == {"ibp": 0, "crown": 0.25, "best": 0}
    assert found.certified["best"].accuracy == {0.05: 0.25, 0.1: 0.25}
    assert (found.contradictions, found.broken, found.broken_by) == (
        0,
        {"crown": 2},
        {"pgd along a copy": 1},
    )  # at two ε
    assert each.broken.tolist() == [NONE, 0.05, NONE, NONE] and torch.equal(each.points[1], x[1] + 1)
    assert found.attack_seconds == pytest.approx(found.seconds["pgd"])
