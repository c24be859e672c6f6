"""Problems for α,β-CROWN: the two files say what they must, and the Python file gives net, images and box."""

import importlib.util
import json
import re

import pytest
import torch

import linf_plugin
from linf_plugin.datasets import OtherData, load_dataset
from onnx_export.cli import main
from onnx_export.verifiers.abcrown import BOX_SLACK, SOLVER_SETTINGS, write_abcrown


def parsed(text: str) -> dict:
    """YAML of nested mappings and plain values, with one entry a line; anything else fails."""
    root = {}
    levels = [(-1, root)]
    for line in text.splitlines():
        line = re.sub(r"(^|  )#.*", "", line)
        if not line:
            continue
        indent, key, value = re.fullmatch(r"( *)([a-z_-]+):(?: (.+))?", line).groups()
        while levels[-1][0] >= len(indent):
            levels.pop()
        if value is None:
            levels[-1][1][key] = {}
            levels.append((len(indent), levels[-1][1][key]))
        elif value.startswith("'"):
            levels[-1][1][key] = re.fullmatch(r"'([^']*)'", value).group(1)
        elif re.fullmatch(r"[a-z][a-z-]*", value) and value not in ("true", "false"):
            levels[-1][1][key] = value
        else:
            levels[-1][1][key] = float("inf") if value == ".inf" else json.loads(value)
    return root


