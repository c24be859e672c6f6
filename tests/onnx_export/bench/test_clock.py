"""Times and memory: of a part of the batch, and without the compiled operator."""

import math

from onnx_export.bench import clock
from onnx_export.bench.cases import QUICK
from onnx_export.bench.memory import measure_memory
from onnx_export.bench.table import _cell
from onnx_export.bench.ways import IN_ONNX
from onnx_export.running import native


def test_a_part_of_the_batch_stands_for_the_whole(monkeypatch):
    case = QUICK.cases[0]
    monkeypatch.setattr(clock, "free_bytes", lambda: 2 * 16 * case["in"] * case["out"] * 2.5)
    found = clock.time_case(case, 1, repeats=1)
    assert found["broadcast"]["rows"] == 2 and found["body"]["rows"] == 5
    assert _cell(found["broadcast"], 5, None).startswith("~")


def test_without_the_compiled_operator(monkeypatch):
    monkeypatch.setattr(native, "register", lambda options: "it was not built")
    monkeypatch.setattr(native, "available", lambda: (False, "it was not built"))
    found = clock.time_case(QUICK.cases[0], 1, repeats=1)
    assert found["native"] == {"reason": "it was not built"} and found["body"]["median"] > 0
    assert measure_memory("native", QUICK.cases[0]) == {"reason": "it was not built"}


def test_memory_is_of_one_run():
    """All pairs at once are 64 MB, of which the body holds a block at a time."""
    case = {"p": math.inf, "batch": 64, "in": 512, "out": 512}
    broadcast, body, compiled = (measure_memory(way, case)["bytes"] for way in IN_ONNX)
    assert broadcast > 64 << 20 > 32 << 20 > body > 0 and compiled < 32 << 20
