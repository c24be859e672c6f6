"""Timed steps: every form of a step does the same, and the table says what the file says."""

import json
import math

import pytest
import torch

from comparisons.studies import steps
from comparisons.studies.shell import main


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(steps, "NETS", {"8 wide": (8, 2, 4)})
    monkeypatch.setattr(steps, "ON_CPU", ["8 wide"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's compiler about torch itself
@pytest.mark.parametrize("p", [8.0, math.inf])
def test_every_form_takes_the_same_step(monkeypatch, p):
    nets = []
    build = steps.linf_plugin.build
    monkeypatch.setattr(steps.linf_plugin, "build", lambda *a, **kw: nets.append(build(*a, **kw)) or nets[-1])
    forms = steps.variants(8, 2, 4, p, "cpu")
    for form in forms.values():
        form()
    for net in nets[1:]:
        for one, other in zip(nets[0].parameters(), net.parameters()):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert list(forms) == ["plain", "torch.compile", "fused Adam", "both"] and len(nets) == 4
    assert not torch.equal(
        nets[0][2].weight, build("linf-mlp", shape=(1, 28, 28), classes=10, width=8, depth=2)[2].weight
    )


def test_it_is_measured_and_tabled(tiny, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(steps, "variants", lambda *_: {"plain": lambda: None, "fused Adam": lambda: None})
    assert main(steps.STUDY, ["--out", str(tmp_path), "--rounds", "3", "--quiet"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["p"] for row in results["rows"]] == ["8.0", "100.5", "inf"]
    row = results["rows"][0]
    line = f"| 8 wide | 8 | {1e3 * row['plain_seconds']:.1f} | {row['ratios']['fused Adam']:.2f} |"
    assert line in capsys.readouterr().out and line in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("argument", ["--rounds", "--nets"])
def test_wrong_requests_are_named(argument, capsys):
    assert main(steps.STUDY, [argument, "0"]) == 2
    assert f"{argument} must be positive" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA refuses it")
def test_cuda_is_refused_where_there_is_none(capsys):
    assert main(steps.STUDY, ["--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err
