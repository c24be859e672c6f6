"""The examples run, and what they write is certified as their docstrings say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from comparisons import cli
from comparisons.cli import main
from comparisons.results.file import read

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "examples" / "train_cnn.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("example")
    arguments = [sys.executable, str(TRAIN), "--out", str(folder), "--epochs", "3"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"([\d.]+) % of the test images are classified correctly", done.stdout)[1])
    assert "epoch 3 of 3, loss " in done.stdout and accuracy > 80
    assert sorted(p.name for p in folder.iterdir()) == ["cnn.onnx", "cnn.pt", "cnn.safetensors"]
    return folder, accuracy


FAST = ["--data", "digits", "--eps", "0.02", "--samples", "60", "--attack", "pgd,steps=2,restarts=1", "--quiet"]
WAYS = {
    "onnx": lambda folder: ["--onnx", f"{folder}/cnn.onnx"],
    "pt": lambda folder: ["--model", f"{TRAIN}:net", "--weights", f"{folder}/cnn.pt", "--unsound"],
    "safetensors": lambda folder: ["--model", f"{TRAIN}:net", "--weights", f"{folder}/cnn.safetensors", "--unsound"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_cnn_is_certified_from_each_of_its_files(way, trained, tmp_path):
    folder, _ = trained
    assert main(["certify", *WAYS[way](folder), "--out", str(tmp_path), *FAST]) == 0
    (m,) = read(tmp_path).methods.values()
    assert 0 < m.proved(0.02) <= m.attacked["pgd"][0.02] <= m.clean


def test_the_example_is_of_the_whole_test_set(trained, tmp_path):
    folder, accuracy = trained
    options = ["--data", "digits", "--eps", "0.001", "--attack", "none", "--methods", "ibp", "--quiet"]
    assert main(["certify", "--onnx", f"{folder}/cnn.onnx", "--out", str(tmp_path), *options]) == 0
    (m,) = read(tmp_path).methods.values()
    assert 100 * m.clean == pytest.approx(accuracy, abs=0.01)


def test_the_commands_of_the_docstring_are_understood():
    lines = re.findall(r"^    (linf-compare certify .*)$", TRAIN.read_text(), re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        args = cli._parser().parse_args(line.split()[1:])
        assert args.data == "digits" and (args.onnx is None) == (args.model is not None)
