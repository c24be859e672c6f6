"""The study of Marabou: what is measured, and the table of it."""

import copy
import json
from dataclasses import replace
from pathlib import Path

from verdicts import verdict_on

from onnx_export.verifiers import marabou_study
from onnx_export.verifiers.marabou import contradictions
from onnx_export.verifiers.marabou_study import main, table, wrong

MEASURED = {
    "dataset": "digits",
    "inside": 0.99,
    "beyond": 1.01,
    "count": 3,
    "time_limit": 7.0,
    "versions": {"maraboupy": "2.0.0", "onnx": "1", "torch": "2"},
    "cases": [
        {
            "label": "4-4-3",
            "eps": 0.1,
            "clean": 0.875,
            "results": {
                "maxpool": [verdict_on(), verdict_on(beyond=None), verdict_on("timeout", "timeout")],
                "relu": [],
            },
        }
    ],
}


def test_table():
    text = table(MEASURED)
    assert "Marabou 2.0.0" in text and "at 7 seconds" in text and "No verdict contradicts" in text
    assert "| 4-4-3 | maxpool | 87.5 | 0.100 | 2 of 3 | 0.50 | 1 of 2 | 2.00 | 0 |" in text
    assert "| 4-4-3 | relu | 87.5 | – | 0 of 0 | – | 0 of 0 | – | 0 |" in text
    broken = copy.deepcopy(MEASURED)
    broken["cases"][0]["results"]["relu"] = [verdict_on("sat", margin=0.0), verdict_on(beyond="unsat")]
    assert "**2 verdicts contradict" in table(broken)
    assert wrong(MEASURED) == [] and len(wrong(broken)) == 2 and "net 4-4-3, relu" in wrong(broken)[0]


def test_the_published_table():
    folder = Path(__file__).parents[3] / "docs" / "results" / "cross-check"
    measured = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert (folder / "table.md").read_text(encoding="utf-8") == table(measured)
    results = [r for case in measured["cases"] for each in case["results"].values() for r in each]
    assert contradictions(results) == 0
    assert sum(r["inside"]["verdict"] == "unsat" for r in results) >= 20


def test_measurement(tmp_path, monkeypatch, capsys):
    """Two epochs, two images: what is printed is what the file holds."""
    nets = [replace(marabou_study.TRAINED_NETS[0], epochs=2, flavours=("maxpool",))]
    monkeypatch.setattr(marabou_study, "TRAINED_NETS", nets)
    assert main(["--out", str(tmp_path), "--count", "2", "--quiet"]) == 0
    measured = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert len(measured["cases"][0]["results"]["maxpool"]) == 2
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text == table(measured) and text in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "table.md"]


def test_without_marabou(without_marabou, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "pip install 'linf-plugin[marabou]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_exit_status(tmp_path, monkeypatch, capsys):
    broken = copy.deepcopy(MEASURED)
    broken["cases"][0]["results"]["relu"] = [verdict_on(beyond="unsat")]
    monkeypatch.setattr(marabou_study, "measure", lambda *_, **__: broken)
    assert main(["--out", str(tmp_path)]) == 1
    assert "image 0 contradicts" in capsys.readouterr().err
    for arguments in (["--count", "0"], ["--time-limit", "-1"], ["--time-limit", "nan"]):
        assert main(["--out", str(tmp_path), *arguments]) == 2
        assert f"{arguments[0]} must be positive" in capsys.readouterr().err
