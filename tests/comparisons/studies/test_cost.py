"""Cost: each part in miniature, what its parts compute, and results that are kept."""

import json

import pytest
import torch

from comparisons.studies import cost, cost_report
from comparisons.studies.shell import main
from linf_plugin.datasets import Dataset, load_dataset
from linf_plugin.training import Schedule


@pytest.fixture
def small(monkeypatch):
    """Every part on small nets and few images."""
    for name, value in {
        "TIMED": {"small": ("linf-mlp", {"width": 8, "depth": 2})},
        "TIMED_BATCH": 4,
        "REPEATS": 2,
        "MEMORY_CASES": [("CROWN", 8, 2, 1)],
        "CASCADE": {**cost.CASCADE, "width": 8, "depth": 2, "images": 60},
        "CASCADE_SCHEDULE": Schedule(epochs=3, eps=0.1, p_end=2),
        "TRIALS": 3,
        "TEST_IMAGES": 40,
        "UNDECIDED": 3,
        "DIGITS_EPOCHS": 3,
        "DIGITS_WIDTH": 8,
        "DIGITS_IMAGES": 8,
        "MULTIPLES": (0.1, 0.5),
    }.items():
        monkeypatch.setattr(cost, name, value)


def toy() -> Dataset:
    """Two classes: whether the left or the right half is brighter."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(100) % 2
    x = 0.6 * torch.rand(100, 1, 4, 4, generator=generator)
    x[y == 0, :, :, :2] += 0.4
    x[y == 1, :, :, 2:] += 0.4
    return Dataset("toy", x[:60], y[:60], x[60:], y[60:], (0.5,), 0.3)


def test_parts_are_measured_and_kept(small, tmp_path, monkeypatch, capsys):
    sources = {"mnist": toy, "digits": lambda: load_dataset("digits")}
    monkeypatch.setattr(cost, "load_dataset", lambda name, data_dir=None: sources[name]())
    assert main(cost.STUDY, ["--out", str(tmp_path), "--parts", "d,a"]) == 0
    first = json.loads((tmp_path / "results.json").read_text())
    assert main(cost.STUDY, ["--out", str(tmp_path), "--parts", "b,c"]) == 0
    results, printed = json.loads((tmp_path / "results.json").read_text()), capsys.readouterr().out
    assert main(cost.STUDY, ["--out", str(tmp_path), "--parts", "a,c"]) == 2
    assert "results.json has part a, c: --force replaces it" in capsys.readouterr().err
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(first) == ["study", "a", "d"] and {part: results[part] for part in first} == first
    assert (tmp_path / "table.md").read_text() == cost_report.table(results) in printed

    assert all(seconds > 0 for seconds in results["a"]["nets"]["small"].values())
    memory = results["b"]["rows"][0]
    assert 0 <= memory["peak"] < memory["idle"] and memory["seconds"] > 0
    cascade = results["c"]
    assert cascade["survives"] - cascade["certified"] == cascade["undecided"]
    assert cascade["certified"] == sum(t["certified"] for t in cascade["tallies"].values()) > 0
    for t in cascade["costly"].values():
        assert t["tried"] == min(3, cascade["undecided"])
    for net in results["d"]["nets"].values():
        for found in net["certified"].values():
            assert found["best"] >= max(found.values()) and found["best"] <= net["clean"]


def test_memory_of_bounds_is_that_beyond_the_net(monkeypatch):
    """64 MB that are made and dropped during compute_bounds are seen, those made before are not."""
    monkeypatch.setattr(cost, "compute_bounds", lambda bounded, x, method, output_only: torch.ones(16 << 20))
    before = torch.ones(64 << 20)
    del before
    assert 60e6 < cost.peak_memory("IBP", 8, 2, 1)["peak"] < 80e6


def test_eps_is_where_the_lipschitz_bound_has_its_share():
    """Radii 0.01 to 1, and an attack that breaks a sample a quarter beyond its radius: 0.9 survive up to ε."""
    radii = torch.arange(1, 101) / 100
    found = cost.choose_eps(radii, lambda eps: 1.25 * radii > eps)
    share = (radii > found).sum() / (1.25 * radii > found).sum()
    assert abs(share - 0.9) < 0.02


def test_costly_methods_stop_where_they_are_slow(small, monkeypatch):
    model, _ = cost.train_for_cascade(toy())
    monkeypatch.setattr(cost, "choose_eps", lambda radii, survives: 0.15)
    monkeypatch.setattr(cost, "pgd_survives", lambda model, x, y, eps, **attack: model(x).argmax(1) == y)
    monkeypatch.setattr(cost, "PATIENCE", 0.0)
    measured = cost.run_cascade(model, toy())
    assert measured["undecided"] > cost.FEW and all(t["tried"] == cost.FEW for t in measured["costly"].values())


def test_the_table_shows_what_is_beyond_the_lipschitz_bound():
    counts = {"lipschitz": 5, "ibp": 6, "crown-ibp": 5, "crown": 4, "alpha-crown": 7, "best": 7}
    part = {"images": 9, "epochs": 1, "width": 8, "nets": {"a net": {"clean": 8, "certified": {"0.1": counts}}}}
    assert "| 0.1 | 5 | **6** | 5 | 4 | **7** | **7** |" in cost_report.table({"d": part})


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--parts", "a,e"], "--parts must be among a, b, c, d, got 'e'"),
        (["--parts", "c"], "data_dir is needed for mnist"),
    ],
)
def test_wrong_requests_measure_nothing(arguments, message, tmp_path, capsys):
    assert main(cost.STUDY, ["--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
