"""What agrees with what: settings of every version, and recipes that have grown since."""

import dataclasses
import json
from pathlib import Path

import pytest
from runs import form_1

import comparisons.recipes.recipe
import comparisons.results.settings
from comparisons.methods.losses import LOSSES
from comparisons.recipes.recipe import Evaluation, MethodRecipe, load_recipe, recipe_from
from comparisons.report.seeds import over_seeds
from comparisons.results.digests import digests
from comparisons.results.file import from_plain, read, to_plain
from comparisons.results.settings import changes, filled, settings_changes, settings_of
from comparisons.running.plan import Wanted, plan
from linf_plugin.training import Schedule

DIGITS = Path(__file__).parents[2] / "early"
RECIPE = str(DIGITS / "digits.toml")
DATA = {"dataset": "digits", "train_data_sha256": "a", "test_data_sha256": "b"}
METHOD = {
    "architecture": {"name": "relu-mlp", "width": 8, "depth": 2},
    "loss": {"name": "ibp"},
    "optimizer": {"name": "adam", "lr": 1e-3},
    "batch_size": 64,
    "schedule": {"epochs": 3, "eps": 0.1},
}
TABLE = {
    "description": "",
    "dataset": "digits",
    "eps": 0.1,
    "eps_values": [0.1],
    "certificates": ["ibp"],
    "attack": {"steps": 2},
    "methods": {"ibp": METHOD},
}


def recipe(method: dict | None = None, **change):
    return recipe_from("mine", "mine.toml", {**TABLE, "methods": {"ibp": METHOD | (method or {})}, **change})


def finished(folder: Path, content: dict) -> Path:
    """A folder with these results, and a file for each model."""
    (folder / "results.json").write_text(json.dumps(content))
    for key in content["methods"]:
        (folder / f"{key}.pt").write_bytes(b"")
    return folder


# A recipe gets a new field, or a new argument, and the files are of before.


@dataclasses.dataclass(frozen=True)
class WiderMethod(MethodRecipe):
    noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class WiderEvaluation(Evaluation):
    images: int = 0


@dataclasses.dataclass(frozen=True)
class WiderSchedule(Schedule):
    warm: float = 0.0


def _wider_loss(model, schedule, kappa: float = 0.5, smooth: float = 0.0):
    raise NotImplementedError


GROWN = {  # what a recipe says to use it, and what a message says then
    "field": ({"noise": 0.5}, "noise: 0.0 → 0.5"),
    "evaluation": ({}, "evaluation.images: 0 → 7"),
    "schedule": ({"schedule": {"warm": 2.0}}, "schedule.warm: 0.0 → 2.0"),
    "loss": ({"loss": {"smooth": 0.1}}, "loss.smooth: 0.0 → 0.1"),
}


@pytest.fixture(params=GROWN)
def grown(request, monkeypatch):
    """(digits as before, with a recipe that uses what is new, message)."""
    for module in (comparisons.recipes.recipe, comparisons.results.settings):
        monkeypatch.setattr(module, "MethodRecipe", WiderMethod)
        monkeypatch.setattr(module, "Evaluation", WiderEvaluation)
        monkeypatch.setattr(module, "Schedule", WiderSchedule)
    monkeypatch.setitem(LOSSES, "interval-ce", _wider_loss)
    used, message = GROWN[request.param]
    _, table = comparisons.recipes.recipe.read_toml(RECIPE)
    table["evaluation"] = {"images": 7} if request.param == "evaluation" else {}
    table["methods"]["linf-dist-mlp"] = {
        **table["methods"]["linf-dist-mlp"],
        **{
            k: {**table["methods"]["linf-dist-mlp"].get(k, {}), **v} if isinstance(v, dict) else v
            for k, v in used.items()
        },
    }
    return load_recipe(RECIPE), recipe_from("digits", "digits.toml", table), message


def without_what_is_new(content: dict) -> dict:
    """As a version wrote it that knew nothing of it."""
    for m in content["methods"].values():
        method = m["settings"]["methods"]
        del method["noise"], method["schedule"]["warm"]
        method["loss"].pop("smooth", None)
    return content


def wanted(recipe, seed: int = 0) -> Wanted:
    return Wanted(recipe, list(recipe.methods), DATA, seed, 0.0, None)


