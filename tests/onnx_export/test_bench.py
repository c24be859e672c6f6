"""The benchmark in miniature: what it measures, what it refuses, and the table from the file alone."""

import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import linf_plugin
from linf_plugin.kernels import reference
from onnx_export import bench
from onnx_export.running import native


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("bench")
    assert bench.main(["--quick", "--out", str(out)]) == 0
    found = json.loads((out / "results.json").read_text())
    assert (out / "table.md").read_text() == bench.table(found)
    return found


def test_every_way_is_timed(results):
    assert [row["size"] for row in results["dist"]] == [bench.size_of(case) for case in bench.QUICK_CASES]
    for row in results["dist"]:
        assert list(row["threads"]) == ["1", "2"]
        for ways in row["threads"].values():
            assert list(ways) == list(bench.WAYS)
            for way, times in ways.items():
                if way == "broadcast" and row["size"].startswith("conv"):
                    assert times == {"reason": "all pairs at once"}
                else:
                    assert len(times["readings"]) == 2 and times["median"] > 0
                    assert times["rows"] == row["case"]["batch"]
    assert bench.wrong(results) == []


def test_the_export_is_measured(results):
    made = results["export"]
    assert made["bit_equal"] and made["native"] and made["seconds"] > 0
    assert made["weights"] > 4 * 784 * bench.QUICK_NET["width"] and made["weights"] < made["started"] < made["peak"]


def test_the_file_names_no_place(results):
    text = json.dumps(results)
    assert os.uname().nodename not in text and str(Path(linf_plugin.__file__).parents[1]) not in text


def test_threads_are_as_before(results):
    """The run of the fixture set them to 1 and 2."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        bench.run(bench.QUICK_CASES[:1], bench.QUICK_NET, 1, progress=False)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("case", bench.QUICK_CASES, ids=["inf", "finite", "conv"])
def test_each_way_gives_distances(case):
    x, w = bench._tensors(case)
    expected = bench.exact(case, x, w)
    before = torch.get_num_threads()
    try:
        for way in bench.WAYS:
            if not (way == "broadcast" and "pixels" in case):
                assert bench.deviation(case, bench.call(way, case, w, 1)(x), expected) is None
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda y: np.nextafter(y, 9, dtype=np.float32), "off by up to"),
        (lambda y: np.where(y == y.max(), np.float32(np.nan), y), "off by up to nan"),
        (lambda y: y[:-1], r"float32 of shape \(4, 7\)"),
        (lambda y: y.astype(np.float64), r"float64 of shape \(5, 7\)"),
    ],
    ids=["one-bit", "nan", "a-row-less", "float64"],
)
def test_deviations(change, words):
    case = bench.QUICK_CASES[0]
    y = reference.dist(*bench._tensors(case), math.inf)
    assert bench.deviation(case, y.numpy(), y) is None
    assert re.match(words, bench.deviation(case, change(y.numpy()), y))


def test_what_is_wrong_is_not_timed(monkeypatch, tmp_path, capsys):
    true = bench.call

    def call(way, case, w, threads):
        f = true(way, case, w, threads)
        return (lambda x: 1.000001 * f(x)) if way == "body" else f

    monkeypatch.setattr(bench, "call", call)
    assert bench.main(["--quick", "--out", str(tmp_path)]) == 1
    ways = json.loads((tmp_path / "results.json").read_text())["dist"][0]["threads"]["1"]
    assert list(ways["body"]) == ["wrong"] and "median" in ways["native"]
    text = (tmp_path / "table.md").read_text()
    assert "| wrong |" in text and "Wrong: body, threads: 1, p = inf, 5×33×7: off by up to" in text
    assert "body, threads: 2" in capsys.readouterr().err


def test_kernels_that_are_wrong_stop_it(monkeypatch):
    monkeypatch.setattr(bench, "_ours", lambda x, w, p: 1 + reference.dist(x, w, p))
    with pytest.raises(ArithmeticError, match="5×33×7, p = inf"):
        bench.exact(bench.QUICK_CASES[0], *bench._tensors(bench.QUICK_CASES[0]))


def test_a_part_of_the_batch_stands_for_the_whole(monkeypatch):
    case = bench.QUICK_CASES[0]
    monkeypatch.setattr(bench, "_free_bytes", lambda: 2 * 16 * case["in"] * case["out"] * 2.5)
    found = bench.time_case(case, 1, repeats=1)
    assert found["broadcast"]["rows"] == 2 and found["body"]["rows"] == 5
    assert bench._cell(found["broadcast"], 5, None).startswith("~")


def test_without_the_compiled_operator(monkeypatch):
    monkeypatch.setattr(native, "register", lambda options: "it was not built")
    monkeypatch.setattr(native, "available", lambda: (False, "it was not built"))
    found = bench.time_case(bench.QUICK_CASES[0], 1, repeats=1)
    assert found["native"] == {"reason": "it was not built"} and found["body"]["median"] > 0
    assert bench.measure_memory("native", bench.QUICK_CASES[0]) == {"reason": "it was not built"}


def test_memory_is_of_one_run():
    """All pairs at once are 64 MB, of which the body holds a block at a time."""
    case = {"p": math.inf, "batch": 64, "in": 512, "out": 512}
    broadcast, body, compiled = (bench.measure_memory(way, case)["bytes"] for way in bench.IN_ONNX)
    assert broadcast > 64 << 20 > 32 << 20 > body > 0 and compiled < 32 << 20


RESULTS = {
    "machine": {"processor": "an abacus", "cores": 2, "system": "Linux", "native": "avx2", "OMP_WAIT_POLICY": None},
    "versions": {"torch": "2"},
    "asked": bench.ASKED,
    "repeats": 9,
    "dist": [
        {
            "case": {"p": "inf", "batch": 4, "in": 3, "out": 2},
            "size": "4×3×2",
            "threads": {
                "1": {
                    "broadcast": {"rows": 2, "readings": [0.3], "median": 0.3},
                    "body": {"rows": 4, "readings": [0.1], "median": 0.1},
                    "native": {"reason": "none"},
                    "torch": {"rows": 4, "readings": [0.01], "median": 0.01},
                    "cdist": {"wrong": "off by up to 1"},
                }
            },
        }
    ],
    "memory": {"broadcast": {"bytes": 2e9, "rows": 2}, "body": {"bytes": 4e6, "rows": 4}, "native": {"reason": "none"}},
    "export": {
        "depth": 5,
        "width": 9,
        "weights": 330e6,
        "seconds": 12.34,
        "started": 5e8,
        "peak": 2.5e9,
        "bit_equal": True,
        "native": False,
    },
}


def test_table():
    lines = bench.table(RESULTS).splitlines()
    assert "| p = ∞, 4×3×2 | 1 | ~300 ×1 | 100 ×3 | – | 10 ×30 | wrong |" in lines
    assert "| body, times as fast as broadcast, threads: 1 | ≥ 3 | 3 |" in lines
    assert "| MB that the body needs | < 20 | 4 |" in lines
    assert "| peak GB of the export | < 3 | 2.5 |" in lines
    assert not any(line.startswith("| compiled, times") for line in lines)
    assert lines[-1] == "Wrong: torch.cdist, threads: 1, p = inf, 4×3×2: off by up to 1; not timed."


def test_help_teaches(capsys):
    with pytest.raises(SystemExit, match="0"):
        bench.main(["--help"])
    text = capsys.readouterr().out
    for words in ("--quick", "results.json", "OMP_WAIT_POLICY=passive python -m onnx_export.bench"):
        assert words in text
