"""Searches of settings: their trials, their front, how they go on, what they refuse; and that no test image is used."""

import dataclasses
import json
import math
from types import SimpleNamespace

import pytest
import torch

from comparisons.cli import main
from comparisons.recipes.recipe import load_recipe
from comparisons.results import trials
from comparisons.results.file import read
from comparisons.running import run, search
from comparisons.running.contradiction import Contradiction
from comparisons.running.failures import MethodsFailed
from comparisons.running.journal import AT_RANDOM
from linf_plugin.datasets import load_dataset
from linf_plugin.files import WouldReplace

RECIPE = """
description = "one small net"
dataset = "digits"
eps = 0.05
eps_values = [0.02, 0.05]
certificates = ["ibp"]
attack = { steps = 1, restarts = 1 }
[verify]
methods = ["exact"]
[defaults]
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 256
[methods.mine]
kind = "ibp"
architecture = { name = "relu-mlp", width = 6, depth = 1 }
loss = { name = "ibp", kappa = 0.5 }
schedule = { epochs = 2, eps = 0.05, eps_end = 1 }
[methods.bare]
kind = "ibp"
architecture = { name = "relu-mlp", width = 6, depth = 1 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 0.0 }
schedule = { epochs = 2, eps = 0.0 }
"""
VARIED = {"optimizer.lr", "schedule.eps", "loss.kappa"}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def data():
    return load_dataset("digits")


@pytest.fixture
def quick(monkeypatch):
    """Each training is a formula.  The list has what was asked for: (recipe, folder, options)."""
    asked = []

    def fake(varied, data, out, **options):
        asked.append((varied, out, options))
        m = varied.methods["mine"]
        lr, eps, kappa = m.optimizer["lr"], m.schedule.eps, m.loss["kappa"]
        clean = round(0.9 - eps - abs(math.log(lr / 3e-3)) / 10 + kappa / 10, 2)
        certified = round(0.5 + eps - (eps - 0.05) ** 2 * 100 - kappa / 5, 2)
        found = SimpleNamespace(
            clean=clean, proved=lambda eps: certified, training=SimpleNamespace(seconds=float(len(asked)))
        )
        return SimpleNamespace(methods={"mine": found})

    monkeypatch.setattr(search, "run", fake)
    return asked


def do(recipe, data, out, trials=4, **options):
    return search.search(str(recipe), "mine", data, out, trials=trials, progress=False, **options)


def test_the_first_trial_has_the_settings_of_the_recipe(recipe, data, tmp_path, quick):
    found = do(recipe, data, tmp_path / "out", trials=AT_RANDOM + 2)
    assert [trial.number for trial in found.trials] == list(range(AT_RANDOM + 2)) and found.failed == 0
    assert found.trials[0].settings == {"optimizer.lr": 3e-3, "schedule.eps": 0.05, "loss.kappa": 0.5}
    assert quick[0][0].changed == () and quick[0][0].methods["mine"] == load_recipe(str(recipe)).methods["mine"]
    assert len({tuple(trial.settings.values()) for trial in found.trials}) == AT_RANDOM + 2
    for trial, (varied, out, options) in zip(found.trials, quick):
        m = varied.methods["mine"]
        assert set(trial.settings) == VARIED and options["methods"] == ["mine"]
        assert (m.optimizer["lr"], m.schedule.eps, m.loss["kappa"]) == tuple(trial.settings[path] for path in (
            "optimizer.lr", "schedule.eps", "loss.kappa"
        ))  # fmt: skip
        assert (
            3e-3 / 4 <= m.optimizer["lr"] <= 3e-3 * 4 and 0.04 <= m.schedule.eps <= 0.075 and 0 <= m.loss["kappa"] <= 1
        )
        assert out == tmp_path / "out" / f"trial-{trial.number:04}" and options["held_out"] == 0.1
        assert varied.evaluation.verify is None and varied.evaluation.eps_values == (0.05,)


def by_brute_force(found) -> list[int]:
    def beats(a, b):
        return a.clean >= b.clean and a.certified >= b.certified and (a.clean, a.certified) != (b.clean, b.certified)

    return [t.number for t in found.trials if not any(beats(other, t) for other in found.trials)]


