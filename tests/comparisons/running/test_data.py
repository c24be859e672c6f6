"""Own data in recipes: rows of numbers and folders of images, from the recipe to the report and the ONNX file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import MinMaxScaler

from comparisons.cli import main
from comparisons.recipes.recipe import load_recipe
from comparisons.results.file import read
from comparisons.running.data import check_fits, load_own
from comparisons.running.run import run
from linf_plugin import load
from linf_plugin.datasets import for_training, load_dataset
from onnx_export.cli import main as export

RECIPE = """
description = "a few epochs on own data"
dataset = "{dataset}"
eps = 0.02
eps_values = [0.02]
certificates = ["lipschitz", "ibp", "crown"]
attack = {{ steps = 2, restarts = 1 }}
[methods.linf-dist]
architecture = {{ name = "linf-mlp", width = 16, depth = 2 }}
loss = {{ name = "clipped-hinge", ce_first = 0.1, ce_last = 0.01 }}
optimizer = {{ name = "distance-adam", lr = 0.05, scalar_lr = 0.006 }}
batch_size = 64
select = 0.2
schedule = {{ epochs = 8, eps = 0.05, p_end = 6 }}
[methods.ibp]
architecture = {{ name = "relu-mlp", width = 16, depth = 2 }}
loss = {{ name = "ibp" }}
optimizer = {{ name = "adam", lr = 3e-3 }}
batch_size = 64
schedule = {{ epochs = 4, eps = 0.02, eps_end = 3 }}
"""
MLP, CONV = 'name = "relu-mlp", width = 16, depth = 2', 'name = "relu-conv", channels = [2], strides = [2], width = 8'
KEPT = "linf-dist.pt", "ibp.pt", "results.json", "table.md", "certified.png"


def write_rows(path, **change) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    np.savez(path, **{"x": MinMaxScaler().fit_transform(x), "y": y, **change})


def write_recipe(path, dataset: str, old: str = "", new: str = "") -> str:
    assert old in RECIPE
    path.write_text(RECIPE.format(dataset=dataset).replace(old, new) if old else RECIPE.format(dataset=dataset))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on rows of numbers: recipe.toml, data/cancer.npz, out/."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "data").mkdir()
    write_rows(folder / "data" / "cancer.npz")
    recipe = write_recipe(folder / "recipe.toml", "data/cancer.npz")
    assert main(["run", recipe, "--out", str(folder / "out"), "--quiet"]) == 0
    return folder


def test_a_run_on_rows_of_numbers(folder):
    content, results = json.loads((folder / "out" / "results.json").read_text()), read(folder / "out")
    assert content["dataset"] == "cancer.npz, 0.2 of it as test set" and content["shape"] == [30]
    assert (results.shape, results.thing, results.train_samples, results.test_samples) == ((30,), "sample", 455, 114)
    data = for_training(load_dataset(folder / "data" / "cancer.npz"))
    for key, m in results.methods.items():
        assert m.data == data.identity and m.contradictions == 0
        assert m.clean > 0.8 and 0 < m.proved(0.02) <= m.attacked["pgd"][0.02] <= m.clean
        net, metadata = load(folder / "out" / f"{key}.pt")
        assert net.input_shape == (30,) and metadata["dataset"] == data.name
        assert net[0].mean.tolist() == pytest.approx(data.mean) and 1 / net[0].scale == pytest.approx(data.std)
    assert all((folder / "out" / name).stat().st_size for name in KEPT)


def test_the_report_speaks_of_samples(folder, capsys):
    assert main(["report", str(folder / "out")]) == 0
    text = capsys.readouterr().out
    assert "Percent of 114 test samples. ε in the range [0, 1] of the inputs." in text
    assert "pairs/sample" in text and "No sample is certified at an ε at which PGD broke it." in text
    assert "image" not in text and "pixel" not in text


def test_a_finished_run_is_kept(folder, capsys):
    before = (folder / "out" / "results.json").read_bytes()
    assert main(["run", str(folder / "recipe.toml"), "--out", str(folder / "out"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("already in") == 2 and (folder / "out" / "results.json").read_bytes() == before
    assert "cancer.npz has no test part: 114 of its 569 samples are it, the same at each call" in captured.err


def test_other_data_under_the_same_path_are_other_data(folder, tmp_path, capsys):
    _, y = load_breast_cancer(return_X_y=True)
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data" / "cancer.npz", y=1 - y)
    recipe = write_recipe(tmp_path / "recipe.toml", "data/cancer.npz")
    assert main(["run", recipe, "--out", str(folder / "out"), "--quiet"]) == 2
    assert "train_data_sha256" in capsys.readouterr().err


@pytest.mark.parametrize("key", ("linf-dist", "ibp"))
def test_the_net_of_a_run_becomes_an_onnx_file(key, folder, tmp_path, capsys):
    data, path = ["--data", str(folder / "data" / "cancer.npz")], str(tmp_path / "net.onnx")
    assert export(["model", str(folder / "out" / f"{key}.pt"), "-o", path, *data]) == 0
    assert "of 114 test samples" in capsys.readouterr().out
    for command in ("check", "verify"):
        assert export([command, path, "--device", "cpu", *data]) == 0
    assert "on 114 test samples of cancer.npz, 0.2 of it as test set" in capsys.readouterr().out
    assert export(["import", path, "-o", str(tmp_path / "again.pt")]) == 0
    x = load_dataset(folder / "data" / "cancer.npz").x_test
    again, net = (load(p)[0].eval() for p in (tmp_path / "again.pt", folder / "out" / f"{key}.pt"))
    torch.testing.assert_close(again(x), net(x), rtol=0, atol=1e-4)


def test_an_own_test_part_and_an_own_name(tmp_path, capsys):
    x, y = load_breast_cancer(return_X_y=True)
    x = MinMaxScaler().fit_transform(x)
    write_rows(tmp_path / "rows.npz", x=x[:400], y=y[:400], x_test=x[400:450], y_test=y[400:450])
    recipe, out = write_recipe(tmp_path / "r.toml", "rows.npz"), tmp_path / "out"
    assert main(["run", recipe, "--out", str(out), "--quiet", "--methods", "ibp", "--data-name", "my rows"]) == 0
    results = read(out)
    assert (results.dataset, results.test_samples) == ("my rows", 50) and "no test part" not in capsys.readouterr().err


def test_a_run_on_a_folder_of_images(tmp_path, capsys):
    x, y = load_digits(return_X_y=True)
    for i in range(120):
        folder = tmp_path / "my digits" / f"class {y[i] % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((x[i] * 15).astype(np.uint8).reshape(8, 8)).save(folder / f"{i}.png")
    recipe, out = write_recipe(tmp_path / "r.toml", "my digits", MLP, CONV), tmp_path / "out"
    assert main(["run", recipe, "--out", str(out), "--quiet", "--methods", "ibp"]) == 0
    captured = capsys.readouterr()
    assert "my digits has no test part: 24 of its 120 images are it" in captured.err
    assert "Percent of 24 test images. ε in the pixel range [0, 1]." in captured.out and "pairs/image" in captured.out
    assert read(out).shape == (1, 8, 8) and load(out / "ibp.pt")[0].spec["layers"][-1][1]["out_features"] == 3


def test_the_example_of_the_docs_makes_the_file_of_its_recipe(tmp_path, monkeypatch):
    text = (Path(__file__).parents[3] / "docs" / "training.md").read_text().split("### Your own data")[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "training.md", "exec"), {})
    (dataset,) = re.findall(r'dataset = "(.*)"', text)
    data = load_own(load_recipe(write_recipe(tmp_path / "r.toml", dataset)), None, None)
    assert (len(data.x_train), len(data.x_test), data.shape, data.classes) == (400, 169, (30,), 2)
    assert data.x_train.amin(0).unique().tolist() == [0] and data.x_train.amax(0).unique().tolist() == [1]


@pytest.mark.parametrize("rank, lines", (("0", 1), ("1", 0)))
def test_one_of_several_processes_says_that_data_were_divided(rank, lines, tmp_path, monkeypatch, capsys):
    write_rows(tmp_path / "rows.npz")
    monkeypatch.setenv("RANK", rank)
    load_own(load_recipe(write_recipe(tmp_path / "r.toml", "rows.npz")), None, None)
    assert len(capsys.readouterr().err.splitlines()) == lines


# What is refused before any work begins.


@pytest.mark.parametrize(
    "old, new, names",
    (
        (
            MLP,
            CONV,
            r"relu-conv does not take the samples of rows.npz, .* have the shape \(30,\): layer 1 of spec, conv,",
        ),
        (MLP, MLP + ", crop = 4", "relu-mlp does not take the samples of .*: layer 1 of spec, crop, does not take a v"),
        (
            "batch_size",
            "shift = 1\nbatch_size",
            r"shift-flip does not take the samples .*: x must have shape \(N, C, H",
        ),
        ("batch_size", "flip = true\nbatch_size", "shift-flip does not take the samples of rows.npz"),
    ),
    ids=("convolution", "crop", "shift", "flip"),
)
def test_what_is_for_images_is_refused_for_rows(old, new, names, tmp_path, capsys):
    write_rows(tmp_path / "rows.npz")
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", "rows.npz", old, new))
    data = load_own(recipe, None, None)
    with pytest.raises(ValueError, match=rf"r \[methods\.(ibp|linf-dist)\]: {names}"):
        run(recipe, data, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_an_augmentation_that_changes_nothing_is_for_all_data(tmp_path):
    write_rows(tmp_path / "rows.npz")
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", "rows.npz", "batch_size", "shift = 0\nbatch_size"))
    check_fits(recipe, list(recipe.methods), load_own(recipe, None, None))


def test_only_the_methods_that_are_asked_for_must_fit(tmp_path):
    write_rows(tmp_path / "rows.npz")
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", "rows.npz", MLP, CONV))
    check_fits(recipe, ["linf-dist"], load_own(recipe, None, None))


def test_data_without_a_training_part_are_refused(tmp_path):
    write_rows(tmp_path / "rows.npz")
    recipe = load_recipe(write_recipe(tmp_path / "r.toml", "rows.npz"))
    with pytest.raises(ValueError, match="rows.npz has no training part; linf_plugin.datasets.for_training makes one"):
        run(recipe, load_dataset(tmp_path / "rows.npz"), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


WRONG = {  # arrays, flags, and what the command says
    "missing": (None, [], "rows.npz does not exist"),
    "labels": ({"y": np.arange(569)}, [], "rows.npz: 0.2 of 569 samples cannot be held out"),
    "gap": ({"y": np.arange(569) % 2 + 1}, [], "rows.npz: no training sample is of class 0"),
    "range": ({"x": 7 * np.ones((569, 3))}, [], "x of .*rows.npz must lie in .* scale each column"),
    "lengths": ({"y": np.zeros(3, int)}, [], "x of .*rows.npz has 569 samples but y of .*rows.npz has 3 labels"),
    "name": ({}, ["--data-name", "mnist"], "--data-name must be one line, and none of digits"),
    "folder": ({}, ["--data-dir", "."], "--data-dir is only for digits"),
}


@pytest.mark.parametrize("change, flags, says", WRONG.values(), ids=WRONG)
def test_mistakes_are_one_line(change, flags, says, tmp_path, capsys):
    if change is not None:
        write_rows(tmp_path / "rows.npz", **change)
    recipe = write_recipe(tmp_path / "r.toml", "rows.npz")
    assert main(["run", recipe, "--out", str(tmp_path / "out"), "--quiet", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"linf-compare: error: .*{says}", line)
    assert not (tmp_path / "out").exists()
