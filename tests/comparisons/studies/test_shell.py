"""What all studies share: what is refused, what is written, the exit status."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import DOCS, STUDIES

from comparisons import cli
from comparisons.studies import found, shell
from comparisons.studies.shell import Study, main

# study and its arguments → folder of its results
ABLATIONS = ("mnist", "fashion", "mnist-clip", "mnist-ibp")
COMMITTED = STUDIES | {f"ablation {name}": DOCS / "ablations" / name for name in ABLATIONS}


def _add_arguments(parser):
    parser.add_argument("--count", type=int, default=2)


def _measure(args, save):
    shell.positive(args, "count")
    for n in range(args.count):
        save({"counted": list(range(n + 1))})
    return {"counted": list(range(args.count)), "pair": (1, 2)}


STUDY = Study(
    "count",
    "Counts.",
    _add_arguments,
    _measure,
    table=lambda results: f"{len(results['counted'])} and {results['pair']}\n",
    wrong=lambda results: int(len(results["counted"]) > 5),
    picture="dots.png",
    plot=lambda results, path: path.write_text("." * len(results["counted"])),
)


def run(folder, *arguments, **change) -> int:
    return main(dataclasses.replace(STUDY, **change), ["--out", str(folder), *arguments])


def test_a_study_writes_its_results_its_table_and_its_picture(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == {"study": "count", "counted": [0, 1], "pair": [1, 2]}
    assert (tmp_path / "table.md").read_text() == "2 and [1, 2]\n"  # as a reader of the file gets it
    assert capsys.readouterr().out == "2 and [1, 2]\n\n" and (tmp_path / "dots.png").read_text() == ".."


@pytest.mark.parametrize("name", ["results.json", "table.md", "dots.png"])
def test_what_is_there_stays_without_force(name, tmp_path, capsys):
    (tmp_path / name).write_text("hours")
    assert run(tmp_path) == 2
    assert f"{tmp_path / name} exists: --force replaces it" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "hours" and len(list(tmp_path.iterdir())) == 1
    assert run(tmp_path, "--force") == 0 and (tmp_path / name).read_text() != "hours"


def test_a_study_that_goes_on_decides_itself(tmp_path):
    run(tmp_path)
    assert run(tmp_path, goes_on=True) == 0


def test_the_table_is_made_anew_without_measuring(tmp_path, capsys):
    run(tmp_path)
    results = tmp_path / "results.json"
    results.write_text(results.read_text().replace("0,", "7, 0,"))
    before = results.read_bytes()
    assert run(tmp_path, "--table", measure=None) == 0
    assert (tmp_path / "table.md").read_text() == "3 and [1, 2]\n" and (tmp_path / "dots.png").read_text() == "..."
    assert results.read_bytes() == before


@pytest.mark.parametrize("text", ["[]", "{", '{"study": "another", "counted": [], "pair": []}', '{"counted": 3}'])
def test_a_file_of_another_study_is_named(text, tmp_path, capsys):
    (tmp_path / "results.json").write_text(text)
    assert run(tmp_path, "--table") == 2
    assert capsys.readouterr().err.startswith("python -m comparisons.studies.count: error: ")
    assert not (tmp_path / "table.md").exists()


def test_a_table_of_nothing_is_a_wrong_request(tmp_path, capsys):
    assert run(tmp_path, "--table") == 2 and "results.json" in capsys.readouterr().err


def test_something_wrong_is_an_exit_status(tmp_path):
    assert run(tmp_path, "--count", "6") == 1 and (tmp_path / "table.md").exists()


def test_a_wrong_request_measures_nothing(tmp_path, capsys):
    assert run(tmp_path, "--count", "0") == 2
    assert "--count must be positive, got 0" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_an_interruption_keeps_what_was_saved(tmp_path, capsys):
    def measure(args, save):
        save({"counted": [0]})
        raise KeyboardInterrupt

    assert run(tmp_path, measure=measure) == 130
    assert capsys.readouterr().err == "python -m comparisons.studies.count: interrupted\n"
    assert json.loads((tmp_path / "results.json").read_text()) == {"study": "count", "counted": [0]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without CUDA refuses it")
@pytest.mark.parametrize("name", ["steps", "ablation mnist"])
def test_a_device_that_is_not_there_is_refused(name, tmp_path, capsys):
    name, *rest = name.split()
    assert cli.main(["study", name, *rest, "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    assert "--device cuda: torch sees no CUDA device here" in capsys.readouterr().err


# The studies, and the command that names them.


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_tables_are_made_anew_from_their_results(name, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(COMMITTED[name], folder)
    (folder / "table.md").unlink()
    assert cli.main(["study", *name.split(), "--table", "--out", str(folder)]) == 0
    assert (folder / "table.md").read_bytes() == (COMMITTED[name] / "table.md").read_bytes()


def test_committed_studies_are_found():
    assert {"tightness", "widths", "cost", "steps", "onnx", "marabou"} <= STUDIES.keys()


@pytest.mark.parametrize("name", found.summaries())
def test_a_study_has_the_name_of_its_module_and_a_line_that_says_what_it_asks(name):
    study, summary = found.load(name), found.summaries()[name]
    assert study.name == name and 20 < len(summary) <= 120 and study.description.strip()


def test_a_new_study_is_one_file(tmp_path, monkeypatch, capsys):
    """It is listed and run without another change."""
    package = tmp_path / "studies"
    shutil.copytree(Path(found.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "colours.py").write_text(
        '"""How many colours are there?"""\n\nfrom .shell import Study\n\n'
        'STUDY = Study("colours", "Counts colours.", lambda parser: None, lambda args, save: {"n": 3}, '
        "lambda results: f\"{results['n']} colours\")\n"
    )
    monkeypatch.setattr(found, "__file__", str(package / "found.py"))
    monkeypatch.setattr("comparisons.studies.__path__", [str(package)])
    assert found.summaries()["colours"] == "How many colours are there?"
    assert cli.main(["study", "colours", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == "3 colours\n" and (tmp_path / "out" / "table.md").read_text() == "3 colours"
    sys.modules.pop("comparisons.studies.colours")


def test_the_command_lists_the_studies(capsys):
    assert cli.main(["study", "--list"]) == 0
    listed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["study", "--help"])
    assert " ".join(listed.split()) in " ".join(capsys.readouterr().out.split())  # help fills its lines
    assert all(f"  {name:10} {summary}" in listed for name, summary in found.summaries().items())
    assert cli.main(["study"]) == 2 and listed in capsys.readouterr().err


@pytest.mark.parametrize("name", found.summaries())
def test_each_study_has_the_shared_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["study", name, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0 and text.startswith(f"usage: linf-compare study {name} ")
    assert all(option in text for option in ("--out", "--force", "--table", "--quiet"))


def test_an_unknown_study_is_named(capsys):
    assert cli.main(["study", "colours"]) == 2
    assert "no study 'colours'; studies: ablation, bench, cost" in capsys.readouterr().err


def test_a_study_is_a_module_to_run():
    command = [sys.executable, "-m", "comparisons.studies.widths", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("usage: python -m comparisons.studies.widths")
