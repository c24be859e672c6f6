"""The study of spectral norms: values are those of the package, and wrong bounds are counted."""

import copy
import json

import pytest
import torch

from comparisons.studies import spectral
from comparisons.studies.shell import main
from linf_plugin.spectral import Convolution, bound


@pytest.fixture
def tiny(monkeypatch):
    small = {
        "dense": spectral.Case("dense", lambda: torch.randn(5, 4, dtype=torch.float64)),
        "circular": spectral.Case(
            "conv", lambda: Convolution(torch.randn(2, 2, 3, 3).double(), padding=1, padding_mode="circular", size=5)
        ),
        "zeros": spectral.Case("zeros", lambda: Convolution(torch.randn(2, 2, 3, 3).double(), padding=1)),
    }
    monkeypatch.setattr(spectral, "CASES", small)


def test_it_is_measured_and_tabled(tiny, tmp_path, capsys):
    assert main(spectral.STUDY, ["--out", str(tmp_path), "--rounds", "1", "--quiet"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["cases"]) == ["dense", "circular", "zeros"] and spectral.below(results) == 0
    torch.manual_seed(0)
    weight = torch.randn(5, 4, dtype=torch.float64)
    dense = results["cases"]["dense"]
    assert dense["reference"] == torch.linalg.svdvals(weight)[0].item()
    assert dense["ways"]["svd, certified"]["value"] == bound(weight, "svd").value
    for case in results["cases"].values():
        assert case["ways"]["svd, certified"]["value"] <= case["reference"] * 1.2
        assert case["ways"]["power ×100, for training"]["value"] <= case["reference"] * (1 + 1e-5)
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out and "No certificate is below" in text
    assert f"| svd, certified | upper | {dense['ways']['svd, certified']['value']:.6g} |" in text


def test_a_wrong_certificate_is_counted(tiny, tmp_path):
    main(spectral.STUDY, ["--out", str(tmp_path), "--rounds", "1", "--quiet", "--cases", "dense"])
    results = json.loads((tmp_path / "results.json").read_text())
    wrong = copy.deepcopy(results)
    wrong["cases"]["dense"]["ways"]["gram, certified"]["value"] *= 0.999
    assert spectral.below(wrong) == 1 and "**1 certificates are below" in spectral.table(wrong)
    wrong["cases"]["dense"]["ways"]["gram ×6, for training"]["value"] *= 0.5  # no certificate
    assert spectral.below(wrong) == 1


def test_the_cases_are_those_described():
    torch.manual_seed(0)
    for name, case in spectral.CASES.items():
        layer = case.make()
        assert isinstance(layer, torch.Tensor) == (name == "dense")
    assert spectral.CASES["conv5-zeros"].make().size == (12, 12) and spectral.CASES["conv3-every"].make().size is None


@pytest.mark.parametrize(
    "arguments, text",
    [(["--rounds", "0"], "--rounds"), (["--cases", "nothing"], "--cases"), (["--cases", ","], "--cases")],
)
def test_wrong_requests_are_named(arguments, text, capsys):
    assert main(spectral.STUDY, arguments) == 2
    assert text in capsys.readouterr().err
