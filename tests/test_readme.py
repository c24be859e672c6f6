"""What README shows is what the code does and what was measured."""

import json
import re
from pathlib import Path

import pytest
from brute import __main__ as brute

from comparisons.recipe import load_recipe
from comparisons.report.tables import over_seeds, table
from comparisons.running.existing import identity_of
from comparisons.studies import ablation, bench_report, cost_report, steps, tightness, widths
from onnx_export.bench import table as onnx_bench
from onnx_export.verifiers import marabou_study

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = {  # all others are runs
    "tightness": tightness.table,
    "widths": widths.table,
    "cost": cost_report.table,
    "steps": steps.table,
    "cross-check": marabou_study.table,
    "onnx": onnx_bench.table,
    "exact": brute.table,
}
ABLATIONS = sorted((ROOT / "docs" / "results" / "ablations").glob("*/results.json"))
RUNS = [p for p in sorted((ROOT / "docs" / "results").glob("*/results.json")) if p.parent.name not in TABLES]


def test_the_first_example_runs(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    short = code.replace("epochs=60", "epochs=2").replace("p_end=53", "p_end=1")
    assert short != code
    monkeypatch.chdir(tmp_path)
    exec(compile(short, "README", "exec"), {})
    assert (tmp_path / "net.onnx").stat().st_size > 10_000
    assert "certified at ε = 0.1: " in capsys.readouterr().out


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.parent.name)
def test_committed_tables_come_from_their_results(path):
    results = json.loads(path.read_text())
    assert (path.parent / "table.md").read_text() == table(results)
    assert all(m["contradictions"] == 0 for m in results["methods"].values())


@pytest.mark.parametrize("name", TABLES)
def test_committed_tables_of_measurements_come_from_their_results(name):
    folder = ROOT / "docs" / "results" / name
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "table.md").read_text() == TABLES[name](results)
    assert name != "tightness" or tightness.beyond(results) == 0


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "results" / "recipes").glob("*/*.json")), ids=lambda p: p.stem)
def test_committed_results_are_of_the_recipes_as_they_are(path):
    results = json.loads(path.read_text())
    recipe = load_recipe(results["recipe"])
    for key, m in results["methods"].items():
        assert m["identity"] == identity_of(recipe, key, results["seed"], held_out=0.0, budget=None)
        assert m["contradictions"] == 0


@pytest.mark.parametrize("name", ablation.available())
def test_committed_ablations_are_those_described(name):
    (path,) = (p for p in ABLATIONS if p.parent.name == name)
    results, described = json.loads(path.read_text()), ablation.load(name)
    assert (path.parent / "table.md").read_text() == ablation.table(results)
    assert {r["change"] for r in results["runs"]} == set(described.changes)
    for r in results["runs"]:
        assert r["settings"] == ablation.settings(described, r["change"])


def test_docs_show_the_times_of_onnx_as_measured():
    text = (ROOT / "docs" / "results" / "onnx" / "table.md").read_text()
    shown = (ROOT / "docs" / "onnx.md").read_text()
    assert shown.split("<!-- bench -->\n")[1].split("<!-- /bench -->")[0].strip() == text.strip()


def test_readme_shows_the_table_of_the_demo():
    (path,) = (p for p in RUNS if p.parent.name == "digits")
    text = table(json.loads(path.read_text()))
    assert text.split("\n", 2)[2].strip() in README


def test_the_snapping_study_shows_the_means_of_its_runs():
    folder = ROOT / "docs" / "results" / "snap"
    paths = sorted(folder.glob("*.json"), key=lambda p: (p.stem.rsplit("-", 1)[0], int(p.stem.rsplit("-", 1)[1])))
    text = over_seeds([json.loads(p.read_text()) for p in paths])
    assert len(paths) == 26 and text.split("\n", 2)[2].strip() in (folder / "README.md").read_text()


def test_the_times_shown_are_those_measured():
    folder = ROOT / "docs" / "results" / "bench"
    text = bench_report.table(json.loads((folder / "bench.json").read_text()))
    assert (folder / "table.txt").read_text() == text + "\n"
    machine, infinite, *_ = text.split("\n\n")
    assert machine in README and infinite in README