@pytest.mark.parametrize("seed", range(3))
def test_the_front_has_what_no_other_trial_beats(seed, recipe, data, tmp_path, quick):
    found = do(recipe, data, tmp_path / "out", trials=25, seed=seed)
    assert list(found.front) == by_brute_force(found) and 1 < len(found.front) < 25


def test_equal_calls_have_equal_trials_and_another_seed_has_others(recipe, data, tmp_path, quick):
    first, second, other = (
        do(recipe, data, tmp_path / name, trials=12, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert [t.settings for t in first.trials] == [t.settings for t in second.trials]
    assert [t.settings for t in first.trials[1:]] != [t.settings for t in other.trials[1:]]


def test_a_search_goes_on_as_without_an_interruption(recipe, data, tmp_path, quick, monkeypatch):
    """Stopped between trials, before the estimator chooses and after; and within a trial, which is then finished."""
    whole = do(recipe, data, tmp_path / "whole", trials=14)
    for count in (3, 9):
        do(recipe, data, tmp_path / "parts", trials=count, resume=True)
    fake = search.run

    def interrupted(*arguments, **options):
        fake(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(search, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        do(recipe, data, tmp_path / "parts", trials=14, resume=True)
    stopped = quick[-1]
    monkeypatch.setattr(search, "run", fake)
    parts = do(recipe, data, tmp_path / "parts", trials=14, resume=True)
    assert [(t.number, t.settings) for t in parts.trials] == [(t.number, t.settings) for t in whole.trials]
    again = quick[quick.index(stopped) + 1]
    assert again[:2] == stopped[:2] and again[2]["resume"] and parts.front == whole.front
    count = len(quick)
    assert do(recipe, data, tmp_path / "parts", trials=5, resume=True) == parts and len(quick) == count


def test_a_search_that_is_there_stays(recipe, data, tmp_path, quick):
    out = tmp_path / "out"
    do(recipe, data, out)
    journal = (out / "search.journal").read_bytes()

    def refused(words, **options):
        with pytest.raises(WouldReplace) as error:
            do(recipe, data, out, **options)
        assert str(out / "search.journal") + words == error.value.with_flags()
        assert (out / "search.journal").read_bytes() == journal

    refused(" exists: --resume goes on with it, --force replaces it")
    for options, words in (
        ({"epochs": 3}, "(settings.method.schedule.eps_end: 1 → 1.5, settings.method.schedule.epochs: 2 → 3)"),
        ({"held_out": 0.2}, "held_out: 0.1 → 0.2"),
        ({"seed": 3}, "seed: 0 → 3"),
        ({"settings": ["eps=0.06", "eps_values=[0.02, 0.06]"]}, "settings.eps: 0.05 → 0.06, settings."),
        ({"vary": [("loss.kappa", 0.1, 0.9, False)]}, "vary.optimizer.lr: [0.00075, 0.012, True] → none, "),
    ):
        for resume in (True, False):
            with pytest.raises(WouldReplace) as error:
                do(recipe, data, out, resume=resume, **options)
            assert "exists, and is of another search (" in str(error.value) and words in str(error.value)
            assert error.value.with_flags().endswith("): --force replaces it")
    others = dataclasses.replace(data, name="mine", x_train=data.x_train[:-1], y_train=data.y_train[:-1])
    with pytest.raises(WouldReplace, match=r"another search \(data\.dataset: digits → mine, data\."):
        do(recipe, others, out, resume=True)
    assert (out / "search.journal").read_bytes() == journal


def test_force_replaces_a_search_with_all_its_trials(recipe, data, tmp_path, quick):
    out = tmp_path / "out"
    do(recipe, data, out, trials=6)
    for name in ("trial-0005/results.json", "mine/results.json", "trial-x/a", "search.md"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("there")
    assert len(do(recipe, data, out, trials=2, force=True).trials) == 2
    assert not (out / "trial-0005").exists() and not (out / "search.md").exists()
    assert (out / "mine").exists() and (out / "trial-x").exists()  # no search wrote them
    assert len(do(recipe, data, out, trials=3, resume=True, force=True).trials) == 3  # it goes on: nothing is replaced
    assert len(do(recipe, data, out, trials=1, epochs=3, resume=True, force=True).trials) == 1


@pytest.mark.parametrize("text", ["nonsense\n", "", '{"a": 1}\n'])
def test_a_journal_of_something_else_is_refused(text, recipe, data, tmp_path, quick):
    (tmp_path / "search.journal").write_text(text)
    with pytest.raises(WouldReplace, match=r"search\.journal exists, and is damaged or not the journal of a search"):
        do(recipe, data, tmp_path, resume=True)
    assert (tmp_path / "search.journal").read_text() == text
    assert len(do(recipe, data, tmp_path, force=True).trials) == 4


def test_a_trial_that_fails_does_not_stop_the_others(recipe, data, tmp_path, quick, monkeypatch, capsys):
    fake = search.run

    def failing(*arguments, **options):
        fake(*arguments, **options)
        if len(quick) == 2:
            raise ValueError("wrong settings")
        if len(quick) == 4:
            raise MethodsFailed({"mine": FloatingPointError("the loss is nan")}, None)
        return fake(*arguments, **options)

    monkeypatch.setattr(search, "run", lambda *a, **o: failing(*a, **o) if len(quick) in (1, 3) else fake(*a, **o))
    found = do(recipe, data, tmp_path / "out", trials=6)
    assert found.failed == 2 and [t.number for t in found.trials] == [0, 2, 4, 5]
    error = capsys.readouterr().err
    assert "trial 1 failed: wrong settings\n" in error and "trial 3 failed: the loss is nan\n" in error
    assert found == trials.read(tmp_path / "out" / "search.json") and list(found.front) == by_brute_force(found)
    assert len(do(recipe, data, tmp_path / "out", trials=7, resume=True).trials) == 5


@pytest.mark.parametrize(
    "error, raised",
    [
        (Contradiction("a bound is wrong", ()), Contradiction),
        (MethodsFailed({"mine": ImportError("art is not installed")}, None), ImportError),
        (OSError("the disk is full"), OSError),
    ],
    ids=["contradiction", "package", "disk"],
)
def test_what_would_stop_a_run_stops_a_search(error, raised, recipe, data, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(search, "run", failing)
    with pytest.raises(raised):
        do(recipe, data, tmp_path / "out")


def test_a_contradiction_ends_the_command_with_one_line(recipe, tmp_path, monkeypatch, capsys):
    def failing(*_, **__):
        raise Contradiction("mine: sample 3 is certified and broken", ())

    monkeypatch.setattr(search, "run", failing)
    assert main(["search", str(recipe), "--method", "mine", "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "linf-compare: mine: sample 3 is certified and broken\n"


@pytest.mark.parametrize(
    "options, words",
    [
        ({"vary": [("loss.kappa", 0.6, 1.0, False)]}, "loss.kappa: 0.6..1 must contain 0.5, the value of the recipe"),
        ({"vary": [("loss.kappa", 0.0, 1.5, False)]}, "kappa must lie in [0, 1], got 1.5"),
        ({"vary": [("schedule.eps", 0.0, 1.5, False)]}, "eps must lie in the pixel range [0, 1]"),
        ({"vary": [("schedule.epochs", 1.0, 9.0, False)]}, "epochs must be a whole number"),
        (
            {"vary": [("loss.width", 0.0, 1.0, False)]},
            "loss.width is no number that the recipe gives for mine; it gives ",
        ),
        (
            {"vary": [("batch_size", 1.0, 512.0, False)]},
            "batch_size is no number that the recipe gives for mine; it gives",
        ),
        ({"vary": [("loss.name", 0.0, 1.0, False)]}, "loss.kappa, optimizer.lr, schedule.epochs, schedule.eps"),
        ({"vary": [("loss.kappa", 0.0, 1.0, False)] * 2}, "loss.kappa is varied twice"),
        ({"held_out": 0.0}, "held_out must lie in (0, 1), got 0.0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"trials": 0}, "trials must be at least 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_searched_is_refused_before_any_work(options, words, recipe, data, tmp_path, quick):
    with pytest.raises(ValueError) as error:
        do(recipe, data, tmp_path / "out", **options)
    assert words in str(error.value) and not quick and not (tmp_path / "out").exists()


def test_a_method_without_settings_to_vary_is_named(recipe, data, tmp_path):
    with pytest.raises(ValueError, match="bare has no setting that a search varies by itself: name some with --vary"):
        search.search(str(recipe), "bare", data, tmp_path / "out", trials=2)
    with pytest.raises(ValueError, match="method must be one of mine, bare, got 'his'"):
        search.search(str(recipe), "his", data, tmp_path / "out", trials=2)


def command(recipe, out, *more) -> list[str]:
    return ["search", str(recipe), "--method", "mine", "--out", str(out), "--quiet", *map(str, more)]


def test_the_command_searches_on_held_out_images(recipe, data, tmp_path, capsys, monkeypatch):
    """With real trainings: what is measured, written and printed; and which images the nets see."""
    out, seen, evaluate = tmp_path / "out", [], run.evaluate

    def recorded(recipe, key, model, x, y, **options):
        seen.append(x)
        return evaluate(recipe, key, model, x, y, **options)

    monkeypatch.setattr(run, "evaluate", recorded)
    vary = ["--vary", "loss.kappa=1/4..3/4", "--vary", "optimizer.lr=1e-3..1e-2:log"]
    assert main(command(recipe, out, "--trials", 2, "--held-out", 0.2, *vary)) == 0
    train = {image.numpy().tobytes() for image in data.x_train}
    assert len(seen) == 2 and all(image.numpy().tobytes() in train for x in seen for image in x)
    found, printed = trials.read(out / "search.json"), capsys.readouterr()
    assert (found.recipe, found.method, found.eps, found.held_out, found.seed) == ("one", "mine", 0.05, 0.2, 0)
    for trial in found.trials:
        results = read(out / f"trial-{trial.number:04}")
        m = results.methods["mine"]
        assert results.held_out == 0.2 and results.test_samples == len(seen[0]) == 288
        assert (m.clean, m.proved(0.05), m.training.seconds) == (trial.clean, trial.certified, trial.seconds)
        assert (
            m.settings["method"]["loss"]["kappa"] == trial.settings["loss.kappa"]
            and 0.25 <= trial.settings["loss.kappa"] <= 0.75
        )
        assert m.verification is None
    assert set(found.trials[1].settings) == {"loss.kappa", "optimizer.lr"}
    text = (out / "search.md").read_text()
    assert text in printed.out and "(20 % " not in text and "20 % of the training set" in text
    assert (out / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "trial 0: clean " in printed.err and "trial 1: clean " in printed.err
    assert main(command(recipe, out, "--trials", 3, "--held-out", 0.2, *vary)) == 2
    assert f"{out / 'search.journal'} exists: --resume goes on with it, --force replaces it" in capsys.readouterr().err
    assert main(command(recipe, out, "--trials", 3, "--held-out", 0.2, *vary, "--resume")) == 0
    assert len(seen) == 3 and trials.read(out / "search.json").trials[:2] == found.trials
    assert torch.equal(seen[2], seen[0])


def test_a_search_without_a_good_trial_fails(recipe, tmp_path, monkeypatch, capsys):
    def failing(*_, **__):
        raise ValueError("no")

    monkeypatch.setattr(search, "run", failing)
    assert main(command(recipe, tmp_path / "out", "--trials", 2)) == 1
    error = capsys.readouterr().err.splitlines()
    assert error == ["trial 0 failed: no", "trial 1 failed: no", "linf-compare: all 2 trials failed; there is no front"]
    assert json.loads((tmp_path / "out" / "search.json").read_text())["trials"] == []


def test_the_folder_has_the_changed_settings_in_its_name(recipe, tmp_path, monkeypatch, quick):
    monkeypatch.chdir(tmp_path)
    line = ["search", "one.toml", "--method", "mine", "--trials", "1", "--quiet", "--epochs", "3"]
    assert main(line) == 0 and (tmp_path / "results" / "one-epochs-3-search-mine" / "search.md").exists()
