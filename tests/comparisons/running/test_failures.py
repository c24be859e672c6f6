"""A method that fails leaves the results of the others, and the end says which failed and why."""

import dataclasses

import pytest

import comparisons.running.measure
import comparisons.running.run
from comparisons.cli import main
from comparisons.recipes.recipe import recipe_from
from comparisons.results.file import read
from comparisons.running.failures import MethodsFailed
from comparisons.running.run import run
from linf_plugin import extras
from linf_plugin.datasets import load_dataset

METHOD = """
[methods.{name}]
kind = "ibp"
architecture = {{ name = "relu-mlp", width = 6, depth = 1 }}
loss = {{ name = "ibp" }}
optimizer = {{ name = "adam", lr = 3e-3 }}
batch_size = 512
schedule = {{ epochs = 3, eps = 0.05, eps_end = 2 }}
"""
RECIPE = """
description = "three methods"
dataset = "digits"
eps = 0.05
eps_values = [0.05]
certificates = ["ibp"]
attack = { steps = 1, restarts = 1 }
""" + "".join(METHOD.format(name=name) for name in ("first", "second", "third"))


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs the recipe; errors: method → what its training raises."""
    (tmp_path / "three.toml").write_text(RECIPE)
    errors, train = {}, comparisons.running.run.train

    def failing(wanted, key, *args, **options):
        if key in errors:
            raise errors[key]
        return train(wanted, key, *args, **options)

    monkeypatch.setattr(comparisons.running.run, "train", failing)

    def run_it(*flags, **failures):
        errors.clear()
        errors.update(failures)
        return main(["run", str(tmp_path / "three.toml"), "--out", str(tmp_path / "out"), "--quiet", *flags])

    return run_it


def test_the_others_go_on_and_the_end_names_what_failed(call, tmp_path, capsys):
    nan = FloatingPointError("the loss is nan in epoch 2")
    assert call(first=nan, third=KeyError("x")) == 1
    out, error = capsys.readouterr()
    assert list(read(tmp_path / "out").methods) == ["second"]
    assert error.splitlines() == [
        "linf-compare: first failed: the loss is nan in epoch 2",
        "linf-compare: third failed: KeyError: 'x'",
    ]
    assert "| IBP (second) |" in out and "second.pt" in out and "first.pt" not in out
    assert call("--resume") == 0 and list(read(tmp_path / "out").methods) == ["first", "second", "third"]


def test_a_missing_package_names_the_extra_that_brings_it(call, tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'art'", name="art")

    real = comparisons.running.measure.attack_all
    monkeypatch.setattr(extras, "_installed", lambda package: package != "art")
    monkeypatch.setattr(comparisons.running.measure, "attack_all", missing)
    assert call("--methods", "first") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "linf-compare: first is not available: adversarial-robustness-toolbox is not installed: pip "
    )
    assert "linf-plugin[compare]" in line and not (tmp_path / "out/results.json").exists()
    monkeypatch.setattr(comparisons.running.measure, "attack_all", real)
    assert call("--methods", "first", "--resume") == 0


def test_wrong_settings_of_all_methods_are_a_wrong_request(call, tmp_path, capsys):
    assert call(first=ValueError("a budget is too short"), second=TypeError("b"), third=ValueError("c")) == 2
    assert capsys.readouterr().err == "linf-compare: error: a budget is too short\n"


def test_a_full_disk_stops_the_run(call, tmp_path, capsys):
    assert call(first=OSError(28, "No space left on device")) == 2
    assert "No space left" in capsys.readouterr().err and not (tmp_path / "out/results.json").exists()


def test_from_python_the_error_has_the_results(call, tmp_path, monkeypatch):
    import tomllib

    recipe = recipe_from("three", "three.toml", tomllib.loads(RECIPE))
    train = comparisons.running.run.train

    def failing(wanted, key, *args, **options):
        if key == "second":
            raise FloatingPointError("nan")
        return train(wanted, key, *args, **options)

    monkeypatch.setattr(comparisons.running.run, "train", failing)
    with pytest.raises(MethodsFailed, match="second failed: nan") as caught:
        run(recipe, load_dataset("digits"), tmp_path / "out", progress=False)
    assert list(caught.value.failures) == ["second"] and list(caught.value.results.methods) == ["first", "third"]
    found = read(tmp_path / "out")
    assert dataclasses.replace(found, methods={}) == dataclasses.replace(caught.value.results, methods={})
