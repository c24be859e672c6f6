"""Benchmarks: what is in the folder, and what the public parsers of VNN-LIB 1.0 and 2.0 read from it.

The two parsers are packages of one name, so each is imported in a process of its own.
"""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import linf_plugin
from linf_plugin.datasets import Dataset
from onnx_export.verifiers import generate_properties as script
from onnx_export.verifiers.vnnlib import write_benchmark

SHAPE, CLASSES = (2, 3, 2), 4
PARSERS = {"vnnlib": "LINF_VNNLIB_1", "vnnlib2/vnnlib": "LINF_VNNLIB_2"}  # folder of properties → where its parser is

# How each reads a file: bounds of each input; rows and right sides of each disjunct, rows · outputs ≤ right sides.
READERS = {
    "LINF_VNNLIB_1": """
from vnnlib.compat import read_vnnlib_simple
def read(path, inputs, outputs):
    [(box, disjuncts)] = read_vnnlib_simple(path, inputs, outputs)
    return box, [(rows.tolist(), sides.ravel().tolist()) for rows, sides in disjuncts]
""",
    "LINF_VNNLIB_2": """
import gzip
import vnnlib
from vnnlib.compat import transform
def read(path, inputs, outputs):
    query = vnnlib.parse_query_string(gzip.open(path, "rt").read())
    [network] = query.networks
    assert [tuple(v.shape) for v in (*network.inputs, *network.outputs)] == SHAPES, network
    [case] = transform(query)
    return case.input_box, [(p.coeff_matrix, p.rhs) for p in case.output_constraints]
""",
}


def parsed(folder: Path, tree: str) -> dict[str, tuple]:
    """name → (bounds (inputs, 2), list of (rows, right sides)), as the tree's parser reads the properties there."""
    variable = PARSERS[tree]
    place = Path(os.environ.get(variable, Path(sys.prefix) / f"vnnlib-{variable[-1]}"))
    assert (place / "vnnlib").is_dir(), f"no parser in {place}: `make test` installs it, {variable} says where it is"
    paths = sorted((folder / tree).iterdir())
    code = (
        f"import json, sys\nsys.path.insert(0, {str(place)!r})\nSHAPES = [{(1, *SHAPE)}, {(1, CLASSES)}]\n"
        f"{READERS[variable]}\n"
        f"json.dump([read(path, {int(np.prod(SHAPE))}, {CLASSES}) for path in json.load(sys.stdin)], sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], input=json.dumps([str(p) for p in paths]), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return {
        path.name.removesuffix(".gz"): (np.array(box), [(np.array(rows), np.array(sides)) for rows, sides in disjuncts])
        for path, (box, disjuncts) in zip(paths, json.loads(done.stdout), strict=True)
    }


def satisfied(disjuncts: list, logits: np.ndarray) -> bool:
    return any((rows @ logits <= sides).all() for rows, sides in disjuncts)


@pytest.fixture(scope="module")
def net() -> linf_plugin.Net:
    """Linear, so that its ONNX file is one Gemm."""
    torch.manual_seed(0)
    size = int(np.prod(SHAPE))
    layers = [["flatten", {}], ["linear", {"in_features": size, "out_features": CLASSES}]]
    return linf_plugin.Net({"input_shape": list(SHAPE), "layers": layers}).eval()


@pytest.fixture(scope="module")
def data(net) -> Dataset:
    """40 images, 30 of which the net gets right; one of these has pixels at both ends of the range."""
    torch.manual_seed(1)
    x = torch.rand(40, *SHAPE)
    x[3].view(-1)[:3] = torch.tensor([0, 1, 1e-6])
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::4] = (y[::4] + 1) % CLASSES
    return Dataset("noise", x[:4], y[:4], x, y, (0.5, 0.5), 0.25)


def linear_model(net, flavour: str) -> onnx.ModelProto:
    """What ``verifier_model`` promises, of a linear net."""
    if flavour not in ("maxpool", "relu"):
        raise ValueError(f"flavour must be maxpool or relu, got {flavour!r}")
    constants = ("w", net[1].weight), ("b", net[1].bias)
    weights = [numpy_helper.from_array(a.detach().numpy(), name) for name, a in constants]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["logits"], transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", (1, *net.input_shape)), ("logits", (1, net[1].out_features)))
    ]
    graph = helper.make_graph(nodes, flavour, ends[:1], ends[1:], weights)
    return helper.make_model(graph, ir_version=7, opset_imports=[helper.make_opsetid("", 13)])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr("onnx_export.verifiers.vnnlib.verifier_model", linear_model)