def test_results_of_before_are_kept_and_averaged(grown, tmp_path):
    """The committed file has digests only; one of the last version has settings in the old form."""
    before, uses, message = grown
    committed = json.loads((DIGITS / "results.json").read_text())
    out = finished(tmp_path, committed)
    assert plan(wanted(before), out, resume=False, force=False).do == {}

    run = read(DIGITS)
    entries = {
        key: dataclasses.replace(
            m, identity=wanted(before, 1).identity(key), data=DATA, settings=settings_of(before, key)
        )
        for key, m in run.methods.items()
    }
    now = dataclasses.replace(run, seed=1, methods=entries)
    undated = {key: dataclasses.replace(m, data=None) for key, m in entries.items()}  # as if of the published images
    text = over_seeds([run, dataclasses.replace(now, methods=undated)])
    assert text.count("| 0, 1 |") == len(run.methods) == 4
    finished(tmp_path, without_what_is_new(form_1(to_plain(now))))
    assert plan(wanted(before, 1), out, resume=False, force=False).do == {}

    key = "linf-dist-mlp"
    assert not set(digests(uses, key)) & set(digests(before, key))
    assert wanted(uses, 1).changed(key, read(out).methods[key]) == [message]
    other = "settings: they differ, and an earlier version did not store them"
    assert wanted(uses).changed(key, run.methods[key]) == [other]


def test_what_is_new_is_in_the_digest_and_in_the_settings(grown):
    before, uses, _ = grown
    assert settings_of(before, "linf-dist") == filled(settings_of(load_recipe(RECIPE), "linf-dist"), "linf-dist")
    assert settings_of(before, "linf-dist-mlp") != settings_of(uses, "linf-dist-mlp")


# Spellings of the same.


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"kind": "ibp"}),
        ({}, {"label": "another label"}),
        ({}, {"trials": 30}),
        ({"trials": 3}, {"trials": 30}),
        ({}, {"shift": 0}),
        ({}, {"augmentation": {"name": "none"}}),
        ({}, {"augmentation": {"name": "shift-flip"}}),
        ({"shift": 1, "flip": True}, {"augmentation": {"name": "shift-flip", "shift": 1, "flip": True}}),
        ({"shift": 1}, {"augmentation": {"shift": 1, "padding": "edge"}}),
        ({}, {"initialisation": {"name": "default"}}),
        ({}, {"loss": {"name": "ibp", "kappa": 0.5}}),
        ({}, {"schedule": {"epochs": 3, "eps": 0.1, "p_first": 8, "lr_drops": []}}),
        ({}, {"clip": 0}),
    ],
    ids=str,
)
def test_the_same_in_other_words_is_the_same(one, other):
    assert settings_of(recipe(one), "ibp") == settings_of(recipe(other), "ibp")


def test_a_recipe_in_tables_is_the_recipe_in_short_forms():
    flat = {"eps_values", "certificates", "attack"}
    long = {key: value for key, value in TABLE.items() if key not in flat}
    long["evaluation"] = {"eps_values": [0.1], "certificates": ["ibp"], "attacks": [{"name": "pgd", "steps": 2}]}
    there = recipe_from("mine", "mine.toml", long)
    assert there == recipe() and digests(there, "ibp") == digests(recipe(), "ibp")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"clip": 11}, "clip: 0.0 → 11"),
        ({"augmentation": {"name": "shift-flip", "shift": 2}}, "augmentation.name: none → shift-flip"),
        ({"initialisation": {"name": "interval"}}, "initialisation.name: default → interval"),
        ({"loss": {"name": "ibp", "kappa": 0.25}}, "loss.kappa: 0.5 → 0.25"),
        ({"schedule": {"epochs": 4, "eps": 0.1}}, "schedule.epochs: 3 → 4"),
    ],
)
def test_what_differs_is_said_and_changes_the_digest(change, line):
    one, other = recipe(), recipe(change)
    assert line in changes(settings_of(one, "ibp"), settings_of(other, "ibp"))
    assert digests(one, "ibp")[0] != digests(other, "ibp")[0]


def test_the_kind_of_a_method_is_in_its_digest():
    """Two methods of one table; and one that changes its kind only."""
    free = recipe_from("mine", "mine.toml", TABLE | {"methods": {"a": METHOD | {"kind": "ibp"}}})
    other = recipe_from("mine", "mine.toml", TABLE | {"methods": {"a": METHOD | {"kind": "crown-ibp"}}})
    assert digests(free, "a")[0] != digests(other, "a")[0] != digests(recipe(), "ibp")[0]
    assert "kind: ibp → crown-ibp" in changes(settings_of(free, "a"), settings_of(other, "a"))


