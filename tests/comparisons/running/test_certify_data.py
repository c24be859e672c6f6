"""``linf-compare certify`` on own data: rows of numbers, folders of images, and beside runs on the same test part."""

import re

import numpy as np
import pytest
import torch
from graphs import chain
from onnx import save
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.preprocessing import MinMaxScaler
from torch import nn

from comparisons.cli import main
from comparisons.report.tables import table
from comparisons.results.file import read
from linf_plugin.datasets import load_dataset

NET = """
from torch import nn

def rows():
    return nn.Sequential(nn.Linear(30, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
"""
RECIPE = """
description = "a few epochs on own data"
dataset = "whole.npz"
eps = 0.02
eps_values = [0.02]
certificates = ["ibp", "crown"]
attack = { steps = 2, restarts = 1 }
[methods.ibp]
architecture = { name = "relu-mlp", width = 16, depth = 2 }
loss = { name = "ibp" }
optimizer = { name = "adam", lr = 3e-3 }
batch_size = 64
schedule = { epochs = 2, eps = 0.02, eps_end = 1 }
"""
OPTIONS = ["--eps", "0.02", "--attack", "pgd,steps=2,restarts=1", "--quiet"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with a net of 30 numbers (net.py, net.pt, net.onnx), and its data in three forms.

    whole.npz has a training part, test.npz only the test part, under the names of a test part; all.npz has neither.
    """
    folder, (x, y) = tmp_path_factory.mktemp("rows"), load_breast_cancer(return_X_y=True)
    x = MinMaxScaler().fit_transform(x).astype(np.float32)
    np.savez(folder / "whole.npz", x=x[:469], y=y[:469], x_test=x[469:], y_test=y[469:])
    np.savez(folder / "test.npz", x=x[469:], y=y[469:])
    (folder / "net.py").write_text(NET)
    scope: dict = {}
    exec(NET, scope)
    torch.manual_seed(0)
    model, inputs, labels = scope["rows"](), torch.from_numpy(x[:469]), torch.from_numpy(y[:469])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    model.eval()
    torch.save(model.state_dict(), folder / "net.pt")
    (first, norm, _, last), names = model, ("w", "b", "s", "t", "m", "v", "w2", "b2")
    tensors = (
        *(first.weight, first.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var),
        *(last.weight, last.bias),
    )
    graph = chain(
        ("Gemm", ["·", "w", "b"], {"transB": 1}),
        ("BatchNormalization", ["·", "s", "t", "m", "v"], {}),
        ("Relu", ["·"], {}),
        ("Gemm", ["·", "w2", "b2"], {"transB": 1}),
        shape=("N", 30),
        **{name: a.detach().numpy() for name, a in zip(names, tensors)},
    )
    save(graph, folder / "net.onnx")
    return folder


def _certify(folder, out, data, *options, way="pt"):
    net = ["--model", f"{folder}/net.py:rows", "--weights", f"{folder}/net.pt"]
    net = net if way == "pt" else ["--onnx", f"{folder}/net.onnx"]
    return main(["certify", *net, "--data", str(data), "--out", str(out), *OPTIONS, *options])


def test_rows_of_numbers_are_samples_in_every_text(rows, tmp_path, capsys):
    for way in ("pt", "onnx"):
        assert _certify(rows, tmp_path, rows / "whole.npz", "--name", way, way=way) == 0
    results, data = read(tmp_path), load_dataset(rows / "whole.npz")
    assert (results.shape, results.thing, results.test_samples, results.train_samples) == ((30,), "sample", 100, 469)
    pt, onnx = results.methods.values()
    assert 0.5 < pt.proved(0.02) <= pt.attacked["pgd"][0.02] <= pt.clean and pt.data == data.identity
    assert (pt.clean, pt.proved(0.02)) == (onnx.clean, onnx.proved(0.02))
    assert pt.parameters == onnx.parameters == 31 * 16 + 2 * 16 + 17 * 2
    text = (tmp_path / "table.md").read_text()
    assert text.startswith(table(results)) and "image" not in text and "pixel" not in text
    assert "Percent of 100 test samples. ε in the range [0, 1] of the inputs." in text
    assert "Samples that each certificate certified at ε = 0.02" in text
    assert "image" not in capsys.readouterr().out


def test_data_without_a_test_part_are_measured_whole_and_the_table_says_so(rows, tmp_path):
    assert _certify(rows, tmp_path, rows / "test.npz", "--name", "whole") == 0
    results = read(tmp_path)
    assert (results.train_samples, results.test_samples, results.dataset) == (0, 100, "test.npz")
    assert "Percent of 100 samples, the data have no test part. ε in" in (tmp_path / "table.md").read_text()


def test_a_report_puts_it_beside_a_run_on_the_same_test_part(rows, tmp_path):
    """Also if the net was measured on a file with other training samples, or none, and another name."""
    (rows / "recipe.toml").write_text(RECIPE)
    assert main(["run", str(rows / "recipe.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    assert _certify(rows, tmp_path / "mine", rows / "test.npz") == 0
    other = dict(np.load(rows / "whole.npz"))
    np.savez(tmp_path / "other.npz", **other | {"x_test": other["x_test"] * np.float32(0.5)})
    assert _certify(rows, tmp_path / "other", tmp_path / "other.npz") == 0
    folders = [str(tmp_path / name) for name in ("run", "mine", "other")]
    assert main(["report", *folders, "--out", str(tmp_path / "both")]) == 0
    first, _, *lines = (tmp_path / "both" / "comparison.md").read_text().splitlines()
    assert first == "## whole.npz, ε = 0.02 in ℓ∞: side by side"
    assert lines[0] == "| method | from | of | clean % | PGD % | certified % | parameters |"
    assert lines[2].startswith("| IBP | recipe `recipe` | 100 test samples | ")
    assert lines[3].startswith("| net:rows | given net | 100 samples | ") and lines[4] == ""


def test_a_folder_of_images(tmp_path, capsys):
    x, y = load_digits(return_X_y=True)
    for i, (image, label) in enumerate(zip(x[:100], y[:100])):
        folder = tmp_path / "digits8" / ("test" if i < 40 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image.reshape(8, 8) * 15.9375).astype(np.uint8)).save(folder / f"{i:02}.png")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    call = ["certify", "--model", f"{tmp_path}/net.py:net", "--data", f"{tmp_path}/digits8", "--out", f"{tmp_path}/out"]
    assert main([*call, *OPTIONS]) == 0
    results = read(tmp_path / "out")
    assert (results.dataset, results.shape, results.test_samples) == ("digits8", (1, 8, 8), 40)
    assert "Percent of 40 test images. ε in the pixel range [0, 1]." in capsys.readouterr().out
    Image.new("L", (4, 4)).save(tmp_path / "digits8" / "test" / "3" / "99.png")
    assert main([*call, *OPTIONS, "--force"]) == 2
    assert "all images must have one size" in capsys.readouterr().err


# Bad input: one sentence, and nothing is written.

WRONG = {
    "no-x": ({"x": None}, [], "lacks x or x_train"),
    "no-y": ({"y": None}, [], "lacks y or y_train"),
    "range": ({"x": np.full((3, 30), 2.0)}, [], r"\[0, 1\]"),
    "labels": ({"y": np.array([0, 1, 2])}, [], r"labels must lie in \[0, 1\], got 0 to 2"),
    "columns": ({"x": np.linspace(0, 1, 87).reshape(3, 29)}, [], r"net:rows cannot run on a sample of shape \(29,\)"),
    "data-dir": ({}, ["--data-dir", "."], "--data-dir is only for digits, mnist, "),
    "name": ({}, ["--data-name", "mnist"], "--data-name must be one line, and none of digits"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_are_one_sentence(name, rows, tmp_path, capsys):
    change, options, message = WRONG[name]
    arrays = {"x": np.linspace(0, 1, 90).reshape(3, 30), "y": np.array([0, 1, 1])} | change
    np.savez(tmp_path / "x.npz", **{key: a for key, a in arrays.items() if a is not None})
    assert _certify(rows, tmp_path / "out", tmp_path / "x.npz", *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("linf-compare: error: ") and not (tmp_path / "out").exists()
    assert re.search(message, line), line


def test_a_path_that_is_no_data_names_the_kinds(rows, tmp_path, capsys):
    assert _certify(rows, tmp_path / "out", "none") == 2
    assert "error: --data must be one of digits, mnist, " in capsys.readouterr().err
