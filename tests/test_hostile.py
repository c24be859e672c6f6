"""A sample of the hostile files, each read in a process of its own; the whole is ``python -m hostile``."""

import json
from pathlib import Path

import pytest
from hostile import __main__ as command
from hostile import campaign, child, report

SAMPLE = [
    campaign.Case("ONNX", "import", "ConstantOfShape"),
    campaign.Case("ONNX", "import", "many constants"),
    campaign.Case("ONNX", "import", "a longer chain"),
    campaign.Case("ONNX", "import", "weights beside"),
    campaign.Case("ONNX", "import", "batch as a number"),
    campaign.Case("ONNX", "import", "very many rows in l2"),
    campaign.Case("ONNX", "import", "very many classes in l2"),
    campaign.Case("ONNX", "show", "functions of functions"),
    campaign.Case("ONNX", "read", "a longer chain"),
    campaign.Case("ONNX", "read", "three inputs"),
    campaign.Case("ONNX", "read", "no input"),
    campaign.Case("ONNX", "read", "ConstantOfShape"),
    campaign.Case("ONNX", "read", "batch in a product"),
    campaign.Case("checkpoint", "weights", "parts within parts"),
    campaign.Case("checkpoint", "load", "a net of 1 GB"),
    campaign.Case("checkpoint", "load", "bytearray"),
    campaign.Case("checkpoint", "load", "parts within parts"),
    *(campaign.Case("ONNX", "import", i) for i in range(6)),
    *(campaign.Case("ONNX", "read", i) for i in range(20, 26)),
    *(campaign.Case("checkpoint", "load", i) for i in range(6)),
    *(campaign.Case("checkpoint", "weights", i) for i in range(6, 9)),
    *(campaign.Case("state", "resume", i) for i in range(3)),
]

READ = ("many constants", "weights beside", "very many rows in l2", "very many classes in l2")  # these nets are read


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: f"{case.action} {case.name}")
def test_a_hostile_file_is_read_or_refused_in_a_sentence(case):
    (found,) = campaign.run([case], seed=1, exports=False)
    assert found["failures"] == []
    assert found["status"] == 2 or case.name in READ or isinstance(case.name, int)


def test_harm_is_noticed(tmp_path, monkeypatch):
    """A reader that crashes, takes too much memory, or says too much."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"")
    found = child.give("no such action", path)
    assert campaign.wrong(found) and "KeyError" in found["stderr"]
    fine = {"status": 2, "stderr": "error: one line\n", "cpu_seconds": 1.0, "peak_mb": 300.0}
    assert campaign.wrong(fine) == []
    changes = {"status": 70}, {"status": -9}, {"stderr": "two\nlines"}, {"cpu_seconds": 21.0}, {"peak_mb": 2000.0}
    for change in changes:
        assert campaign.wrong(fine | change)


def test_cases_are_those_of_the_seed():
    assert len(campaign.cases(600)) == 600 and len(set(campaign.cases(600))) == 600
    assert {case.kind for case in campaign.cases(600)} == {"ONNX", "checkpoint", "state"}


def test_the_command_refuses_no_files(capsys):
    assert command.main(["--files", "0"]) == 2
    assert "--files must be positive" in capsys.readouterr().err


def test_the_committed_table_is_that_of_its_results():
    folder = Path(__file__).parents[1] / "docs" / "results" / "hostile"
    results = json.loads((folder / "hostile.json").read_text(encoding="utf-8"))
    assert (folder / "table.md").read_text(encoding="utf-8") == report.table(results)
    assert len(results["files"]) >= 500 and not any(f["failures"] for f in results["files"])
    assert [f["name"] for f in results["files"]] == [case.name for case in campaign.cases(results["count"])]
