"""The table comes from the results alone."""

from onnx_export.bench.measure import GOALS
from onnx_export.bench.table import table

RESULTS = {
    "machine": {"processor": "an abacus", "cores": 2, "system": "Linux", "native": "avx2", "OMP_WAIT_POLICY": None},
    "versions": {"torch": "2"},
    "asked": GOALS,
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
    lines = table(RESULTS).splitlines()
    assert "| p = ∞, 4×3×2 | 1 | ~300 ×1 | 100 ×3 | – | 10 ×30 | wrong |" in lines
    assert "| body, times as fast as broadcast, threads: 1 | ≥ 3 | 3 |" in lines
    assert "| MB that the body needs | < 20 | 4 |" in lines
    assert "| peak GB of the export | < 3 | 2.5 |" in lines
    assert not any(line.startswith("| compiled, times") for line in lines)
    assert lines[-1] == "Wrong: torch.cdist, threads: 1, p = inf, 4×3×2: off by up to 1; not timed."
