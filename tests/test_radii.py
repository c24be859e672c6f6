"""ε may be written as 8/255 wherever it is asked for, and means the same everywhere."""

import re

import pytest
import torch
from torch import nn

import linf_plugin
import onnx_export
from comparisons import cli as compare
from comparisons.attacks.attacked import pgd_survives
from linf_plugin.certificates import certify, certify_each, margin_bound
from linf_plugin.training import Schedule
from onnx_export import cli as export

NAMES = ("--eps", "--epsilon")


@pytest.fixture
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()


def _samples():
    torch.manual_seed(0)
    return torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0, 1])


PYTHON = {
    "certify": lambda net, x, y, eps: certify(net, x, y, eps).bound,
    "certify_each": lambda net, x, y, eps: certify_each(net, x, y, eps, ["ibp"])["ibp"],
    "margin_bound": lambda net, x, y, eps: margin_bound(net, x, y, eps, "crown"),
    "pgd_survives": lambda net, x, y, eps: pgd_survives(net, x, y, eps, steps=2),
    "Schedule": lambda net, x, y, eps: torch.tensor(Schedule(epochs=1, eps=eps).at(1.0).eps),
}


@pytest.mark.parametrize("name", PYTHON)
def test_in_python(name, net):
    text, number = (PYTHON[name](net, *_samples(), eps) for eps in ("8/255", 8 / 255))
    assert torch.equal(text, number)


def test_in_exported_files(tmp_path):
    net = linf_plugin.build("linf-mlp", shape=(1, 2, 2), classes=3, width=4, depth=2).eval()
    for name, eps in (("text", "8/255"), ("number", 8 / 255)):
        onnx_export.export(net, tmp_path / name, epsilon=eps, certificate="interval")
    assert (tmp_path / "text").read_bytes() == (tmp_path / "number").read_bytes()


def _options():
    for prog, parser in (("linf-compare", compare._parser()), ("linf-export", export._parser())):
        (commands,) = (a for a in parser._actions if a.choices and hasattr(a, "_name_parser_map"))
        for name, command in commands.choices.items():
            for action in command._actions:
                for flag in set(action.option_strings) & set(NAMES):
                    yield pytest.param(action, id=f"{prog} {name} {flag}")


@pytest.mark.parametrize("option", list(_options()))
def test_on_command_lines(option):
    """Where the parser does not read the number, the command does, and its own tests are of that."""
    if option.type is None:
        assert re.search(r"8/255", option.help)
    else:
        found = option.type("8/255")
        assert found in (8 / 255, [8 / 255], (8 / 255,))
