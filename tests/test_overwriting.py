"""Every command that writes a file: what is there stays, and is replaced when that is asked for."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz import __main__ as fuzz

import linf_plugin
from comparisons import cli
from comparisons.studies import cost, found, shell
from linf_plugin.files import WouldReplace, check_absent, write_json, write_text
from onnx_export.bench import __main__ as onnx_bench
from onnx_export.verifiers import marabou_study

export = importlib.import_module("onnx_export.cli")

TABLE = ("results.json", "table.md")
DIGITS = str(Path(__file__).parents[1] / "docs" / "results" / "digits")
COMMANDS = {  # main, arguments with {} for a folder, files in it
    **{
        f"study {name}": (cli.main, ["study", name, "--out", "{}"], TABLE)
        for name in found.summaries()
        if not found.load(name).goes_on and name != "bench"
    },
    "study bench": (cli.main, ["study", "bench", "--out", "{}"], ("results.json", "table.txt", "cost.png")),
    "cross_check": (marabou_study.main, ["--out", "{}"], TABLE),
    "onnx_bench": (onnx_bench.main, ["--out", "{}"], TABLE),
    "fuzz": (fuzz.main, ["--out", "{}/fuzz.json"], ("fuzz.json", "fuzz.md")),
    "compare bench": (cli.main, ["bench", "--json", "{}/a.json", "--plot", "{}/a.png"], ("a.json", "a.png")),
    "compare search": (
        cli.main,
        ["search", "digits", "--method", "ibp", "--out", "{}"],
        ("search.journal", "search.json", "search.md", "search.png", "trial-0000"),
    ),
    "compare results": (cli.main, ["results", DIGITS, "--out", "{}/page.md"], ("page.md",)),
    "export model": (export.main, ["model", "{}/small.pt", "-o", "{}/a.onnx"], ("a.onnx",)),
    "export import": (export.main, ["import", "{}/none.onnx", "-o", "{}/a.pt"], ("a.pt",)),
    "export vnnlib": (export.main, ["vnnlib", "{}/small.pt", "--eps", "0.1", "--out", "{}/folder"], ("folder",)),
    "export abcrown": (
        export.main,
        ["abcrown", "{}/small.pt", "--eps", "0.1", "--out", "{}"],
        ("problem.py", "config.yaml"),
    ),
    "export cross-check": (export.main, ["cross-check", "{}/small.pt", "--json", "{}/a.json"], ("a.json",)),
    "export bench": (export.main, ["bench", "--out", "{}"], TABLE),
}


@pytest.mark.parametrize("name, file", [(name, file) for name, (*_, files) in COMMANDS.items() for file in files])
def test_what_is_there_stays(name, file, tmp_path, capsys):
    main, arguments, _ = COMMANDS[name]
    (tmp_path / "none").mkdir()
    net = linf_plugin.build("linf-mlp", shape=(1, 8, 8), classes=10, width=8, depth=1)
    linf_plugin.save(tmp_path / "small.pt", net, {"dataset": "digits"})
    before = (tmp_path / "small.pt").read_bytes()
    (tmp_path / file).write_text("hours of work")
    assert main([a.replace("{}", str(tmp_path)) for a in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(rf"error: {re.escape(str(tmp_path / file))} exists.*: --force replaces it$", error)
    assert (tmp_path / file).read_text() == "hours of work" and (tmp_path / "small.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({file, "none", "small.pt"})


def test_parts_of_a_measurement_that_are_there_stay(tmp_path, capsys):
    write_json(tmp_path / "results.json", {"a": {"hours": 3}})
    before = (tmp_path / "results.json").read_bytes()
    assert shell.main(cost.STUDY, ["--out", str(tmp_path), "--parts", "a"]) == 2
    assert "results.json has part a: --force replaces it" in capsys.readouterr().err
    assert (tmp_path / "results.json").read_bytes() == before


def test_messages_for_python_have_no_flags(tmp_path):
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for path in (tmp_path, tmp_path / "dangling"):
        with pytest.raises(WouldReplace, match="exists: force replaces it$"):
            check_absent(path)
        check_absent(path, force=True)
    check_absent(tmp_path / "new")
    error = WouldReplace("a run", resumable=True)
    assert str(error) == "a run: resume goes on with it, force replaces it"
    assert error.with_flags() == "a run: --resume goes on with it, --force replaces it"


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    """A process that is killed while it writes leaves the old file."""
    path = tmp_path / "results.json"
    write_text(path, "old")
    code = (
        "import os, signal\nfrom linf_plugin import files\n"
        "files.json.dumps = lambda *_, **__: 'x' * 10**6\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.write_json({str(path)!r}, {{}})"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert path.read_text() == "old"
    write_json(path, {"ε": 1})
    assert path.read_text(encoding="utf-8") == '{\n  "ε": 1\n}\n'
