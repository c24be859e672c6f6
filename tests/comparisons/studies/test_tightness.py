"""Tightness: bisection, the table, and a run that repeats."""

import json

import pytest
import torch

from comparisons.studies import tightness
from comparisons.studies.shell import main
from linf_plugin.certificates.table import LIRPA_METHODS
from linf_plugin.training import Schedule

pytestmark = pytest.mark.usefixtures("few_alpha_steps")


def test_bisection_finds_where_each_sample_stops():
    limits = torch.tensor([0.3, 0.0, 0.05, 0.7, 0.31], dtype=torch.float64)
    top = torch.tensor([0.5, 0.5, 0.05, 0.6, 0.5], dtype=torch.float64)
    asked = []

    def certified(eps, rows):
        asked.append((eps, len(rows)))
        return eps < limits[rows]

    expected = torch.minimum(limits, top)
    found = tightness.largest_radii(certified, top, torch.zeros(5, dtype=torch.float64))
    assert (found <= expected).all() and (found >= expected - tightness.PRECISION * top).all()
    assert len({eps for eps, _ in asked}) == len(asked) < 5 * 14  # an answer serves every sample
    assert min(rows for _, rows in asked) == 1  # and only samples that it serves are asked about

    without, asked[:] = len(asked), []
    found = tightness.largest_radii(certified, top, 0.999 * limits, precision=1e-3)
    assert (found <= expected).all() and (found >= expected - 1e-3 * top).all()
    assert len(asked) < without


def case(upper, status, **certified):
    measured = {
        "seed": 0,
        "clean": 0.9,
        "rows": list(range(len(upper))),
        "lower": upper,
        "upper": upper,
        "status": status,
        "seconds": [0.5] * len(upper),
        "certified": certified,
    }
    return {"label": "a net", "runs": [measured]}


@pytest.fixture
def results():
    status = ["optimal", "optimal", "time limit"]
    one = case([0.2, 0.4, 0.5], status, lipschitz=[0.1, 0.1, 0.1], ibp=[0.05, 0.4, 0.1])
    return {"dataset": "some", "images": 3, "seeds": 1, "precision": {"ibp": 1e-4}, "cases": {"one": one}}


def test_ratios_are_of_solved_images_alone(results):
    of = tightness.ratios(results["cases"]["one"])
    assert of == {"lipschitz": [0.5, 0.25], "ibp": [0.25, 1.0], "best": [0.5, 1.0]}
    row = next(line for line in tightness.table(results).splitlines() if line.startswith("| a net"))
    assert "| 90.0 | 2 of 3 | 0.300 | 0.375 (0.250) | 0.625 (0.250) | 0.750 (0.500) | 0.50 |" in row


def test_a_certificate_beyond_the_exact_radius_is_counted(results):
    assert tightness.beyond(results) == 0 and "No certificate" in tightness.table(results)
    results["cases"]["one"]["runs"][0]["certified"]["ibp"][1] = 0.4001
    assert tightness.beyond(results) == 1 and "a bound is wrong" in tightness.table(results)


def test_nothing_solved_leaves_dashes():
    nothing = case([1.0], ["time limit"], lipschitz=[0.1])
    results = {"dataset": "some", "images": 1, "seeds": 1, "precision": {}, "cases": {"one": nothing}}
    assert "| 0 of 1 | – | – |" in tightness.table(results)


def test_the_table_has_a_column_for_every_certificate_in_the_results(results):
    """In their order, "best of all" last; precisions are those of the data."""
    results["cases"]["two"] = case([0.2], ["optimal"], lipschitz=[0.1], another=[0.15])
    results["precision"] = {"ibp": 1e-4, "crown": 1e-4, "another": 1e-3}
    text = tightness.table(results)
    assert "| exact radius | Lipschitz | interval | another | best of all | s/image, exact |" in text
    assert "0.01 % (interval, CROWN), 0.1 % (another)" in text
    assert "| a net | 90.0 | 1 of 1 | 0.200 | 0.500 (0.500) | – | 0.750 (0.750) | 0.750 (0.750) | 0.50 |" in text


@pytest.mark.parametrize("key", tightness.SMALL_NETS)
def test_each_case_runs(key, tmp_path, monkeypatch, capsys):
    """With fewer epochs; the table comes from the file."""
    monkeypatch.setattr(tightness, "SMALL_NETS", {key: tightness.SMALL_NETS[key]})
    monkeypatch.setattr(tightness, "Schedule", lambda epochs, eps, **times: Schedule(epochs=2, eps=eps, p_end=1))
    assert main(tightness.STUDY, ["--out", str(tmp_path), "--images", "2", "--seeds", "1", "--quiet"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    run = results["cases"][key]["runs"][0]
    assert run["status"] == ["optimal"] * 2 and all(0 < u for u in run["upper"])
    assert all(max(r) > 0 for method, r in run["certified"].items())
    assert list(run["certified"]) == ["lipschitz", *LIRPA_METHODS] and list(results["precision"]) == list(LIRPA_METHODS)
    assert (tmp_path / "table.md").read_text() == tightness.table(results)
    assert tightness.table(results) in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--images", "--seeds", "--time-limit"])
def test_numbers_must_be_positive(option, tmp_path, capsys):
    assert main(tightness.STUDY, ["--out", str(tmp_path), option, "0"]) == 2
    assert f"{option} must be positive" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