@pytest.fixture
def write(net, data, tmp_path):
    """``write(**changes)``: a small benchmark in a folder that does not exist yet."""

    def make(**changes) -> Path:
        usual = {
            "net": net,
            "folder": tmp_path / "a" / "small",
            "data": data,
            "epsilons": [0.1, 1e-5],
            "count": 3,
            "seed": 2,
            "timeout": 30,
            "name": "small",
        }
        return write_benchmark(**usual | changes)

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# The folder


def test_layout(write):
    folder = write(kinds=("any", "one"))
    with open(folder / "instances.csv", newline="") as f:
        rows = list(csv.reader(f))
    assert len(rows) == 3 * 2 * 2 * 2 and {row[2] for row in rows} == {"30"}
    names = {name + ".gz" for row in rows for name in row[:2]}
    assert {name for name in names if name.startswith("onnx")} == {
        "onnx/small_maxpool.onnx.gz",
        "onnx/small_relu.onnx.gz",
    }
    assert set(files(folder)) == names | {f"vnnlib2/{name}" for name in names} | {
        "instances.csv",
        "vnnlib2/instances.csv",
        "README.md",
        "benchmark.json",
        "generate_properties.py",
        "images.npz",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["small"]  # nothing else is left
    assert (folder / "generate_properties.py").read_bytes() == Path(script.__file__).read_bytes()


@pytest.mark.parametrize("batch", [1, 7, 40, 128])
def test_the_pool_is_what_the_net_gets_right(write, data, batch, monkeypatch):
    monkeypatch.setattr("onnx_export.verifiers.vnnlib.BATCH", batch)
    folder = write()
    with np.load(folder / "images.npz") as arrays:
        x, y, index = (arrays[key] for key in ("x", "y", "index"))
    assert index.tolist() == [i for i in range(40) if i % 4]
    assert np.array_equal(x, data.x_test[index].numpy()) and np.array_equal(y, data.y_test[index].numpy())
    with np.load(write(pool=5, force=True) / "images.npz") as arrays:
        assert arrays["index"].tolist() == [1, 2, 3, 5, 6]


def with_labels(data: Dataset, x: torch.Tensor, y: torch.Tensor) -> Dataset:
    return replace(data, x_train=x, y_train=y, x_test=x, y_test=y)


@torch.no_grad()
def test_a_tie_is_not_right(write, net, data):
    """At equal logits the property holds at the image itself, whatever argmax says."""
    twins = linf_plugin.Net(net.spec).eval()
    twins[1].weight.zero_()
    twins[1].weight[:3, 0], twins[1].bias[:] = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.0, 0.0, 1.0, -1.0])
    y = twins(data.x_test).argmax(1)
    untied = (y > 1).nonzero().squeeze(1).tolist()
    assert 0 < len(untied) < 40
    folder = write(net=twins, data=with_labels(data, data.x_test, y))
    with np.load(folder / "images.npz") as arrays:
        assert arrays["index"].tolist() == untied


