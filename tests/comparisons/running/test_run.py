"""The whole harness on a few digits: what it writes, resuming, the command line."""

import dataclasses
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import comparisons.running.measure
import comparisons.running.run
import comparisons.running.train
from comparisons.certificates import of_norm
from comparisons.cli import main
from comparisons.methods.kinds import METHODS, certificates_of
from comparisons.methods.optimizers import OPTIMIZERS
from comparisons.recipes.recipe import load_recipe
from comparisons.report.seeds import over_seeds
from comparisons.report.tables import table
from comparisons.results import samples
from comparisons.results.file import from_plain, read
from comparisons.running.machine import commit, processor_name
from comparisons.verifiers.complete import COMPLETE
from linf_plugin import load, margin
from linf_plugin.certificates.cascade import certify
from linf_plugin.certificates.table import CERTIFICATES, Certificate
from linf_plugin.datasets import hold_out, load_dataset
from linf_plugin.training import budgets

pytestmark = pytest.mark.usefixtures("few_alpha_steps")

TINY = """
description = "a few epochs of everything"
dataset = "digits"
eps = 0.05
eps_values = [0.02, 0.05]
certificates = ["lipschitz", "ibp", "crown-ibp", "crown"]
attack = { steps = 2, restarts = 1 }
[methods.linf-dist]
architecture = { name = "linf-mlp", width = 16, depth = 2 }
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }
batch_size = 64
select = 0.2
average = 0.9
validate_every = 3
schedule = { epochs = 15, eps = 0.1, p_end = 13 }
[methods.linf-dist-mlp]
architecture = { name = "linf-mlp-head", width = 16, depth = 1, hidden = 12 }
loss = { name = "interval-ce" }
optimizer = { name = "distance-adam", lr = 0.03, head_decay = 0.01 }
batch_size = 128
decay = 0.005
select = 0.25
schedule = { epochs = 6, eps = 0.05, p_end = 5, eps_end = 4 }
[methods.sortnet]
architecture = { name = "sortnet-mlp", width = 16, depth = 2, rho = 0.7 }
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }
batch_size = 64
schedule = { epochs = 15, eps = 0.1, p_end = 13 }
[methods.ibp]
architecture = { name = "relu-mlp", width = 24, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 128
clip = 10
select = 0.2
validate_every = 2
schedule = { epochs = 6, eps = 0.05, eps_end = 4 }
[methods.crown-ibp]
architecture = { name = "relu-mlp", width = 24, depth = 2 }
loss = { name = "crown-ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 128
schedule = { epochs = 6, eps = 0.05, eps_end = 4 }
"""


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def out(recipe_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    assert main(["run", str(recipe_path), "--out", str(folder), "--quiet", "--seed", "3"]) == 0
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_results_have_every_field(out):
    r = results(out)
    assert (r["schema"], r["norm"]) == (2, "linf")
    assert r["attacks"] == {"pgd": {"norm": "linf", "arguments": {"steps": 2, "restarts": 1}}}
    assert (r["dataset"], r["eps"], r["seed"], r["test_samples"]) == ("digits", 0.05, 3, 360)
    assert {"torch", "auto_LiRPA", "linf-plugin"} <= set(r["versions"]) and r["device"].startswith(("cpu", "cuda"))
    assert list(r["methods"]) == ["linf-dist", "linf-dist-mlp", "sortnet", "ibp", "crown-ibp"]
    for key, m in r["methods"].items():
        assert m["kind"] == key and set(m["attacked"]) == {"pgd"}
        pgd, t = m["attacked"]["pgd"], m["training"]
        assert 0 < m["clean"] <= 1 and set(pgd) == {"0.02", "0.05"}
        asked = [c for c in of_norm(certificates_of(key), math.inf) if c != "alpha-crown"]  # as the recipe does
        assert set(m["certified"]) == {*asked, "best"}
        assert all((c["norm"], c["failure"]) == ("linf", 0) for c in m["certified"].values())
        for eps in pgd:
            best = m["certified"]["best"]["accuracy"][eps]
            assert max(m["certified"][c]["accuracy"][eps] for c in asked) <= best <= pgd[eps] <= m["clean"]
        assert m["contradictions"] == 0 and m["broken"] == {}
        assert m["parameters"] > 0 and m["pairs_per_sample"] > 0
        assert t["seconds_per_epoch"] > 0 and m["certify_seconds"] > 0 and t["epochs"] in (6, 15)
        assert t["schedule"]["epochs"] == t["epochs"] == len(t["loss"]) and t["images_per_second"] > 0
        assert t["seconds"] >= t["epochs"] * t["seconds_per_epoch"] and t["peak_memory_mib"] > 0


def test_results_are_a_record_of_how_they_came_about(out):
    for key, m in read(out).methods.items():
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", m.date) and m.processor == processor_name()
        assert m.commit == commit() and m.versions["linf-plugin"] and m.data == load_dataset("digits").identity
        assert m.settings["method"]["optimizer"]["name"] in OPTIMIZERS
        spec = load(out / f"{key}.pt")[0].spec
        assert [name for name, _ in m.architecture["layers"]] == [name for name, _ in spec["layers"]]
        assert json.loads(json.dumps(m.architecture, allow_nan=False)) == m.architecture
        assert set(m.seconds) == {*m.certified, "pgd"} - {"best"} and all(s >= 0 for s in m.seconds.values())
        assert m.seconds["pgd"] == pytest.approx(m.attack_seconds)
        assert 0 < sum(m.seconds.values()) <= m.certify_seconds + m.attack_seconds + 1e-6


def test_a_part_of_the_training_set_chooses_the_model(out, recipe_path):
    """Which epochs were measured, which model was kept, and that its figures are those of the images held back."""
    data = load_dataset("digits")
    measured = {key: m["training"] for key, m in results(out)["methods"].items()}
    assert [v["epoch"] for v in measured["linf-dist"]["validation"]] == [2, 5, 8, 11, 14]
    assert [v["epoch"] for v in measured["ibp"]["validation"]] == [1, 3, 5]
    assert [v["epoch"] for v in measured["linf-dist-mlp"]["validation"]] == list(range(6))
    for key, m in measured.items():
        select = load_recipe(str(recipe_path)).methods[key].select
        assert m["select"] == select
        if not select:
            assert "chosen" not in m and m["validation"] == []
            continue
        chosen = m["chosen"]
        everything = [(v["epoch"], w, f) for v in m["validation"] for w, f in v.items() if w != "epoch"]
        assert (chosen["epoch"], chosen["weights"], {k: chosen[k] for k in ("certified", "clean")}) in everything
        assert chosen["certified"] == max(f["certified"] for _, _, f in everything) > 0
        assert {w for _, w, _ in everything} == ({"last", "average"} if key == "linf-dist" else {"last"})
        held, model = hold_out(data, select), load(out / f"{key}.pt")[0]
        clean = (model(held.x_test).argmax(1) == held.y_test).double().mean().item()
        assert clean == chosen["clean"]
        name = "lipschitz" if key == "linf-dist" else "ibp"
        proved = certify(model, held.x_test, held.y_test, 0.05, [name]).certified.double().mean().item()
        assert proved == pytest.approx(chosen["certified"], abs=0.01)  # that one covers rounding too


def test_each_method_has_one_row_a_sample_and_some_points(out):
    data, r = load_dataset("digits"), read(out)
    for key, m in r.methods.items():
        rows, model = samples.read(out / m.samples), load(out / f"{key}.pt")[0]
        assert m.samples == f"{key}.samples.csv" and rows.frame["sample"].tolist() == list(range(360))
        assert rows.frame["label"].tolist() == data.y_test.tolist()
        assert set(rows.certificates) == set(m.certified)
        z = model(data.x_test).detach()
        assert (z.argmax(1).numpy() == rows.frame["prediction"]).mean() == 1
        np.testing.assert_allclose(rows.frame["margin"], margin(z, data.y_test), rtol=1e-4, atol=1e-5)
        assert (rows.survives(0.0)).mean() == m.clean
        for eps in r.eps_values:
            assert rows.survives(eps).mean() == m.attacked["pgd"][eps]
            for name, certified in m.certified.items():
                assert rows.certified(eps, name).mean() == certified.accuracy[eps], name
        broken = rows.frame["broken_by"].isin(["", "clean"])
        assert sum(m.broken_by.values()) == (~broken).sum() == round(360 * (m.clean - m.attacked["pgd"][0.05]))
        if "lipschitz" in m.certified:
            assert not set(rows.radius("lipschitz")) <= {0.0, 0.02, 0.05}  # the radius itself
        points = samples.read_points(out / m.points)
        assert 0 < len(points["sample"]) <= 24 and (points["eps"] <= 0.05).all()
        assert (np.abs(points["adversarial"].astype(float) - points["x"]).max((1, 2, 3)) <= points["eps"]).all()
        assert np.array_equal(points["x"], data.x_test[points["sample"]])
        moved = model(torch.tensor(points["adversarial"])).argmax(1)
        assert (moved != data.y_test[points["sample"]]).all()


def test_every_epoch_is_logged(out):
    for key, m in results(out)["methods"].items():
        lines = [json.loads(line) for line in (out / f"{key}.log.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == list(range(m["training"]["epochs"]))
        assert [line["loss"] for line in lines] == m["training"]["loss"]
        assert len(list((out / "tensorboard" / key).glob("events.out.tfevents.*"))) == 1
        assert not (out / f"{key}.state.pt").exists()


def test_every_method_learned_something(out):
    for key, m in results(out)["methods"].items():
        assert m["clean"] > 0.4, key  # ten classes


def test_the_checkpoint_is_the_model_that_was_measured(out):
    data = load_dataset("digits")
    for key, m in results(out)["methods"].items():
        model, metadata = load(out / f"{key}.pt")
        assert (
            metadata["method"] == key
            and (metadata["norm"], metadata["epsilon"]) == ("linf", 0.05)
            and metadata["dataset"] == "digits"
        )
        assert metadata["results"]["certified"] == {name: c["accuracy"] for name, c in m["certified"].items()}
        assert metadata["results"]["pgd"] == m["attacked"]["pgd"]
        assert {name: metadata[name] for name in data.identity} == data.identity == m["data"]
        clean = (model(data.x_test).argmax(1) == data.y_test).double().mean().item()
        assert clean == m["clean"]
    proved = certify(model, data.x_test, data.y_test, 0.05, ["ibp"]).certified.double().mean().item()
    assert proved == m["certified"]["ibp"]["accuracy"]["0.05"]


def test_table_and_picture_come_from_the_results_alone(out, tmp_path, capsys):
    for path in (out / "results.json", *out.glob("*.samples.csv")):
        (tmp_path / path.name).write_text(path.read_text())
    assert main(["report", str(tmp_path)]) == 0
    text = (tmp_path / "table.md").read_text()
    assert text == (out / "table.md").read_text() and text.startswith(table(read(out)))
    assert text.strip() in capsys.readouterr().out
    for m in results(out)["methods"].values():
        assert f"| {m['label']} | {100 * m['clean']:.2f} |" in text
    picture = (tmp_path / "certified.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


def test_a_report_of_two_runs_has_both(out, tmp_path, capsys):
    second = results(out) | {"seed": 77}
    (tmp_path / "results.json").write_text(json.dumps(second))
    command = ["report", str(tmp_path), str(out)]
    assert main(command) == main(command) == 0
    text = capsys.readouterr().out
    assert "seed 77" in text and "seed 3" in text
    assert {p.name for p in tmp_path.iterdir()} == {
        "results.json",
        *(f"comparison.{kind}" for kind in ("md", "tex", "csv", "png")),
    }


def test_a_report_replaces_no_table_of_other_runs(out, tmp_path, capsys):
    """A comparison of others, and the table of another copy in the same folder."""
    copies = [tmp_path / "a.json", tmp_path / "b.json"]
    for copy, seed in zip(copies, (3, 77)):
        copy.write_text(json.dumps(results(out) | {"seed": seed}))
    assert main(["report", str(copies[0])]) == 0
    text = (tmp_path / "table.md").read_text()
    assert main(["report", str(copies[1])]) == 2
    assert f"{tmp_path / 'table.md'} exists: --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "table.md").read_text() == text
    assert main(["report", str(copies[1]), "--force"]) == 0 and "seed 77" in (tmp_path / "table.md").read_text()
    assert main(["report", *map(str, copies)]) == 0 and main(["report", str(copies[0]), str(out)]) == 2


def _run_held_out(recipe_path, out, seed: int) -> dict:
    arguments = ["run", str(recipe_path), "--out", str(out), "--quiet", "--methods", "linf-dist"]
    assert main([*arguments, "--held-out", "0.25", "--seed", str(seed)]) == 0
    return results(out)


def test_held_out_images_are_training_images_and_seeds_are_averaged(recipe_path, tmp_path, monkeypatch, capsys):
    seen, fit = [], comparisons.running.train.fit

    def recorded(model, loss, optimizer, schedule, x, y, **options):
        seen.append(x)
        return fit(model, loss, optimizer, schedule, x, y, **options)

    monkeypatch.setattr(comparisons.running.train, "fit", recorded)
    folders = [tmp_path / "first", tmp_path / "second"]
    runs = [_run_held_out(recipe_path, folder, seed) for seed, folder in enumerate(folders)]
    typed = list(map(from_plain, runs))
    data = load_dataset("digits")
    assert all(r["train_samples"] + r["test_samples"] == len(data.x_train) for r in runs)
    trained = hold_out(hold_out(data, 0.25), 0.2)  # the recipe's select takes its part of what remains
    assert all(torch.equal(x, trained.x_train) for x in seen)
    assert (runs[0]["held_out"], runs[0]["test_samples"]) == (0.25, 360)
    model, metadata = load(folders[0] / "linf-dist.pt")
    assert "results" not in metadata  # an export would state them as accuracies on the test set
    held = hold_out(data, 0.25)
    clean = (model(held.x_test).argmax(1) == held.y_test).double().mean().item()
    assert clean == runs[0]["methods"]["linf-dist"]["clean"]

    assert over_seeds(typed[:1]) == over_seeds([typed[0], typed[0]]) == ""
    capsys.readouterr()
    assert main(["report", *map(str, folders)]) == 0
    text = capsys.readouterr().out
    assert "held-out training images" in text and over_seeds(typed) in text
    copies = [tmp_path / f"{i}.json" for i in range(2)]
    for copy, folder in zip(copies, folders):
        copy.write_text((folder / "results.json").read_text())
    assert main(["report", "--summary", *map(str, copies)]) == 0
    assert capsys.readouterr().out == over_seeds(typed)
    assert main(["report", "--summary", str(copies[0])]) == 2
    assert "--summary" in capsys.readouterr().err
    clean = [100 * r["methods"]["linf-dist"]["clean"] for r in runs]
    spread = abs(clean[0] - clean[1]) / math.sqrt(2)
    assert f"| 0, 1 | 360 held-out training images | {sum(clean) / 2:.2f} ± {spread:.2f} |" in text


def test_runs_on_other_images_or_of_another_recipe_are_not_averaged(out):
    first = results(out)
    second = json.loads(json.dumps(first))
    for change in ({"held_out": 0.5}, {"settings": "another"}):
        for m in second["methods"].values():
            m["identity"] |= {"seed": 4} | change
        assert over_seeds([from_plain(first), from_plain(second)]) == ""


def test_resume_keeps_finished_methods_and_continues_the_interrupted_one(recipe_path, out, tmp_path, monkeypatch):
    """A stop in the second method: the first is not trained again, the second goes on, and all bits agree."""
    recipe, data = load_recipe(str(recipe_path)), load_dataset("digits")
    fit, trained = comparisons.running.train.fit, []

    def stopping(model, loss, *args, **kwargs):
        trained.append(kwargs["description"])

        def interrupted(model, x, y, step):
            if len(trained) == 2 and step.epoch >= 3.5:
                raise KeyboardInterrupt
            return loss(model, x, y, step)

        return fit(model, interrupted if len(trained) == 2 else loss, *args, **kwargs)

    monkeypatch.setattr(comparisons.running.train, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        comparisons.running.run.run(recipe, data, tmp_path, seed=3, progress=False, methods=["ibp", "crown-ibp"])
    assert list(results(tmp_path)["methods"]) == ["ibp"]
    assert not (tmp_path / "ibp.state.pt").exists() and (tmp_path / "crown-ibp.state.pt").exists()
    comparisons.running.run.run(
        recipe, data, tmp_path, seed=3, progress=False, methods=["ibp", "crown-ibp"], resume=True
    )
    assert trained == ["IBP", "CROWN-IBP", "CROWN-IBP"]
    for key in ("ibp", "crown-ibp"):
        ours, whole = (load(folder / f"{key}.pt")[0].state_dict() for folder in (tmp_path, out))
        assert all(torch.equal(v, whole[k]) for k, v in ours.items())


TWO_WIDTHS = """
description = "one kind at two widths, each part a table"
dataset = "digits"
eps = 0.05
[evaluation]
eps_values = [0.02, 0.05]
certificates = ["lipschitz", "ibp"]
attacks = [{ name = "pgd", steps = 1, restarts = 1 }]
[defaults]
loss = { name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }
optimizer = { name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }
batch_size = 128
schedule = { epochs = 4, eps = 0.1, p_end = 3 }
[methods.narrow]
kind = "linf-dist"
label = "narrow"
architecture = { name = "linf-mlp", width = 8, depth = 2 }
[methods.wide]
kind = "linf-dist"
architecture = { name = "linf-mlp", width = 24, depth = 2 }
augmentation = { name = "shift-flip", shift = 1, padding = "zero" }
[methods.ibp]
architecture = { name = "relu-mlp", width = 24, depth = 2 }
initialisation = { name = "interval" }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
schedule = { epochs = 2, eps = 0.05, eps_end = 1 }
"""


def test_one_kind_is_run_at_two_widths(tmp_path, capsys):
    path, out = tmp_path / "two.toml", tmp_path / "out"
    path.write_text(TWO_WIDTHS)
    assert main(["run", str(path), "--out", str(out), "--quiet"]) == 0
    found, text = read(out), capsys.readouterr().out
    assert {name: m.kind for name, m in found.methods.items()} == {
        "narrow": "linf-dist",
        "wide": "linf-dist",
        "ibp": "ibp",
    }
    assert found.methods["wide"].parameters > 2 * found.methods["narrow"].parameters
    assert set(found.methods["narrow"].certified) == {"lipschitz", "ibp", "best"}
    assert set(found.methods["ibp"].certified) == {"ibp", "best"}
    assert "| narrow |" in text and "| ℓ∞-dist net (wide) |" in text and "narrow.pt, wide.pt, ibp.pt" in text
    assert all(load(out / f"{name}.pt")[1]["method"] == name for name in found.methods)
    assert (out / "certified.png").read_bytes().startswith(b"\x89PNG")
    assert main(["run", str(path), "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr().err.count("already in") == 3 and read(out) == found
    path.write_text(TWO_WIDTHS.replace("width = 24, depth = 2 }\naug", "width = 25, depth = 2 }\naug"))
    assert main(["run", str(path), "--out", str(out), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "wide (finished, with other settings (architecture.width: 24 → 25)): --force" in error


OTHER_PARTS = {  # part → its default, another
    "initialisation": ('name = "default"', 'name = "interval"'),
    "augmentation": ('name = "none"', 'name = "shift-flip", shift = 1'),
}


@pytest.mark.parametrize("part", OTHER_PARTS)
def test_a_part_of_a_recipe_changes_the_net(part, tmp_path):
    """And its default does not: the same bits as without a word of it."""
    default, other = OTHER_PARTS[part]
    ibp = TWO_WIDTHS.split("[methods.ibp]\n")[1].replace('initialisation = { name = "interval" }\n', "")
    nets = {}
    for name, said in (("none", ""), ("default", default), ("other", other)):
        path = tmp_path / f"{name}.toml"
        line = f"{part} = {{ {said} }}\n" if said else ""
        path.write_text(f"{TWO_WIDTHS.split('[methods.narrow]')[0]}[methods.ibp]\n{line}{ibp}")
        comparisons.running.run.run(load_recipe(str(path)), load_dataset("digits"), tmp_path / name, progress=False)
        nets[name] = load(tmp_path / name / "ibp.pt")[0].state_dict()
    weights = [name for name in nets["none"] if name.endswith("weight")]
    assert all(torch.equal(a, nets["default"][name]) for name, a in nets["none"].items())
    assert weights and not any(torch.equal(nets["none"][name], nets["other"][name]) for name in weights)


@pytest.mark.parametrize("text", ("", "{}", "[]", '{"methods": {"linf-dist": {}}}', '{"methods": []}'))
@pytest.mark.parametrize("flags", ([], ["--resume"], ["--resume", "--force"]), ids=" ".join)
def test_a_file_that_is_not_of_results_is_named(text, flags, recipe_path, tmp_path, capsys):
    (tmp_path / "results.json").write_text(text)
    assert main(["run", str(recipe_path), "--out", str(tmp_path), "--quiet", *flags]) == 2
    assert "results.json is not a results file of linf-compare" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_text() == text


def test_resume_keeps_methods_that_are_not_asked_for(recipe_path, out, tmp_path, monkeypatch):
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(comparisons.running.train, "fit", None)  # nothing is trained
    recipe = load_recipe(str(recipe_path))
    again = comparisons.running.run.run(
        recipe, load_dataset("digits"), tmp_path, seed=3, methods=["ibp"], progress=False, resume=True
    )
    assert again == read(out) == read(tmp_path)


def test_a_budget_is_what_training_takes_and_is_kept(recipe_path, tmp_path, capsys):
    arguments = ["run", str(recipe_path), "--out", str(tmp_path), "--quiet", "--methods", "linf-dist"]
    assert main([*arguments, "--budget", "4s"]) == 0
    m = results(tmp_path)["methods"]["linf-dist"]
    t = m["training"]
    assert f"ℓ∞-dist net: {t['epochs']} epochs (instead of 15) fit into 4s" in capsys.readouterr().err
    schedule = load_recipe(str(recipe_path)).methods["linf-dist"].schedule.scaled(t["epochs"])
    assert t["schedule"] == json.loads(json.dumps(dataclasses.asdict(schedule)))
    assert m["identity"]["budget"] == 4.0 and t["seconds"] < 20
    assert main([*arguments, "--budget", "4s", "--resume"]) == 0
    assert results(tmp_path)["methods"]["linf-dist"] == m


def test_a_budget_that_is_too_short_is_one_line(recipe_path, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(budgets, "_seconds_an_iteration", lambda *_: 100.0)
    assert main(["run", str(recipe_path), "--out", str(tmp_path), "--methods", "ibp", "--budget", "20m"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: a budget of 20m is too short: an epoch takes about 1")
    assert "5 epochs are the least" in error and error.count("\n") == 1


def test_a_full_disk_is_one_line(recipe_path, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert main(["run", str(recipe_path), "--out", str(tmp_path), "--quiet", "--methods", "ibp"]) == 2
    error = capsys.readouterr().err
    assert "ibp.state.pt could not be written" in error and "No space left on device" in error
    assert not list(tmp_path.glob("*.part"))


def test_the_module_is_the_command():
    shown = subprocess.run([sys.executable, "-m", "comparisons", "run", "--help"], capture_output=True, text=True)
    assert shown.returncode == 0 and "--budget" in shown.stdout and "--held-out" in shown.stdout


def test_results_of_earlier_versions_are_still_shown():
    folder = Path(comparisons.__file__).parents[1] / "docs" / "results" / "mnist-tiny"
    assert table(read(folder)) == (folder / "table.md").read_text()
    early = table(read(Path(__file__).parents[2] / "early"))
    assert "| CROWN-IBP | 95.83 | 86.39 | 83.89 |" in early and "No image is certified at an ε" in early


def lying(name: str) -> Certificate:
    """A certificate whose bound is always positive."""
    return dataclasses.replace(
        CERTIFICATES[name], bound=lambda problem: lambda x, labels: torch.ones(len(x), dtype=torch.float64)
    )


def test_a_contradicted_certificate_stops_the_run(recipe_path, tmp_path, monkeypatch, capsys):
    """What was finished stays, and the next method is not trained."""
    arguments = ["run", str(recipe_path), "--out", str(tmp_path), "--quiet"]
    assert main([*arguments, "--methods", "sortnet"]) == 0
    before = (tmp_path / "results.json").read_bytes()
    monkeypatch.setitem(CERTIFICATES, "ibp", lying("ibp"))
    capsys.readouterr()
    assert main([*arguments, "--methods", "ibp,crown-ibp"]) == 1
    out, error = capsys.readouterr()
    files = sorted(tmp_path.glob("contradiction-ibp-*.npz"))
    assert files and out == "" and error.count("\n") == 1
    assert error.startswith("linf-compare: ibp: sample ") and "is certified by interval at ε = 0.05, and PGD" in error
    assert any(str(file) in error for file in files)
    assert (tmp_path / "results.json").read_bytes() == before and not (tmp_path / "ibp.pt").exists()
    assert (tmp_path / "ibp.state.pt").exists() and not (tmp_path / "crown-ibp.state.pt").exists()
    with np.load(files[0], allow_pickle=False) as f:
        assert (f["recipe"], f["method"], f["certificate"]) == ("tiny", "ibp", "ibp")


VERIFIED = """
description = "a net for which branch and bound is quick"
dataset = "digits"
eps = 0.05
eps_values = [0.05]
certificates = ["ibp"]
attack = { steps = 1, restarts = 1 }
[verify]
methods = ["exact"]
samples = 6
time_limit = 20
[methods.ibp]
architecture = { name = "relu-mlp", width = 6, depth = 1 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 256
schedule = { epochs = 3, eps = 0.05, eps_end = 2 }
"""


def test_complete_verifiers_come_last(tmp_path, monkeypatch, capsys):
    """What they said is in the results, in the table, and sample by sample in a file.  With a certificate that lies,
    it fails the run."""
    path, out = tmp_path / "verified.toml", tmp_path / "out"
    path.write_text(VERIFIED)
    arguments = ["run", str(path), "--out", str(out), "--quiet"]
    assert main(arguments) == 0
    said = results(out)["methods"]["ibp"]["verification"]
    exact = said["verifiers"]["exact"]
    asked = [*exact["verified"], *exact["falsified"], *(row for rows in exact["unknown"].values() for row in rows)]
    assert said["samples"] == 6 and len(asked) == 6 - said["certified"] - said["broken"] > 0
    model, data = load(out / "ibp.pt")[0], load_dataset("digits")
    lines = [json.loads(line) for line in (out / "ibp.verdicts.jsonl").read_text().splitlines()[1:]]
    assert sorted(line["row"] for line in lines) == sorted(asked)
    assert all(certify(model, data.x_test[[i]], data.y_test[[i]], 0.05, ["ibp"]).bound <= 0 for i in asked)
    assert "| IBP | 6 |" in capsys.readouterr().out
    assert main(arguments) == 0 and "already in" in capsys.readouterr().err

    def weak(model, x, labels, eps, tables, **_):
        nothing = torch.full_like(labels, -1)
        return SimpleNamespace(by=nothing, names=("pgd",), points=x, seconds={"pgd": 0.0})

    monkeypatch.setitem(CERTIFICATES, "ibp", lying("ibp"))
    monkeypatch.setattr(comparisons.running.measure, "attack_all", weak)
    path.write_text(VERIFIED.replace("samples = 6", "samples = 6\ncertified = true").replace("0.05", "0.4"))
    assert main([*arguments, "--force"]) == 1
    captured = capsys.readouterr()
    assert "certificates are contradicted by PGD or exact radius" in captured.err and "a bound is wrong" in captured.out
    wrong = results(out)["methods"]["ibp"]
    assert wrong["contradictions"] == 0 and wrong["verification"]["contradictions"]
    points = [json.loads(line) for line in (out / "ibp.verdicts.jsonl").read_text().splitlines()[1:]]
    assert all(len(line["point"]) == 64 for line in points if line["status"] == "falsified")


def test_a_verifier_that_is_not_installed_stops_a_run_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("ABCROWN", raising=False)
    path, out = tmp_path / "verified.toml", tmp_path / "out"
    path.write_text(VERIFIED.replace('"exact"', '"exact", "abcrown"'))
    assert main(["run", str(path), "--out", str(out), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: α,β-CROWN is needed: set ABCROWN to") and error.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "imagenet"], "imagenet"),
        (["run", "mnist-tiny"], "--data-dir is needed for mnist"),
        (["run", "mnist-tiny", "--data-dir", "nowhere"], "nowhere/MNIST/raw/train-images-idx3-ubyte.gz"),
        (["run", "digits", "--methods", "linf-dist,colt"], "colt"),
        (["run", "digits", "--held-out", "1"], "--held-out"),
        (["run", "digits", "--budget", "20"], "--budget: '20' is not a duration such as 90s"),
        (["report", "nowhere"], "results.json"),
    ],
)
def test_a_wrong_request_is_one_line_that_names_it(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("linf-compare: error: ") and words in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert main(["run", "digits", "--device", "cuda"]) == 2
    assert "cuda" in capsys.readouterr().err


def test_list_shows_recipes_methods_data_sets_and_verifiers(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("digits", "mnist-tiny", *METHODS, "cifar10", *COMPLETE))
