"""``linf-compare report``: the files that it writes, and what it leaves alone."""

import pytest
from pages import write_run

from comparisons.cli import main
from comparisons.report.gathered import gather
from comparisons.report.tables import table
from comparisons.report.written import text_of

SEVERAL = ["comparison.csv", "comparison.md", "comparison.png", "comparison.tex"]


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.fixture
def seeds(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / "all" / f"seed-{seed}", seed=seed)
    return tmp_path / "all"


def test_one_run_has_its_table_in_three_formats(tmp_path, capsys):
    folder = write_run(tmp_path, beside=False)
    assert main(["report", str(folder)]) == 0
    assert names(folder) == ["certified.png", "results.json", "table.csv", "table.md", "table.tex"]
    (run,) = gather([folder])
    assert (folder / "table.md").read_text() == table(run.results) == capsys.readouterr().out.removesuffix("\n")


def test_samples_add_the_tests_between_methods(tmp_path):
    (run,) = gather([write_run(tmp_path)])
    text = text_of([run])
    assert text.startswith(table(run.results)) and "\n## Which methods differ\n\np-values of McNemar" in text


def test_tests_are_made_within_a_data_set(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", eps=0.2, recipe="other")
    text = text_of(gather([tmp_path]))
    assert "## Which methods differ: digits, ε = 0.1\n" in text and "## Which methods differ: digits, ε = 0.2\n" in text


def test_two_norms_have_tables_one_below_the_other_and_never_share_one(tmp_path, capsys):
    write_run(tmp_path / "a", {"sll": None, "cpl": None}, norm="l2", recipe="other")
    write_run(tmp_path / "b")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    linf, l2 = text.partition("## Which")[0].split("## digits, ε = 0.1")[1:]
    assert "| IBP |" in linf and "sll" not in linf and "| sll |" in l2 and "IBP |" not in l2
    assert linf.count("| 0.1 | 0.1 |") == 2 and l2.startswith(" in ℓ2 (") and l2.count("| 0.01250 | 0.1 |") == 2
    differ = text.split("## Which methods differ")[1:]
    assert [part.split("\n")[0] for part in differ] == [": digits, ε = 0.1", ": digits, ε = 0.1 in ℓ2"]
    assert (tmp_path / "out" / "comparison.png").exists()
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "--html", str(page)]) == 2
    assert "They differ in norm: " in capsys.readouterr().err and not page.exists()


def test_a_folder_of_seeds_is_a_comparison(seeds, capsys):
    assert main(["report", str(seeds)]) == 0
    assert names(seeds) == SEVERAL and "mean ± standard deviation" in capsys.readouterr().out
    assert (seeds / "comparison.csv").read_text().count("\n") == 5
    assert main(["report", str(seeds)]) == 0  # the same again


@pytest.mark.parametrize("name", ["comparison.md", "comparison.tex", "comparison.csv"])
def test_tables_of_others_stay(seeds, name, capsys):
    (seeds / name).write_text("hours of work")
    assert main(["report", str(seeds)]) == 2
    assert f"{seeds / name} exists: --force replaces it" in capsys.readouterr().err
    assert names(seeds) == [name] and (seeds / name).read_text() == "hours of work"
    assert main(["report", str(seeds), "--force"]) == 0 and names(seeds) == SEVERAL


def test_the_page_is_one_file_that_is_written_again(seeds, tmp_path, capsys):
    page = tmp_path / "report.html"
    command = ["report", str(seeds), "--html", str(page)]
    assert main(command) == 0 and f"Written to {page}" in capsys.readouterr().out
    first = page.read_text()
    assert first.startswith("<!doctype html>\n") and main(command) == 0 and page.read_text() == first


def test_a_page_of_others_stays(seeds, tmp_path, capsys):
    page = tmp_path / "report.html"
    page.write_text("<!doctype html>\n<p>hours of work")
    command = ["report", str(seeds), "--html", str(page)]
    assert main(command) == 2 and f"{page} exists: --force replaces it" in capsys.readouterr().err
    assert page.read_text().endswith("hours of work") and names(seeds) == []
    assert main([*command, "--force"]) == 0 and page.read_text().startswith("<!doctype html>\n<!-- Written by")


def test_a_page_of_other_data_is_refused_before_anything_is_written(seeds, tmp_path, capsys):
    write_run(seeds / "b", eps=0.2)
    page = tmp_path / "report.html"
    assert main(["report", str(seeds), "--html", str(page)]) == 2
    error = capsys.readouterr().err
    assert "these results cannot be compared. They differ in ε: 0.2 in " in error and str(seeds / "b") in error
    assert not page.exists() and names(seeds) == []
    assert main(["report", str(seeds)]) == 0  # tables stand one below the other


def test_a_summary_writes_no_page(seeds, tmp_path, capsys):
    assert main(["report", str(seeds), "--summary", "--html", str(tmp_path / "a.html")]) == 2
    assert "does not go with --html" in capsys.readouterr().err and names(tmp_path) == []
