"""What README shows is what the code does and what was measured."""

import json
from pathlib import Path

import pytest
from brute import __main__ as brute
from runs import RUNS, STUDIES

from comparisons.recipes.varied import load_varied
from comparisons.report.gathered import gather
from comparisons.report.seeds import over_seeds
from comparisons.report.written import text_of
from comparisons.results.file import read
from comparisons.running.plan import Wanted
from comparisons.studies import ablation, bench_report, found, tightness

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TABLES = {folder.name: found.load(name).table for name, folder in STUDIES.items()} | {"exact": brute.table}
ABLATIONS = sorted((ROOT / "docs" / "results" / "ablations").glob("*/results.json"))
COPIES = [
    p for kind in ("recipes", "snap", "digits") for p in sorted((ROOT / "docs" / "results" / kind).rglob("*.json"))
]


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.parent.name)
def test_committed_tables_come_from_their_results(path):
    (run,) = gather([path.parent])
    assert (path.parent / "table.md").read_text() == text_of([run])
    assert run.results.contradictions == 0


@pytest.mark.parametrize("name", TABLES)
def test_committed_tables_of_measurements_come_from_their_results(name):
    folder = ROOT / "docs" / "results" / name
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "table.md").read_text() == TABLES[name](results)
    assert name != "tightness" or tightness.beyond(results) == 0


@pytest.mark.parametrize("path", [*RUNS, *COPIES], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_committed_results_are_of_the_recipes_as_they_are(path):
    """With the changes that they name.  So they are kept beside their models, and averaged over seeds."""
    results, own = read(path), path.parent / f"{path.stem.rsplit('-', 1)[0]}.toml"
    recipe = load_varied(str(own) if own.exists() else results.recipe, results.changed)
    assert results.methods and results.contradictions == 0
    for key, m in results.methods.items():
        data = {"dataset": recipe.dataset, **(m.data or {})}  # early versions wrote no digests
        wanted = Wanted(recipe, list(results.methods), data, results.seed, results.held_out, budget=None)
        assert wanted.changed(key, m) == [] and m.identity.seed == results.seed


@pytest.mark.parametrize("name", ablation.available())
def test_committed_ablations_are_those_described(name):
    (path,) = (p for p in ABLATIONS if p.parent.name == name)
    results, described = json.loads(path.read_text()), ablation.load(name)
    assert (path.parent / "table.md").read_text() == ablation.table(results)
    assert {r["change"] for r in results["runs"]} == set(described.changes)
    for r in results["runs"]:
        assert ablation.kept_settings(r, described) == ablation.settings(described, r["change"])


def test_docs_show_the_times_of_onnx_as_measured():
    text = (ROOT / "docs" / "results" / "onnx" / "table.md").read_text()
    shown = (ROOT / "docs" / "onnx.md").read_text()
    assert shown.split("<!-- bench -->\n")[1].split("<!-- /bench -->")[0].strip() == text.strip()


def test_readme_shows_the_table_of_the_digits():
    folder = ROOT / "docs" / "results" / "digits"
    runs = gather([folder])
    assert [run.results.seed for run in runs] == [0, 1, 2]
    assert (folder / "comparison.md").read_text() == text_of(runs)
    assert over_seeds([run.results for run in runs]).split("\n", 2)[2].strip() in README


def test_the_snapping_study_shows_the_means_of_its_runs():
    folder = ROOT / "docs" / "results" / "snap"
    paths = sorted(folder.glob("*.json"), key=lambda p: (p.stem.rsplit("-", 1)[0], int(p.stem.rsplit("-", 1)[1])))
    text = over_seeds([read(p) for p in paths])
    assert len(paths) == 26 and text.split("\n", 2)[2].strip() in (folder / "README.md").read_text()


def test_the_times_shown_are_those_measured():
    folder = ROOT / "docs" / "results" / "bench"
    text = bench_report.table(json.loads((folder / "bench.json").read_text()))
    assert (folder / "table.txt").read_text() == text + "\n"
    machine, infinite, *_ = text.split("\n\n")
    assert machine in README and infinite in README
