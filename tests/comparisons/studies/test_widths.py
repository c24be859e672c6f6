"""Widths: the nets, what is counted, the table, and a run."""

import dataclasses
import json
import math

import pytest
import torch

from comparisons.studies import widths
from comparisons.studies.shell import main
from linf_plugin import LinfDistLinear


def test_nets_have_the_same_weights_for_every_p():
    nets = {p: widths.random_net(p, seed=3) for p in (math.inf, 2.0)}
    for p, net in nets.items():
        assert [type(layer) for layer in net] == [LinfDistLinear, LinfDistLinear, torch.nn.Linear]
        assert all(layer.p == p and layer.bias is None for layer in net[:2])
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets.values())))
    assert nets[2.0](torch.rand(3, 48, dtype=torch.float64)).shape == (3, 10)


def test_looser_bounds_are_counted(monkeypatch):
    """Each end by itself, and one that is not a number."""
    ends = {method: (torch.zeros(2, 2), torch.ones(2, 2)) for method in widths.BOUND_METHODS}
    ends["CROWN"] = torch.tensor([[-0.5, 0.5], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.25, math.nan]])
    ends["Forward"] = torch.zeros(2, 2), torch.full((2, 2), 0.25)
    monkeypatch.setattr(widths, "bounds", lambda net, x: (ends, 20))
    measured = widths.measure(None, None)
    assert measured["looser"] == {**dict.fromkeys(widths.BOUND_METHODS, 0), "CROWN": 3} and measured["bounds"] == 8
    assert measured["width"] == 1 and measured["ratios"]["Forward"] == 0.25


@pytest.fixture
def results():
    def run(crown, alpha):
        ratios = {**dict.fromkeys(widths.BOUND_METHODS, 1.0), "CROWN": crown, "CROWN-Optimized": alpha}
        none = dict.fromkeys(widths.BOUND_METHODS, 0)
        return {"width": 2.0, "bounds": 8, "iterations": 20, "ratios": ratios, "looser": none}

    cases = [
        {"inputs": "normal", "p": "inf", "runs": [run(0.1, 0.1)]},
        {"inputs": "uniform", "p": "inf", "runs": [run(0.7, 0.5), run(0.9, 0.6)]},
    ]
    return {"sizes": [4, 2], "eps": 0.1, "images": 3, "seeds": 2, "asked": widths.ASKED_RATIOS, "cases": cases}


def test_the_table_says_what_was_asked_and_reached(results):
    text = widths.table(results)
    assert "CROWN asked ≤ 0.85, reached 0.800; α-CROWN asked ≤ 0.70, reached 0.550." in text
    assert "| U[0, 1] | ∞ | 2.000 |" in text and "| 0.800 (0.700–0.900) |" in text and "| 0.550 (0.500–0.600) |" in text
    assert "None of 144 output bounds is looser" in text


def test_the_table_says_that_a_bound_is_looser(results):
    results["cases"][1]["runs"][0]["looser"]["Forward"] = 2
    assert widths.looser(results) == 2 and "**2 of 144 output bounds are looser" in widths.table(results)


def test_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(widths, "NET_SIZES", (6, 5, 4, 3))
    monkeypatch.setattr(widths, "EXPONENTS", (math.inf,))
    assert main(widths.STUDY, ["--out", str(tmp_path), "--images", "2", "--seeds", "1", "--quiet"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["cases"]) == len(widths.INPUTS) and widths.looser(results) == 0
    for case in results["cases"]:
        ratios = case["runs"][0]["ratios"]
        assert ratios["IBP"] == 1 and all(0 < ratio <= 1 for ratio in ratios.values()) and ratios["CROWN"] < 1
    assert case["runs"][0]["iterations"] == 20
    assert (tmp_path / "table.md").read_text() == widths.table(results) in capsys.readouterr().out


def test_looser_bounds_are_an_exit_status(tmp_path, results):
    study = dataclasses.replace(widths.STUDY, measure=lambda args, save: results)
    assert main(study, ["--out", str(tmp_path)]) == 0
    results["cases"][0]["runs"][0]["looser"]["CROWN"] = 1
    assert main(study, ["--out", str(tmp_path), "--force"]) == 1


@pytest.mark.parametrize("option", ["--images", "--seeds"])
def test_numbers_must_be_positive(option, tmp_path, capsys):
    assert main(widths.STUDY, ["--out", str(tmp_path), option, "0"]) == 2
    assert f"{option} must be positive" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
