"""What a folder holds is kept, goes on, or is replaced when that is asked for; whatever is lost is said first."""

import dataclasses
import json
import os
import shutil

import pytest
import torch
from runs import flat, form_1

import comparisons.recipes.recipe
import comparisons.results.settings
import comparisons.running.run
import comparisons.running.train
from comparisons.cli import main
from comparisons.recipes.recipe import load_recipe
from comparisons.report.seeds import over_seeds
from comparisons.results.file import from_plain, read
from linf_plugin import checkpoint, load
from linf_plugin.datasets import SOURCES, Dataset, OtherData, load_dataset
from linf_plugin.files import WouldReplace

RECIPE = """
description = "two methods, two epochs"
dataset = "digits"
eps = 0.05
eps_values = [0.05]
certificates = ["lipschitz", "ibp"]
attack = { steps = 1, restarts = 1 }
[methods.linf-dist]
architecture = { name = "linf-mlp", width = 8, depth = 2 }
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05 }
batch_size = 512
schedule = { epochs = 2, eps = 0.1, p_end = 1 }
"""
IBP = """
[methods.ibp]
architecture = { name = "relu-mlp", width = 8, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 512
clip = 10
schedule = { epochs = 2, eps = 0.05, eps_end = 2 }
"""


class Folder:
    """A recipe, and the folder that it is run in."""

    def __init__(self, path):
        self.recipe, self.out = path / "two.toml", path / "out"

    def write(self, text: str = RECIPE + IBP) -> None:
        self.recipe.write_text(text)

    def run(self, *arguments: str) -> int:
        return main(["run", str(self.recipe), "--out", str(self.out), "--quiet", *arguments])

    @property
    def results(self) -> dict:
        return json.loads((self.out / "results.json").read_text())

    def content(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.out)): p.read_bytes() for p in sorted(self.out.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("finished"))
    folder.write()
    assert folder.run() == 0
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run."""
    shutil.copytree(finished.out, tmp_path / "out")
    copy = Folder(tmp_path)
    copy.write()
    return copy


class Trained(list):
    """The methods that were trained, in order; those in ``stop`` are interrupted after their first epoch."""

    def __init__(self, fit):
        self.fit, self.stop = fit, ()

    def __call__(self, model, loss, *args, **options):
        key = options["state_path"].name.removesuffix(".state.pt")
        self.append(key)

        def stopping(model, x, y, step):
            if step.epoch >= 1:
                raise KeyboardInterrupt
            return loss(model, x, y, step)

        return self.fit(model, stopping if key in self.stop else loss, *args, **options)


@pytest.fixture
def trained(monkeypatch):
    found = Trained(comparisons.running.train.fit)
    monkeypatch.setattr(comparisons.running.train, "fit", found)
    return found


@pytest.mark.parametrize("flags", ([], ["--resume"], ["--methods", "ibp"], ["--resume", "--force"]), ids=" ".join)
def test_a_finished_run_is_left_as_it_is(folder, trained, flags, capsys):
    before = folder.content()
    assert folder.run(*flags) == 0
    captured = capsys.readouterr()
    assert trained == [] and folder.content() == before
    assert "IBP: already in" in captured.err and "| IBP |" in captured.out


@pytest.mark.parametrize(
    "edit, reason",
    (
        (("clip = 10", "clip = 11"), "clip: 10 → 11"),
        (("batch_size = 512\nclip = 10", "batch_size = 256\nclip = 10"), "batch_size: 512 → 256"),
        (
            ('loss = { name = "ibp" }', 'loss = { name = "crown-ibp" }'),
            "loss.name: ibp → crown-ibp, loss.leak: 0.0 → none, loss.fused: none → False",
        ),
    ),
    ids=("clip", "batch_size", "loss"),
)
@pytest.mark.parametrize("flags", ([], ["--resume"]), ids=("plain", "resume"))
def test_what_an_edited_recipe_would_replace_is_said(folder, trained, edit, reason, flags, capsys):
    before = folder.content()
    folder.write((RECIPE + IBP).replace(*edit))
    assert folder.run(*flags) == 2
    error = capsys.readouterr().err
    assert f"ibp (finished, with other settings ({reason})): --force replaces it" in error and "linf-dist" not in error
    assert trained == [] and folder.content() == before


@pytest.mark.parametrize(
    "flags, reason",
    (
        (["--seed", "1"], "seed: 0 → 1"),
        (["--held-out", "0.25"], "held_out: 0.0 → 0.25"),
        (["--budget", "9s"], "budget: none → 9.0"),
        (["--data-name", "mine"], "dataset: digits → mine"),
    ),
    ids=("seed", "held-out", "budget", "data"),
)
def test_a_run_asked_for_otherwise_replaces_nothing(folder, trained, flags, reason, capsys):
    before = folder.content()
    assert folder.run(*flags) == 2
    error = capsys.readouterr().err
    assert all(f"{key} (finished, with other settings ({reason}" in error for key in ("linf-dist", "ibp"))
    assert trained == [] and folder.content() == before


def test_a_run_with_changed_settings_is_told_from_that_of_the_recipe(folder, trained, tmp_path, monkeypatch, capsys):
    before = folder.content()
    assert folder.run("--set", "methods.ibp.clip=11", "--resume") == 2
    error = capsys.readouterr().err
    assert "linf-dist (finished, with other settings (changed settings: none → methods.ibp.clip = 11))" in error
    assert (
        "ibp (finished, with other settings (changed settings: none → methods.ibp.clip = 11, clip: 10 → 11))" in error
    )
    assert folder.run("--set", "methods.ibp.clip=10", "--resume") == 0  # the recipe's own value
    assert trained == [] and folder.content() == before
    capsys.readouterr()

    monkeypatch.chdir(tmp_path)  # without --out the changes name a folder
    call = ["run", str(folder.recipe), "--epochs", "1", "--set", "methods.ibp.clip=11", "--methods", "ibp", "--quiet"]
    assert main(call) == 0 and trained == ["ibp"]
    varied = tmp_path / "results" / "two-epochs-1-ibp.clip-11"
    text = capsys.readouterr().out
    assert "(recipe `two` with `epochs = 1`, `methods.ibp.clip = 11`, seed 0)" in text.splitlines()[0]
    found = json.loads((varied / "results.json").read_text())
    lines = ["epochs = 1", "methods.ibp.clip = 11"]
    assert found["recipe"] == "two" and found["changed"] == found["methods"]["ibp"]["identity"]["changed"] == lines
    assert found["methods"]["ibp"]["training"]["epochs"] == 1
    assert load(varied / "ibp.pt")[1]["recipe"] == "two with epochs = 1, methods.ibp.clip = 11"
    assert main([*call, "--resume"]) == 0 and trained == ["ibp"]  # kept
    assert main(["run", str(folder.recipe), "--out", str(varied), "--methods", "ibp", "--resume"]) == 2
    assert "changed settings: epochs = 1, methods.ibp.clip = 11 → none" in capsys.readouterr().err
    assert main(["run", str(folder.recipe), "--out", str(varied), "--methods", "linf-dist"]) == 2
    assert (
        "has ibp of another run (changed settings: epochs = 1, methods.ibp.clip = 11 → none)" in capsys.readouterr().err
    )
    assert over_seeds([read(varied), read(folder.out)]) == ""  # never averaged with the recipe's own


def test_force_replaces_what_it_says_and_nothing_else(folder, trained, capsys):
    before, results = folder.content(), folder.results
    folder.write((RECIPE + IBP).replace("clip = 10", "clip = 11"))
    assert folder.run("--resume", "--force") == 0
    error = capsys.readouterr().err
    assert (
        "done again: ibp (finished, with other settings (clip: 10 → 11))" in error and "ℓ∞-dist net: already" in error
    )
    assert trained == ["ibp"] and list(folder.results["methods"]) == ["linf-dist", "ibp"]
    assert folder.results["methods"]["linf-dist"] == results["methods"]["linf-dist"]
    assert folder.results["methods"]["ibp"]["settings"]["method"]["clip"] == 11
    after = folder.content()
    assert after["linf-dist.pt"] == before["linf-dist.pt"] and after["ibp.pt"] != before["ibp.pt"]
    assert folder.run("--force", "--methods", "ibp") == 0 and trained == ["ibp", "ibp"]
    assert list(folder.results["methods"]) == ["linf-dist", "ibp"]


def test_a_method_is_added_and_the_others_stay(folder, trained, capsys):
    """To the recipe; and to the folder, by naming it, while another one's settings have changed."""
    folder.write(RECIPE.replace("width = 8", "width = 9") + IBP + IBP.replace("methods.ibp", "methods.crown-ibp"))
    before = folder.results["methods"]
    assert folder.run("--methods", "crown-ibp") == 0
    error = capsys.readouterr().err
    assert "linf-dist stays as it was measured, with other settings (architecture.width: 8 → 9)" in error
    folder.write(RECIPE + IBP + IBP.replace("methods.ibp", "methods.crown-ibp"))
    assert folder.run() == 0
    assert trained == ["crown-ibp"] and {key: folder.results["methods"][key] for key in before} == before
    folder.write(RECIPE)  # a recipe with fewer methods takes none away
    assert folder.run() == 0 and list(folder.results["methods"]) == ["linf-dist", "ibp", "crown-ibp"]


