"""The benchmark in miniature: what is measured, what is wrong and not timed, and what the command says."""

import json
import os
from pathlib import Path

import pytest
import torch

import linf_plugin
from onnx_export.bench import clock
from onnx_export.bench.__main__ import main
from onnx_export.bench.cases import QUICK, Sizes, size_of
from onnx_export.bench.measure import measure
from onnx_export.bench.table import table, wrong
from onnx_export.bench.ways import WAYS


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("bench")
    assert main(["--quick", "--out", str(out)]) == 0
    found = json.loads((out / "results.json").read_text())
    assert (out / "table.md").read_text() == table(found)
    return found


def test_every_way_is_timed(results):
    assert [row["size"] for row in results["dist"]] == [size_of(case) for case in QUICK.cases]
    for row in results["dist"]:
        assert list(row["threads"]) == ["1", "2"]
        for ways in row["threads"].values():
            assert list(ways) == list(WAYS)
            for way, times in ways.items():
                if way == "broadcast" and row["size"].startswith("conv"):
                    assert times == {"reason": "all pairs at once"}
                else:
                    assert len(times["readings"]) == 2 and times["median"] > 0
                    assert times["rows"] == row["case"]["batch"]
    assert wrong(results) == []


def test_the_export_is_measured(results):
    made = results["export"]
    assert made["bit_equal"] and made["native"] and made["seconds"] > 0
    assert made["weights"] > 4 * 784 * QUICK.net["width"] and made["weights"] < made["started"] < made["peak"]


def test_the_file_names_no_place(results):
    text = json.dumps(results)
    assert os.uname().nodename not in text and str(Path(linf_plugin.__file__).parents[1]) not in text


def test_threads_are_as_before(results):
    """The run of the fixture set them to 1 and 2."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        measure(Sizes(QUICK.cases[:1], QUICK.net, repeats=1), progress=False)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_what_is_wrong_is_not_timed(monkeypatch, tmp_path, capsys):
    true = clock.call

    def call(way, case, w, threads):
        f = true(way, case, w, threads)
        return (lambda x: 1.000001 * f(x)) if way == "body" else f

    monkeypatch.setattr(clock, "call", call)
    assert main(["--quick", "--out", str(tmp_path)]) == 1
    ways = json.loads((tmp_path / "results.json").read_text())["dist"][0]["threads"]["1"]
    assert list(ways["body"]) == ["wrong"] and "median" in ways["native"]
    text = (tmp_path / "table.md").read_text()
    assert "| wrong |" in text and "Wrong: body, threads: 1, p = inf, 5×33×7: off by up to" in text
    assert "body, threads: 2" in capsys.readouterr().err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    text = capsys.readouterr().out
    for words in ("--quick", "results.json", "OMP_WAIT_POLICY=passive python -m onnx_export.bench"):
        assert words in text
