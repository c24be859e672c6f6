"""``linf-compare spectral``: the table of a net's layers, of a Python file or of a checkpoint."""

import math
import re

import pytest
import torch
from torch import nn

import linf_plugin
from comparisons import cli
from linf_plugin.spectral import bound, report

NET = """\
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
def attention(): return nn.MultiheadAttention(4, 2)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spectral_net.py").write_text(NET)
    return tmp_path


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)).eval()


def test_it_prints_the_report_of_a_model(here, capsys):
    assert cli.main(["spectral", "--model", "spectral_net.py:net"]) == 0
    assert capsys.readouterr().out == f"{report(_net())}\n"
    arguments = ["--model", "spectral_net.py:net", "--shape", "1,4,4", "--methods", "matrix, power", "--out", "a.md"]
    assert cli.main(["spectral", *arguments]) == 0
    expected = f"{report(_net(), shape=(1, 4, 4), methods=('matrix', 'power'))}\n"
    assert capsys.readouterr().out == expected == (here / "a.md").read_text()
    assert cli.main(["spectral", *arguments]) == 2 and "a.md exists: --force" in capsys.readouterr().err


def test_weights_are_filled_in(here, capsys):
    other = _net()
    other[0].weight.data *= 3
    torch.save(other.state_dict(), "w.pt")
    assert cli.main(["spectral", "--model", "spectral_net.py:net", "--weights", "w.pt"]) == 0
    assert capsys.readouterr().out == f"{report(other)}\n"


def test_a_checkpoint_is_bounded_for_its_images(here, capsys):
    net = linf_plugin.build("dm-small", shape=(1, 16, 16), classes=3, mean=[0.5], std=0.25).eval()
    linf_plugin.save("net.pt", net)
    assert cli.main(["spectral", "--checkpoint", "net.pt", "--methods", "svd"]) == 0
    out = capsys.readouterr().out
    assert "images of 16×16" in out and "Product: " in out
    certificates = [bound(layer, size=s).value for layer, s in zip(_linear(net), ((16, 16), (7, 7), None, None))]
    product = float(re.search(r"Product: ([\d.e+-]+),", out)[1])
    assert product == pytest.approx(4 * math.prod(certificates), rel=1e-5)  # Normalize divides by 0.25


def _linear(net):
    return [layer for layer in net if isinstance(layer, (nn.Conv2d, nn.Linear))]


def test_a_net_that_is_no_chain_has_no_product(here, capsys):
    assert cli.main(["spectral", "--model", "spectral_net.py:attention"]) == 0
    assert "No product: MultiheadAttention" in capsys.readouterr().out


def test_forms_for_training_are_replaced_first(here, capsys):
    net = linf_plugin.build("sll-mlp", shape=(1, 6, 6), classes=3, depth=2, hidden=8).eval()
    linf_plugin.save("net.pt", net)
    plain = linf_plugin.materialise(net)
    assert cli.main(["spectral", "--checkpoint", "net.pt", "--methods", "svd"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(str(report(plain, methods=["svd"], shape=(1, 6, 6)))) and "PotentialLinear" in out
    assert out.endswith(
        "Forms for training were replaced by layers with stored weights first (linf_plugin.materialise).\n"
    )
    linf_plugin.save("plain.pt", plain)
    assert cli.main(["spectral", "--checkpoint", "plain.pt", "--methods", "svd"]) == 0
    assert out.startswith(said := capsys.readouterr().out) and "Forms for training" not in said