def test_attacks_are_in_the_settings(monkeypatch):
    from comparisons.attacks.attack import ATTACKS

    monkeypatch.setitem(ATTACKS, "second", ATTACKS["pgd"])
    both = {"attacks": [{"name": "pgd", "steps": 2}, {"name": "second", "steps": 2}]}
    table = {key: value for key, value in TABLE.items() if key != "attack"} | {"evaluation": both}
    one, two = recipe(), recipe_from("mine", "mine.toml", table)
    assert digests(one, "ibp")[0] != digests(two, "ibp")[0] and digests(two, "ibp")[1:] == []
    assert any("evaluation.attacks" in line for line in changes(settings_of(one, "ibp"), settings_of(two, "ibp")))


def test_settings_of_an_earlier_version_are_those_of_today():
    now = {"name": "mine", **{k: v for k, v in settings_of(recipe({"shift": 1}), "ibp").items() if k != "name"}}
    content = {"schema": 2, "norm": "linf", "attacks": {"pgd": {"arguments": {}}}}
    entry = {"settings": now, "training": {}, "attacked": {"pgd": {}}, "certified": {}, "kind": "ibp", "broken": {}}
    old = form_1({**content, "methods": {"ibp": {**entry, "identity": {}}}})["methods"]["ibp"]["settings"]
    assert old["methods"]["shift"] == 1 and old["attack"]["steps"] == 2 and "evaluation" not in old
    assert filled(old, "ibp") == now == filled(now, "ibp")


@pytest.mark.parametrize(
    "nonsense",
    [
        {},
        {"method": 3},
        {"methods": []},
        {"evaluation": 1, "method": {"loss": {"name": []}}},
        {"attack": {}, "evaluation": {"attacks": 3}},
    ],
    ids=str,
)
def test_settings_that_are_nonsense_are_other_settings(nonsense):
    assert settings_changes(nonsense, recipe(), "ibp") and not settings_changes(
        settings_of(recipe(), "ibp"), recipe(), "ibp"
    )


def test_an_unknown_name_stays_as_it_is():
    """Of a version that had it; nothing is filled in and nothing fails."""
    now = settings_of(recipe(), "ibp")
    old = {**now, "method": {**now["method"], "loss": {"name": "gone", "width": 1}}}
    assert filled(old, "ibp")["method"]["loss"] == {"name": "gone", "width": 1}
    assert "loss.name: gone → ibp" in changes(filled(old, "ibp"), now)


def test_digests_of_today_are_those_of_the_last_versions():
    """Of a recipe that uses nothing new: frozen figures."""
    assert digests(load_recipe(RECIPE), "linf-dist") == [
        "a991e2ff94810a89e35b283590ed6a70debfdc875d5e1c265d8a6040c3de9476",
        json.loads((DIGITS / "results.json").read_text())["methods"]["linf-dist"]["identity"]["settings"],
    ]


def test_from_plain_and_back_keeps_the_identity():
    run = read(DIGITS)
    one = dataclasses.replace(run.methods["ibp"], identity=wanted(load_recipe(RECIPE)).identity("ibp"))
    again = from_plain(to_plain(dataclasses.replace(run, methods={"ibp": one})))
    assert again.methods["ibp"].identity == one.identity and len(one.identity.earlier) == 1


def test_a_recipe_that_asks_verifiers_has_other_settings():
    """And one that does not ask has those of before, digest and all."""
    plain, asking = recipe(), recipe(verify={"methods": ["exact"], "samples": 5})
    theirs = settings_of(asking, "ibp")
    assert changes(theirs, settings_of(asking, "ibp")) == settings_changes(theirs, asking, "ibp") == []
    del theirs["evaluation"]["verify"]["memory"]  # as an earlier version would have it, that lacked it
    assert settings_changes(theirs, asking, "ibp") == []
    (line,) = settings_changes(settings_of(plain, "ibp"), asking, "ibp")
    assert line.startswith("evaluation.verify: none → ")
    old = settings_of(plain, "ibp")
    del old["evaluation"]["verify"]
    assert settings_changes(old, plain, "ibp") == []
    assert digests(plain, "ibp")[0] != digests(asking, "ibp")[0] and len(digests(asking, "ibp")) == 1