def called(path, expression: str):
    """What the verifier does with ``Customized("file", "function")``: runs the file, takes the function."""
    file, function = re.fullmatch(r'Customized\("([^"]+)", "([^"]+)"\)', expression).groups()
    spec = importlib.util.spec_from_file_location("customized", path.parent / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


@torch.no_grad()
def test_problem(made, tmp_path):
    problem, path = write_abcrown(made.checkpoint, tmp_path / "a" / "b", 0.1, samples=7)
    assert problem.parent == path.parent == tmp_path / "a" / "b"
    config = parsed(path.read_text())
    assert config["specification"] == {"norm": float("inf"), "epsilon": 0.1}
    assert config["data"]["num_outputs"] == 10
    assert config["general"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")

    model, x = called(path, config["model"]["name"])(), torch.rand(3, 1, 8, 8)
    assert not model.training and torch.equal(model(x), made.net(x))
    images, labels, high, low, eps = called(path, config["data"]["dataset"])(config["specification"])
    data = load_dataset("digits")
    assert torch.equal(images, data.x_test[:7]) and torch.equal(labels, data.y_test[:7])
    assert images.shape == (7, 1, 8, 8) and labels.dtype == torch.int64
    assert high.shape == low.shape == eps.shape == (1, 1, 1, 1)
    assert (high, low) == (1, 0) and 0.1 < eps.item() < 0.1 + 2e-7


def test_the_net_follows_the_verifiers_dtype(made, tmp_path):
    _, path = write_abcrown(made.checkpoint, tmp_path, 0.1, samples=1)
    build = called(path, parsed(path.read_text())["model"]["name"])
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert {p.dtype for p in build().parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("eps", [1e-6, 0.1, 8 / 255, 1 / 3, 1.0])
def test_the_box_is_never_too_small(eps):
    """In float32, as the verifier computes it, against float64."""
    x = torch.cat([torch.rand(100_000), torch.arange(256) / 255])
    radius = torch.tensor(eps + BOX_SLACK)
    assert ((x - radius).double() <= x.double() - eps).all()
    upper = (x + radius).clamp(max=1).double()
    assert (upper >= (x.double() + eps).clamp(max=1)).all()


def test_small_epsilons_are_numbers(made, tmp_path):
    """PyYAML reads 1e-05 as a string."""
    _, path = write_abcrown(made.checkpoint, tmp_path, 1e-5, samples=1)
    assert "epsilon: 0.00001  #" in path.read_text()


NETS = {  # architecture, arguments → kind of net
    "distance": ("linf-mlp", {"width": 4, "depth": 2}),
    "ordinary": ("relu-mlp", {"width": 4, "depth": 2}),
}

SOLVERS = {
    "distance": {
        "bound_prop_method": "alpha-crown",
        "early_stop_patience": 50,
        "crown": {"compare_crown_with_ibp": True},
        "alpha-crown": {"iteration": 50, "lr_alpha": 0.5, "share_alphas": True},
    },
    "ordinary": {"bound_prop_method": "alpha-crown"},
}


@pytest.mark.parametrize("kind", NETS)
def test_settings(small_net, tmp_path, kind):
    name, arguments = NETS[kind]
    net = small_net(name, **arguments)
    linf_plugin.save(tmp_path / "net.pt", net, {"dataset": "digits"})
    _, path = write_abcrown(tmp_path / "net.pt", tmp_path, 0.1, samples=2)
    config = parsed(path.read_text())
    assert config["general"]["complete_verifier"] == SOLVER_SETTINGS[kind][0]
    assert config["solver"] == SOLVERS[kind]


def test_command(made, tmp_path, capsys):
    folder = tmp_path / "out"
    command = ["abcrown", str(made.checkpoint), "--eps", "0.2", "--out", str(folder), "--samples", "3"]
    assert main(command) == 0
    assert f"abcrown.py --config {folder / 'config.yaml'}" in capsys.readouterr().out
    (folder / "config.yaml").write_text("mine")
    assert main(command) == 2
    assert "problem.py exists: --force replaces it" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert "epsilon: 0.2 " in (folder / "config.yaml").read_text()
    assert "DATASET, FOLDER, SAMPLES = 'digits', None, 3" in (folder / "problem.py").read_text()


def test_a_problem_is_of_the_images_that_it_was_written_for(made, tmp_path):
    """Of data of one's own, too, which are read in the layout of known ones."""
    data, checkpoint = load_dataset("digits", own_name="mine"), tmp_path / "net.pt"
    linf_plugin.save(checkpoint, made.net, data.identity)
    _, path = write_abcrown(checkpoint, tmp_path / "out", 0.1, dataset="digits", samples=3)
    read = called(path, 'Customized("problem.py", "data")')
    assert torch.equal(read({"epsilon": 0.1})[0], data.x_test[:3])
    problem = tmp_path / "out" / "problem.py"
    problem.write_text(problem.read_text().replace(data.digests[1], "0" * 64))
    with pytest.raises(ValueError, match="not those for which this problem was written"):
        called(path, 'Customized("problem.py", "data")')({"epsilon": 0.1})
    linf_plugin.save(checkpoint, made.net, data.identity | {"test_data_sha256": "0" * 64})
    with pytest.raises(OtherData, match="test images and labels of mine here are not those that .*net.pt is about"):
        write_abcrown(checkpoint, tmp_path / "other", 0.1, dataset="digits", samples=3)
    assert not (tmp_path / "other").exists()


def test_paths_are_relative(made, tmp_path, monkeypatch):
    """Checkpoint, data and problem may move together."""
    data = load_dataset("digits")
    monkeypatch.setattr("onnx_export.verifiers.abcrown.load_dataset", lambda *_: data)
    (tmp_path / "net.pt").write_bytes(made.checkpoint.read_bytes())
    problem, _ = write_abcrown(
        tmp_path / "net.pt", tmp_path / "out", 0.1, dataset="mnist", data_dir=tmp_path / "data", samples=2
    )
    text = problem.read_text()
    assert "CHECKPOINT = HERE / '../net.pt'" in text and str(tmp_path) not in text
    assert "DATASET, FOLDER, SAMPLES = 'mnist', HERE / '../data', 2" in text


def test_refuses(made, tmp_path):
    def write(**options):
        write_abcrown(**{"checkpoint": made.checkpoint, "folder": tmp_path, "eps": 0.1} | options)

    for eps in (0, -0.1, 8, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"eps must lie in \(0, 1\]"):
            write(eps=eps)
    with pytest.raises(ValueError, match="at least 1"):
        write(samples=0)
    with pytest.raises(ValueError, match="at most the 360 test images of digits, got 361"):
        write(samples=361)
    with pytest.raises(ValueError, match="data set must be one of digits, .* got 'svhn'"):
        write(dataset="svhn")
    with pytest.raises(ValueError, match="data_dir is needed for mnist"):
        write(dataset="mnist")
    with pytest.raises(FileNotFoundError, match="none.pt"):
        write(checkpoint=tmp_path / "none.pt")
    linf_plugin.save(tmp_path / "net.pt", made.net, {})
    with pytest.raises(ValueError, match="names no data set: give one of digits"):
        write(checkpoint=tmp_path / "net.pt")
    other = linf_plugin.build("linf-mlp", shape=(1, 4, 4), classes=10, width=4, depth=1)
    linf_plugin.save(tmp_path / "net.pt", other, {})
    with pytest.raises(ValueError, match=r"takes images of shape \(1, 4, 4\), those of digits have \(1, 8, 8\)"):
        write(checkpoint=tmp_path / "net.pt", dataset="digits")
    assert not (tmp_path / "problem.py").exists()


# linf-export import


def test_import(made, tmp_path, capsys):
    path = tmp_path / "net.pt"
    assert main(["import", str(made.onnx), "-o", str(path)]) == 0
    assert "normalize, flatten, dist, dist, dist, negate; Lipschitz bound 2.5" in (capsys.readouterr().out)
    net, metadata = linf_plugin.load(path)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(net(x), made.net(x))
    digits = load_dataset("digits").identity
    assert metadata == {**digits, "method": "linf-dist", "epsilon": 0.1, "seed": 3}
    assert main(["import", str(made.onnx), "-o", str(path), "--data", "mnist", "--force"]) == 0
    metadata = linf_plugin.load(path)[1]
    assert metadata["dataset"] == "mnist" and "test_data_sha256" not in metadata  # that was of the digits


def test_import_refuses(tmp_path, capsys):
    (tmp_path / "text.onnx").write_text("text")
    for name, message in (("none.onnx", "none.onnx"), ("text.onnx", "text.onnx is not a complete ONNX file")):
        assert main(["import", str(tmp_path / name), "-o", str(tmp_path / "net.pt")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "net.pt").exists()


@pytest.mark.parametrize("command", ["import", "abcrown"])
def test_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert "examples:" in capsys.readouterr().out