def test_an_interrupted_method_goes_on_or_begins_anew_when_asked(finished, tmp_path, trained, capsys):
    folder = Folder(tmp_path)
    folder.write()
    trained.stop = ("ibp",)
    assert folder.run() == 130
    before, trained.stop = folder.content(), ()
    assert folder.run() == 2
    error = capsys.readouterr().err
    assert "ibp (interrupted after 1 of 2 epochs): --resume goes on with it, --force replaces it" in error
    folder.write((RECIPE + IBP).replace("clip = 10", "clip = 11"))
    assert folder.run("--resume", "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "linf-dist (finished, with other settings (seed: 0 → 1))" in error
    assert "ibp (interrupted after 1 of 2 epochs, with other settings (clip: 10 → 11, seed: 0 → 1)): --force" in error
    assert folder.content() == before and trained == ["linf-dist", "ibp"]
    folder.write()
    assert folder.run("--resume") == 0
    one, two = (load(out / "ibp.pt")[0].state_dict() for out in (folder.out, finished.out))
    assert trained == ["linf-dist", "ibp", "ibp"] and all(torch.equal(a, two[name]) for name, a in one.items())


def test_an_interrupted_method_of_other_settings_is_replaced_by_force(tmp_path, trained, capsys):
    folder = Folder(tmp_path)
    folder.write()
    trained.stop = ("ibp",)
    assert folder.run() == 130
    trained.stop = ()
    folder.write((RECIPE + IBP).replace("clip = 10", "clip = 11"))
    assert folder.run("--resume", "--force") == 0
    assert "done again: ibp (interrupted after 1 of 2 epochs, with other settings (clip: 10" in capsys.readouterr().err
    assert folder.results["methods"]["ibp"]["settings"]["method"]["clip"] == 11
    (folder.out / "ibp.state.pt").write_text("cut")
    assert folder.run() == 0  # it is finished
    (folder.out / "ibp.pt").unlink()
    assert folder.run("--resume") == 2
    assert "ibp.state.pt cannot be read" in capsys.readouterr().err


def test_a_training_does_not_go_on_with_other_images(tmp_path, trained):
    folder = Folder(tmp_path)
    folder.write(IBP.replace("[methods", RECIPE.split("[methods")[0] + "[methods"))
    recipe, data = load_recipe(str(folder.recipe)), dataclasses.replace(load_dataset("digits"), name="mine")
    trained.stop = ("ibp",)
    with pytest.raises(KeyboardInterrupt):
        comparisons.running.run.run(recipe, data, folder.out, progress=False)
    for change, name in (({"x_train": data.x_train.flip(0)}, "images"), ({"y_train": data.y_train.flip(0)}, "labels")):
        with pytest.raises(ValueError, match=f"ibp.state.pt belongs to another run: {name}: .* there, .* here$"):
            comparisons.running.run.run(
                recipe, dataclasses.replace(data, **change), folder.out, progress=False, resume=True
            )


def test_finished_results_of_other_data_are_replaced_by_force_alone(tmp_path):
    """Of the same name."""
    folder = Folder(tmp_path)
    folder.write(RECIPE)
    recipe, data = load_recipe(str(folder.recipe)), dataclasses.replace(load_dataset("digits"), name="mine")
    comparisons.running.run.run(recipe, data, folder.out, progress=False)
    changed = dataclasses.replace(data, x_test=data.x_test.flip(0), y_test=data.y_test.flip(0))
    with pytest.raises(WouldReplace, match="finished, with other settings .test_data_sha256: [0-9a-f]*… → [0-9a-f]*…"):
        comparisons.running.run.run(recipe, changed, folder.out, progress=False)
    found = comparisons.running.run.run(recipe, changed, folder.out, progress=False, force=True)
    assert found.dataset == "mine" and found.methods["linf-dist"].data == changed.identity


def test_methods_of_another_run_do_not_stand_beside_those_of_this_one(folder, trained, capsys):
    before = folder.content()
    for flags in ([], ["--force"], ["--resume", "--force"]):
        assert folder.run("--methods", "ibp", "--seed", "1", *flags) == 2
    error = capsys.readouterr().err
    assert "results.json has linf-dist of another run (seed: 0 → 1), which cannot share a table" in error
    assert trained == [] and folder.content() == before
    folder.write(RECIPE)
    assert folder.run("--seed", "1", "--force") == 0
    assert "dropped: ibp, which is of another run (seed: 0 → 1)" in capsys.readouterr().err
    assert list(folder.results["methods"]) == ["linf-dist"] and folder.results["seed"] == 1
    assert not (folder.out / "ibp.pt").exists()


def test_figures_never_lie_beside_another_model(folder, monkeypatch):
    """A kill at each write of a run that replaces another: what the file tells of is there, all of one run."""

    def killed_at(write: int):
        count = iter(range(99))

        def replace(*paths):
            if paths[1].suffix in (".json", ".pt") and "state" not in paths[1].name and next(count) == write:
                raise KeyboardInterrupt
            return os_replace(*paths)

        return replace

    os_replace, old = os.replace, folder.results
    for write in range(4):  # results.json, linf-dist.pt, results.json, ibp.pt
        with monkeypatch.context() as patch:
            patch.setattr("linf_plugin.checkpoint.os.replace", killed_at(write))
            assert folder.run("--seed", "1", "--force") == 130
        found = folder.results
        assert {m["identity"]["seed"] for m in found["methods"].values()} <= {found["seed"]}
        for key, m in found["methods"].items():
            metadata = load(folder.out / f"{key}.pt")[1]
            assert (metadata["seed"], metadata["results"]["clean"]) == (found["seed"], m["clean"])
        assert (found == old) == (write == 0)
    assert list(folder.results["methods"]) == ["linf-dist"]
    assert folder.run("--seed", "1", "--resume") == 0 and list(folder.results["methods"]) == ["linf-dist", "ibp"]


def test_what_another_call_wrote_meanwhile_stays(folder, monkeypatch, capsys):
    """Of two calls with a method each, and of two with the same method."""
    text, evaluate = RECIPE + IBP + IBP.replace("methods.ibp", "methods.crown-ibp"), comparisons.running.run.evaluate
    (folder.out / "results.json").unlink()
    (folder.out / "linf-dist.pt").unlink()
    (folder.out / "ibp.pt").unlink()
    folder.write(text)

    def meanwhile(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(comparisons.running.run, "evaluate", evaluate)
            assert folder.run("--methods", "ibp") == 0
        return evaluate(*args, **options)

    monkeypatch.setattr(comparisons.running.run, "evaluate", meanwhile)
    assert folder.run("--methods", "linf-dist") == 0
    assert list(folder.results["methods"]) == ["linf-dist", "ibp"]
    monkeypatch.setattr(comparisons.running.run, "evaluate", evaluate)
    results = folder.results

    def same(*args, **options):
        content = folder.results
        content["methods"]["crown-ibp"] = content["methods"]["ibp"]
        (folder.out / "results.json").write_text(json.dumps(content))
        return evaluate(*args, **options)

    monkeypatch.setattr(comparisons.running.run, "evaluate", same)
    assert folder.run("--methods", "crown-ibp") == 2
    assert "has crown-ibp of another run, which wrote it meanwhile" in capsys.readouterr().err
    assert (folder.out / "crown-ibp.state.pt").exists() and not (folder.out / "crown-ibp.pt").exists()
    assert {k: m for k, m in folder.results["methods"].items() if k != "crown-ibp"} == results["methods"]


@pytest.mark.parametrize(
    "damage, reason",
    (
        (lambda out: (out / "ibp.pt").unlink(), "ibp (finished, but ibp.pt is missing)"),
        (lambda out: (out / "results.json").unlink(), "ibp (ibp.pt is there, but results.json does not mention it)"),
    ),
    ids=("checkpoint", "results"),
)
def test_half_a_result_is_not_replaced(folder, trained, damage, reason, capsys):
    damage(folder.out)
    before = folder.content()
    for flags in ([], ["--resume"]):
        assert folder.run("--methods", "ibp", *flags) == 2
        assert f"{reason}: --force replaces it" in capsys.readouterr().err
    assert trained == [] and folder.content() == before


def test_a_file_that_is_none_of_ours_is_replaced_by_force(folder, capsys):
    folder.write(RECIPE)
    (folder.out / "results.json").write_text("notes")
    assert folder.run("--force") == 0
    assert "results.json is not a results file of linf-compare" in capsys.readouterr().err
    assert list(folder.results["methods"]) == ["linf-dist"]


def test_a_data_set_goes_by_its_own_name(tmp_path, capsys):
    """Images of one's own are not taken for those that the recipe names."""
    folder = Folder(tmp_path)
    folder.write(RECIPE)
    recipe, digits = load_recipe(str(folder.recipe)), load_dataset("digits")
    parts = {name: getattr(digits, name).flip(0) for name in ("x_train", "y_train", "x_test", "y_test")}
    mine = Dataset("mine", **parts, mean=digits.mean, std=digits.std)
    with pytest.raises(OtherData, match="given as digits are not the published ones"):
        comparisons.running.run.run(recipe, dataclasses.replace(mine, name="digits"), folder.out, progress=False)
    assert not folder.out.exists()
    results = comparisons.running.run.run(recipe, mine, folder.out, progress=False)
    entry, metadata = results.methods["linf-dist"], load(folder.out / "linf-dist.pt")[1]
    assert results.dataset == entry.identity.dataset == metadata["dataset"] == "mine"
    assert entry.data == mine.identity and metadata.items() >= mine.identity.items()


# Files of earlier versions, which kept neither digests nor settings.


def of_an_earlier_version(path) -> None:
    path.write_text(json.dumps(form_1(json.loads(path.read_text()), keep=())))


def test_results_of_an_earlier_version_are_kept(folder, trained, capsys):
    of_an_earlier_version(folder.out / "results.json")
    before = folder.content()
    assert folder.run("--resume") == 0 and trained == [] and folder.content() == before
    assert capsys.readouterr().err.count("it has no digest of its data, so the data could not be compared") == 2
    folder.write((RECIPE + IBP).replace("clip = 10", "clip = 11"))
    assert folder.run("--resume") == 2
    assert "settings: they differ, and an earlier version did not store them" in capsys.readouterr().err


def test_a_file_of_an_earlier_version_takes_a_method_of_today(folder, trained):
    of_an_earlier_version(folder.out / "results.json")
    before = read(folder.out)
    folder.write(RECIPE + IBP + IBP.replace("methods.ibp", "methods.crown-ibp"))
    assert folder.run() == 0 and trained == ["crown-ibp"]
    after = read(folder.out)
    assert folder.results["schema"] == 2 and list(after.methods) == ["linf-dist", "ibp", "crown-ibp"]
    assert {key: after.methods[key] for key in before.methods} == before.methods


def _state_as_earlier(path, monkeypatch) -> None:
    """The state of a version whose recipes had flat settings."""
    content = checkpoint.read(path)
    identity = content["settings"]["identity"]
    identity["recipe"] = flat(identity["recipe"])
    checkpoint.write(path, content)


def _recipe_grew(path, monkeypatch) -> None:
    """A field that the state has never heard of."""
    for module in (comparisons.recipes.recipe, comparisons.results.settings):
        monkeypatch.setattr(module, "MethodRecipe", Wider)


@dataclasses.dataclass(frozen=True)
class Wider(comparisons.recipes.recipe.MethodRecipe):
    noise: float = 0.0


@pytest.mark.parametrize("since", (_state_as_earlier, _recipe_grew))
def test_an_interrupted_method_of_an_earlier_version_goes_on(finished, tmp_path, trained, monkeypatch, since, capsys):
    folder = Folder(tmp_path)
    folder.write(IBP.replace("[methods", RECIPE.split("[methods")[0] + "[methods"))
    trained.stop = ("ibp",)
    assert folder.run() == 130
    trained.stop = ()
    since(folder.out / "ibp.state.pt", monkeypatch)
    text = folder.recipe.read_text()
    folder.recipe.write_text(text.replace("clip = 10", "clip = 11"))
    assert folder.run("--resume") == 2
    assert "(interrupted after 1 of 2 epochs, with other settings (clip: 10 → 11))" in capsys.readouterr().err
    folder.recipe.write_text(text)
    assert folder.run("--resume") == 0 and len((folder.out / "ibp.log.jsonl").read_text().splitlines()) == 2
    one, two = (load(out / "ibp.pt")[0].state_dict() for out in (folder.out, finished.out))
    assert all(torch.equal(a, two[name]) for name, a in one.items())


def test_runs_are_averaged_by_the_digests_of_their_data(finished, tmp_path):
    """Results without digests are of published data, and so of those with the digests of these."""
    runs = []
    for seed in range(3):
        run = finished.results
        for entry in run["methods"].values():
            entry["identity"]["seed"] = seed
        runs.append(run)
    path = tmp_path / "old.json"
    path.write_text(json.dumps(runs[0]))
    of_an_earlier_version(path)
    for entry in runs[2]["methods"].values():
        entry["data"]["test_data_sha256"] = "another"
    old, (_, one, two) = read(path), map(from_plain, runs)
    assert {m.digests for r in (old, one) for m in r.methods.values()} == {SOURCES["digits"].published}
    assert "| 0, 1 |" in over_seeds([old, one, two]) and over_seeds([one, two]) == ""
