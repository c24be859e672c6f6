"""The examples run, and what they write is certified as their docstrings say."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from comparisons import cli
from comparisons.cli import main
from comparisons.results.file import read

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TRAIN, RESNET = EXAMPLES / "train_cnn.py", EXAMPLES / "resnet18.py"
DIGITS = ROOT / "tests" / "early"


def _ran(program: Path, folder: Path, epochs: int) -> float:
    """Runs an example, and returns the accuracy that it says, in percent."""
    arguments = [sys.executable, str(program), "--out", str(folder), "--epochs", str(epochs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert f"epoch {epochs} of {epochs}, loss " in done.stdout
    return float(re.search(r"([\d.]+) % of the test images are classified correctly", done.stdout)[1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    accuracy = _ran(TRAIN, folder, 3)
    assert accuracy > 80 and sorted(p.name for p in folder.iterdir()) == ["cnn.onnx", "cnn.pt", "cnn.safetensors"]
    return folder, accuracy


ATTACK = ["--attack", "pgd,steps=2,restarts=1", "--quiet"]
FAST = ["--data", "digits", "--eps", "0.02", "--samples", "60", *ATTACK]
WAYS = {
    "onnx": lambda folder: ["--onnx", f"{folder}/cnn.onnx"],
    "pt": lambda folder: ["--model", f"{TRAIN}:net", "--weights", f"{folder}/cnn.pt"],
    "safetensors": lambda folder: ["--model", f"{TRAIN}:net", "--weights", f"{folder}/cnn.safetensors"],
}


def test_the_cnn_is_certified_from_each_of_its_files(trained, tmp_path):
    folder, _ = trained
    for name, way in WAYS.items():
        assert main(["certify", *way(folder), "--name", name, "--out", str(tmp_path), *FAST]) == 0
    found = read(tmp_path).methods
    for m in found.values():
        assert 0 < m.proved(0.02) <= m.attacked["pgd"][0.02] <= m.clean
    assert (found["pt"].certified, found["pt"].attacked) == (
        found["safetensors"].certified,
        found["safetensors"].attacked,
    )
    assert found["pt"].clean == found["onnx"].clean
    assert found["pt"].proved(0.02) == pytest.approx(
        found["onnx"].proved(0.02), abs=1 / 60
    )  # BatchNorm is folded there


def test_the_cnn_stands_beside_the_nets_of_a_recipe(trained, tmp_path):
    folder, accuracy = trained
    options = ["--data", "digits", "--eps", "0.1", "--methods", "ibp,crown-ibp", "--out", f"{tmp_path}/mine", *ATTACK]
    assert main(["certify", *WAYS["pt"](folder), *options]) == 0
    (m,) = read(tmp_path / "mine").methods.values()
    assert 100 * m.clean == pytest.approx(accuracy, abs=0.01)  # the whole test set
    assert main(["report", str(DIGITS), f"{tmp_path}/mine", "--out", f"{tmp_path}/both"]) == 0
    lines = (tmp_path / "both" / "comparison.md").read_text().splitlines()
    assert lines[0] == "## digits, ε = 0.1 in ℓ∞: side by side"
    assert "| train_cnn:net | given net | 360 test images | " in lines[8] and "| recipe `digits` |" in lines[7]


def test_a_resnet_with_batchnorm_is_certified(tmp_path):
    assert _ran(RESNET, tmp_path, 3) > 80
    weights = f"{tmp_path}/net.pt"
    options = ["--data", "digits", "--eps", "0.001", "--samples", "30", "--methods", "ibp,crown-ibp", *ATTACK]
    out = tmp_path / "out"
    assert main(["certify", "--model", f"{RESNET}:net", "--weights", weights, "--out", str(out), *options]) == 0
    (m,) = read(out).methods.values()
    assert 0.5 < m.proved(0.001) <= m.attacked["pgd"][0.001] <= m.clean
    model = runpy.run_path(str(RESNET))["net"]()
    model.load_state_dict(torch.load(weights))
    x, moved = torch.rand(50, 1, 8, 8), 1e-3 * (2 * torch.randint(2, (50, 1, 8, 8)) - 1)
    with torch.no_grad():
        difference = (model.eval()(x + moved) - model(x)).abs().mean(1).max().item()
        assert 0 < difference <= 1e-3 * model.growth().item() * (1 + 1e-4)


@pytest.mark.parametrize("program", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_commands_of_the_docstring_are_understood(program):
    lines = re.findall(r"^    (linf-compare certify .*)$", program.read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        args = cli._parser().parse_args(line.split()[1:])
        assert args.data == "digits" and (args.onnx is None) == (args.model is not None)
        assert args.model is None or args.model == f"examples/{program.name}:net"
