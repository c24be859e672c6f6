"""A net from a Python file of the user: what runs, and what each fault of the file becomes."""

import pytest
import torch
from torch import nn

from linf_plugin.model_file import load_model


def _write(folder, text):
    (folder / "mine.py").write_text(text)
    return str(folder / "mine.py")


def test_the_function_builds_the_net_in_evaluation_mode(tmp_path):
    path = _write(
        tmp_path, "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(2, 3), nn.Dropout())\n"
    )
    model = load_model(f"{path}:net")
    assert isinstance(model, nn.Sequential) and not any(m.training for m in model.modules())
    assert model(torch.ones(1, 2)).shape == (1, 3)


def test_a_class_and_a_neighbour_of_the_file_are_found(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("from torch import nn\nclass Net(nn.Linear):\n    pass\n")
    path = _write(
        tmp_path,
        "from dataclasses import dataclass\nfrom neighbour_of_mine import Net as Base\n"
        "@dataclass\nclass Size:\n    n: int\n"
        "class Net(Base):\n    def __init__(self, size=Size(4)):\n        super().__init__(size.n, 2)\n",
    )
    assert load_model(f"{path}:Net").in_features == 4


WRONG = {
    "form": ("", "", ValueError, r"a model is given as FILE.py:FUNCTION, got '.*mine.py'"),
    "no-name": ("", ":", ValueError, "a model is given as FILE.py:FUNCTION"),
    "no-function": ("a = 1", ":net", ValueError, "mine.py has no function net"),
    "no-callable": ("net = 1", ":net", ValueError, "mine.py has no function net"),
    "arguments": ("def net(width): pass", ":net", TypeError, "net of .*mine.py must take no arguments"),
    "no-net": ("def net(): return {}", ":net", TypeError, "must return a torch.nn.Module, got dict"),
    "syntax": ("def net(:\n", ":net", ValueError, r"mine.py raised SyntaxError: .* \(.*mine.py, line 1\)"),
    "import": ("import no_such_package", ":net", ValueError, r"mine.py raised ModuleNotFoundError: .*line 1\)"),
    "exit": ("import sys\nsys.exit(3)", ":net", ValueError, r"mine.py raised SystemExit: 3 \(.*mine.py, line 2\)"),
    "raises": (
        "def net():\n    return 1 / 0\n",
        ":net",
        ValueError,
        r"net of .*mine.py raised ZeroDivisionError: .*line 2\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_fault_is_one_sentence(name, tmp_path):
    text, place, kind, message = WRONG[name]
    with pytest.raises(kind, match=message) as error:
        load_model(_write(tmp_path, text) + place)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.py does not exist"):
        load_model(f"{tmp_path}/none.py:net")
