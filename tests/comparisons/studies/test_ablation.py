"""Ablations: changes reach the recipe, runs are kept and paired, the table says what the file says."""

import json
import re

import pytest

from comparisons.recipes.recipe import available as recipes
from comparisons.recipes.recipe import load_recipe
from comparisons.studies import ablation as module
from comparisons.studies.ablation import BASE, STUDY, load, merged, table
from comparisons.studies.shell import main
from linf_plugin.datasets import load_dataset
from linf_plugin.files import WouldReplace, write_json

RECIPE = """
description = "test"
dataset = "digits"
eps = 0.1
eps_values = [0.1]
certificates = ["lipschitz"]
attack = { steps = 1, restarts = 1 }

[defaults]
batch_size = 512

[methods.linf-dist]
architecture = { name = "linf-mlp", width = 16, depth = 2 }
loss = { name = "clipped-hinge", ce_first = 1.0, ce_last = 0.1 }
optimizer = { name = "distance-adam", lr = 0.05 }
schedule = { epochs = 9, eps = 0.15, p_end = 8 }
"""
ABLATION = """
recipe = "RECIPE"
method = "linf-dist"
held_out = 0.25
short = { architecture = { width = 8 }, schedule = { epochs = 2, p_end = 1 } }

[changes."p from 3"]
why = "a first p of 3"
schedule = { p_first = 3.0 }

[changes.hinge]
why = "a hinge that is not clipped"
loss = { name = "hinge" }
"""


def measure(ablation, data, out, *args, **options):
    """And writes what it saves."""
    return module.measure(ablation, data, out, *args, lambda found: write_json(out / "results.json", found), **options)