def test_onnx_files(write, net, data):
    folder = write()
    for flavour in ("maxpool", "relu"):
        content = gzip.decompress((folder / "onnx" / f"small_{flavour}.onnx.gz").read_bytes())
        assert onnx.load_from_string(content).graph.name == flavour
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        [logits] = session.run(["logits"], {"x": data.x_test[:1].numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, net(data.x_test[:1]).numpy(), rtol=1e-5, atol=1e-6)


# What the parsers read


@pytest.mark.parametrize("tree", PARSERS)
def test_parsers_read_what_was_meant(write, tree):
    """Bounds of every pixel and the disjunction of every property; all images, two ε, both kinds."""
    folder = write(count=30, kinds=("any", "one"))
    with np.load(folder / "images.npz") as arrays:
        images = {int(i): (x, int(y)) for x, y, i in zip(arrays["x"], arrays["y"], arrays["index"])}
    properties = parsed(folder, tree)
    assert len(properties) == 30 * 2 * 2 and 3 in images
    for name, (bounds, disjuncts) in properties.items():
        index, eps, target = re.fullmatch(r"small_(\d+)_eps([0-9.]+?)(?:_to(\d))?\.vnnlib", name).groups()
        (image, label), eps = images[int(index)], float(eps)
        assert eps in (0.1, 1e-5)

        lower, upper = (a.ravel().astype(np.float64) for a in script.box(image, eps))
        assert np.array_equal(bounds, np.stack([lower, upper], 1))
        assert np.array_equal(bounds.astype(np.float32), bounds)  # the same box for a reader in float32
        x = image.ravel().astype(np.float64)
        assert (lower <= x).all() and (x <= upper).all()
        np.testing.assert_allclose(lower, np.clip(x - eps, 0, 1), rtol=0, atol=2**-24)
        np.testing.assert_allclose(upper, np.clip(x + eps, 0, 1), rtol=0, atol=2**-24)

        wrong = [j for j in range(CLASSES) if j != label] if target is None else [int(target)]
        assert len(disjuncts) == len(wrong) and label not in wrong
        on_top = np.where(np.arange(CLASSES) == label, 1.0, 0.5)
        assert not satisfied(disjuncts, on_top)
        for j in range(CLASSES):
            for value in (1.0, 2.0):  # a tie is a counter-example
                assert satisfied(disjuncts, np.where(np.arange(CLASSES) == j, value, on_top)) == (j in wrong)


@pytest.mark.parametrize("tree", PARSERS)
def test_parsers_read_extreme_numbers(write, net, data, tree):
    """Pixels of which the bounds have the most digits that a float32 number has."""
    x = data.x_test[:1].clone()
    x.view(-1)[:4] = torch.tensor([1e-45, 1e-38, 1e-10, 1 - 2**-24])
    with torch.no_grad():
        one = with_labels(data, x, net(x).argmax(1))
    properties = parsed(write(data=one, epsilons=[1e-45, 1e-9, 1.0], count=1), tree)
    assert len(properties) == 3
    for name, (bounds, _) in properties.items():
        eps = float(name.split("_eps")[1].removesuffix(".vnnlib"))
        assert np.array_equal(bounds, np.stack([a.ravel() for a in script.box(x[0].numpy(), eps)], 1))


@pytest.mark.parametrize("tree", PARSERS)
def test_parsers_read_two_classes(write, data, tree, monkeypatch):
    """One disjunct."""
    monkeypatch.setattr(f"{__name__}.CLASSES", 2)
    torch.manual_seed(0)
    layers = [["flatten", {}], ["linear", {"in_features": int(np.prod(SHAPE)), "out_features": 2}]]
    net = linf_plugin.Net({"input_shape": list(SHAPE), "layers": layers}).eval()
    with torch.no_grad():
        y = net(data.x_test).argmax(1)
    folder = write(net=net, data=with_labels(data, data.x_test, y), count=5)
    with np.load(folder / "images.npz") as arrays:
        labels = dict(zip(arrays["index"].tolist(), arrays["y"].tolist()))
    properties = parsed(folder, tree)
    assert len(properties) == 10
    for name, (_, disjuncts) in properties.items():
        label = labels[int(name.split("_")[1])]
        assert len(disjuncts) == 1
        assert satisfied(disjuncts, np.eye(2)[1 - label]) and not satisfied(disjuncts, np.eye(2)[label])


# Again, elsewhere, and in the place of another


def test_the_same_arguments_give_the_same_bytes(write, tmp_path):
    first, second = write(), write(folder=tmp_path / "second")
    assert files(first) == files(second)
    other = write(folder=tmp_path / "other", seed=3)
    assert (first / "instances.csv").read_bytes() != (other / "instances.csv").read_bytes()
    assert (first / "images.npz").read_bytes() == (other / "images.npz").read_bytes()


def test_the_script_in_the_folder_gives_another_seed(write, tmp_path):
    folder, other = write(), write(folder=tmp_path / "other", seed=3)
    command = [sys.executable, "-I", str(folder / "generate_properties.py"), "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    changed = {name for name, content in files(folder).items() if content != files(other).get(name)}
    assert changed == {"README.md"}  # which says with what seed it was written


def test_not_compressed(write):
    folder = write(compress=False)
    assert not [name for name in files(folder) if name.endswith(".gz")]
    assert onnx.load(folder / "onnx" / "small_relu.onnx").graph.name == "relu"
    for net, property, _ in csv.reader((folder / "instances.csv").read_text().splitlines()):
        for tree in (folder, folder / "vnnlib2"):
            assert (tree / net).is_file() and (tree / property).is_file()
    assert "gunzip" not in (folder / "README.md").read_text()


def test_one_flavour(write):
    folder = write(flavours=["relu"])
    assert [p.name for p in (folder / "onnx").iterdir()] == ["small_relu.onnx.gz"]
    assert len((folder / "instances.csv").read_text().splitlines()) == 6


def test_readme(write):
    text = (write(kinds=["any"]) / "README.md").read_text()
    for words in (
        "# small\n",
        "trained on noise: flatten, linear;\n52 parameters",
        "| 0.1, 0.00001 |",
        "12, 30 s each, 0.1 hours",
        "3 of the 30 in `images.npz`, chosen by the seed; here 2",
        "`x` | [1, 2, 3, 2]",
        "`logits` | [1, 4]",
        "- `onnx/small_relu.onnx`: 2 nodes, Flatten, Gemm",
        "python generate_properties.py SEED",
        "gunzip",
        "The wrong class may be any class.",
    ):
        assert words in text, words
    assert "toCLASS" not in text and "{" not in text
    assert max(map(len, text.splitlines())) <= 120
    assert "toCLASS" in (write(kinds=["one"], force=True) / "README.md").read_text()


def test_an_existing_folder(write, tmp_path):
    folder = write()
    before = files(folder)
    with pytest.raises(FileExistsError, match="small exists: force replaces it"):
        write(seed=3)
    assert files(folder) == before
    (folder / "vnnlib" / "more").write_text("of the old one")
    write(seed=3, epsilons=[0.5], force=True)
    assert not (folder / "vnnlib" / "more").exists()
    assert len((folder / "instances.csv").read_text().splitlines()) == 6

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    with pytest.raises(FileExistsError, match="mine exists: force replaces it"):
        write(folder=mine)
    with pytest.raises(FileExistsError, match="mine exists and is not a benchmark: it has no benchmark.json"):
        write(folder=mine, force=True)
    assert files(mine) == {"thesis.tex": b"all of it"}


def test_what_was_there_stays_where_writing_fails(write, monkeypatch):
    folder = write()
    before = files(folder)

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(script, "version_2", fail)
    with pytest.raises(OSError, match="no space left"):
        write(force=True)
    with pytest.raises(OSError, match="no space left"):
        write(folder=folder.parent / "new")
    assert files(folder) == before and [p.name for p in folder.parent.iterdir()] == ["small"]


# Refusals

BAD = {
    r"epsilons must be a list of different numbers in \(0, 1\]": [
        {"epsilons": value} for value in ([], [0], [-0.1], [1.1], [float("nan")], [0.1, 0.1])
    ],
    "count must be a whole number of images, at least 1": [{"count": 0}, {"count": 1.5}],
    "count must be at most the 30 images that the net classifies correctly, got 31": [{"count": 31}],
    "pool must be at least the 3 images of count, got 2": [{"pool": 2}],
    "seed must be a whole number, at least 0": [{"seed": -1}, {"seed": "1"}],
    "timeout must be a whole number of seconds": [{"timeout": 0}, {"timeout": 0.5}],
    "name must be letters, digits": [{"name": name} for name in ("", "a b", "a,b", "../up", "a/b")],
    "flavours must be different": [{"flavours": []}, {"flavours": ["relu", "relu"]}],
    "flavour must be maxpool or relu, got 'gemm'": [{"flavours": ["gemm"]}],
    "kinds must be a list of different ones of any, one": [{"kinds": []}, {"kinds": ["all"]}, {"kinds": ["any"] * 2}],
}


@pytest.mark.parametrize("message, changes", [(message, c) for message, cases in BAD.items() for c in cases])
def test_refuses(write, tmp_path, message, changes):
    with pytest.raises(ValueError, match=message):
        write(**changes)
    assert list(tmp_path.iterdir()) == []


def test_refuses_data_that_do_not_fit(write, net, data, tmp_path):
    x, y = data.x_test, data.y_test
    with pytest.raises(ValueError, match=r"the net takes images of shape \(2, 3, 2\), those of data have \(2, 2, 3\)"):
        write(data=with_labels(data, x.transpose(2, 3), y))
    with pytest.raises(ValueError, match="data has the label 4, net only 4 classes"):
        write(data=with_labels(data, x, y.where(torch.arange(40) != 39, 4)))
    with torch.no_grad():
        wrong = (net(x).argmax(1) + 1) % CLASSES
    with pytest.raises(ValueError, match="count must be at most the 0 images that the net classifies correctly, got 3"):
        write(data=with_labels(data, x, wrong))
    with pytest.raises(ValueError, match="x must be .* float32 in"):
        write(data=with_labels(data, x * 3, net(x * 3).argmax(1)))
    assert list((tmp_path / "a").iterdir()) == []