@pytest.fixture
def path(tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(RECIPE)
    path = tmp_path / "small.toml"
    path.write_text(ABLATION.replace("RECIPE", str(recipe)))
    return path


@pytest.mark.parametrize("name", module.available())
def test_ours_load(name):
    ablation = load(name)
    assert next(iter(ablation.changes)) == BASE and 0 < ablation.held_out < 1
    built = [ablation.build(change) for change in ablation.changes]
    assert len({repr(recipe) for recipe in built}) == len(built)  # each changes something


def test_a_change_is_merged_into_the_short_form(path):
    ablation = load(str(path))
    base, p, hinge = (ablation.build(c).methods["linf-dist"] for c in (BASE, "p from 3", "hinge"))
    assert base.architecture == {"name": "linf-mlp", "width": 8, "depth": 2} and base.batch_size == 512
    assert (base.schedule.epochs, base.schedule.p_end, base.schedule.eps) == (2, 1, 0.15)
    assert (base.schedule.p_first, p.schedule.p_first, p.schedule.epochs) == (8, 3, 2)
    assert hinge.loss == {"name": "hinge"} and hinge.optimizer == base.optimizer  # another loss has other arguments


def test_merged_leaves_its_arguments_alone():
    one = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(one, {"a": {"b": 4}}) == {"a": {"b": 4, "c": 2}, "d": 3}
    assert one == {"a": {"b": 1, "c": 2}, "d": 3}


def test_runs_are_measured_kept_and_tabled(path, tmp_path, monkeypatch):
    ablation, data, out = load(str(path)), load_dataset("digits"), tmp_path / "out"
    seeds, changes = [0, 1], [BASE, "p from 3"]
    results = measure(ablation, data, out, seeds, changes, progress=False)
    assert [(r["change"], r["seed"]) for r in results["runs"]] == [
        (BASE, 0),
        ("p from 3", 0),
        (BASE, 1),
        ("p from 3", 1),
    ]
    assert all(r["epochs"] == 2 and 0 <= r["certified"] <= r["clean"] <= 1 for r in results["runs"])
    assert results["images"] == 360 and json.loads((out / "results.json").read_text()) == results

    monkeypatch.setattr(module, "run", None)  # nothing is run again
    assert measure(ablation, data, out, seeds, changes, progress=False) == results

    base, change = ([r for r in results["runs"] if r["change"] == c] for c in (BASE, "p from 3"))
    gain = 50 * sum(c["certified"] - b["certified"] for b, c in zip(base, change))
    time = sum(c["train_seconds"] for c in change) / sum(b["train_seconds"] for b in base)
    row = re.search(r"^\| p from 3 \| a first p of 3 \| 2 \|.*$", table(results), re.MULTILINE).group()
    assert row.endswith(f"| {gain:+.2f} | {time:.2f} |")
    assert "standard deviation" in table(results) and "360 training images" in table(results)


def test_a_run_of_other_settings_is_made_anew(path, tmp_path):
    data, out = load_dataset("digits"), tmp_path / "out"
    measure(load(str(path)), data, out, [0], [BASE], progress=False)
    before = (out / "results.json").read_bytes()
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
    with pytest.raises(WouldReplace, match="runs of other settings: as it is, seed 0 .*schedule.epochs: 2 → 3"):
        measure(load(str(path)), data, out, [0], [BASE], progress=False)
    assert (out / "results.json").read_bytes() == before
    (run,) = measure(load(str(path)), data, out, [0], [BASE], progress=False, force=True)["runs"]
    assert run["epochs"] == 3


def test_a_run_on_other_data_is_made_anew(path, tmp_path, capsys):
    data, out, mine = load_dataset("digits"), tmp_path / "out", ["--data-name", "mine"]
    measure(load(str(path)), data, out, [0], [BASE], progress=False)
    arguments = [str(path), "--changes", BASE, "--out", str(out), "--quiet"]
    assert main(STUDY, arguments) == 0 and main(STUDY, [*arguments, *mine]) == 2
    assert "as it is, seed 0 (data.dataset: digits → mine): --force replaces it" in capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    assert results["runs"][0].pop("data") == data.identity  # as earlier versions wrote it
    (out / "results.json").write_text(json.dumps(results))
    assert main(STUDY, arguments) == 0 and "runs without a digest of their data" in capsys.readouterr().err
    assert main(STUDY, [*arguments, *mine]) == 2
    assert "as it is, seed 0 (data.dataset: digits → mine): --force replaces it" in capsys.readouterr().err


def test_an_unchanged_run_of_another_eps_is_made_anew(path, tmp_path):
    data, out, recipe = load_dataset("digits"), tmp_path / "out", tmp_path / "mine.toml"
    (before,) = measure(load(str(path)), data, out, [0], [BASE], progress=False)["runs"]
    recipe.write_text(recipe.read_text().replace("eps = 0.1\n", "eps = 0.02\n").replace("[0.1]", "[0.02]"))
    results = measure(load(str(path)), data, out, [0], [BASE], progress=False, force=True)
    assert results["eps"] == 0.02 and results["runs"][0]["certified"] > before["certified"]


def test_runs_that_are_not_described_any_more_are_dropped(path, tmp_path, capsys):
    """A table compares runs that differ in a change and nothing else."""
    data, out = load_dataset("digits"), tmp_path / "out"
    measure(load(str(path)), data, out, [0, 1], [BASE], progress=False)
    path.write_text(path.read_text().replace("epochs = 2", "epochs = 3"))
    arguments = [str(path), "--out", str(out), "--changes", "hinge", "--quiet"]
    assert main(STUDY, arguments) == 2
    assert "as it is, seed 1 (schedule.epochs: 2 → 3): --force replaces it" in capsys.readouterr().err
    assert main(STUDY, [*arguments, "--force"]) == 0
    assert "dropped: as it is, seed 1 (" in capsys.readouterr().err
    runs = json.loads((out / "results.json").read_text())["runs"]
    assert [(r["change"], r["epochs"]) for r in runs] == [("hinge", 3)]


@pytest.mark.parametrize("name", recipes())
def test_the_first_form_is_the_recipe(name):
    """With what its defaults say."""
    for key, method in load_recipe(name).methods.items():
        ablation = module.Ablation("test", name, key, 0.1, {}, {BASE: module.Change("", {})})
        assert ablation.build(BASE).methods == {key: method}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("held_out = 0.25", "held_out = 0.0", "held_out must lie in .0, 1., got 0"),
        ("held_out = 0.25", "held_out = 0", "held_out must be a float, got 0"),
        ("short = {", "short = 3 #", "short must be a dict, got 3"),
        ('method = "linf-dist"', 'method = ["linf-dist"]', "method must be a str"),
        ("[changes.hinge]", '[changes."as it is"]', "'as it is' is the name of the run without a change"),
        ("p_first = 3.0", "p_begin = 3.0", "changes.p from 3.*unknown key 'p_begin'"),
        ('why = "a first p of 3"', "", "why"),
        ("held_out", "heldout", "held_out"),
        ('"linf-dist"', '"ibp"', "has no method 'ibp'"),
        ("[changes.hinge]", "changes.hinge", "needs recipe, method"),
    ],
)
def test_mistakes_are_named(path, capsys, old, new, message):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert main(STUDY, [str(path), "--quiet"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_names_what_it_does_not_know(path, capsys, tmp_path):
    assert main(STUDY, ["nothing", "--quiet"]) == 2
    assert "no ablation or file 'nothing'; ablations: " in capsys.readouterr().err
    assert main(STUDY, [str(path), "--changes", "lr", "--quiet"]) == 2
    assert "--changes: 'lr' is not among as it is, p from 3, hinge" in capsys.readouterr().err


def test_the_command_writes_a_table(path, capsys, tmp_path):
    assert main(STUDY, [str(path), "--changes", "as it is,hinge", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert (tmp_path / "out" / "table.md").read_text() in capsys.readouterr().out
