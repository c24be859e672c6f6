"""The tests marked ``gpu``, run by pytest, one record each."""

import os
import re
from pathlib import Path

import torch

from .absent import need
from .record import LeftOut, Record

ROOT = Path(__file__).resolve().parents[2]
MARK = re.compile(r"mark\.gpu|\beach_device\b|\bDEVICES\b")  # how a test file comes by the mark
RESERVE = 5  # seconds before the part would be ended
ABSENT = re.compile(r"ModuleNotFoundError: No module named '(\w+)|ImportError: ([\w-]+) is not installed: pip install")
OURS = ("linf_plugin", "onnx_export", "comparisons")


def absent(text: str) -> str | None:
    """The package for want of which a test file could not be imported, where that is the reason."""
    found = [name for names in ABSENT.findall(text) for name in names if name]
    ours = not found or found[-1] in OURS or (ROOT / "tests" / f"{found[-1]}.py").exists()
    return None if ours else found[-1]


class _Collector:
    """pytest's plugin that writes down what became of each test."""

    def __init__(self, record: Record):
        self.record, self.counts = record, {"passed": 0, "failed": 0, "skipped": 0, "left out": 0}
        record.found |= {"counts": self.counts, "left out": {}, "failed": {}, "seconds": {}}

    def pytest_collection_finish(self, session) -> None:
        self.session, self.record.found["tests"] = session, len(session.items)

    def pytest_collectreport(self, report) -> None:
        if not report.failed:
            return
        text = str(report.longrepr)
        if package := absent(text):
            self.record.found["left out"][report.nodeid] = f"not installed: {package}"
            self.counts["left out"] += 1
        else:
            self._failed(report.nodeid, text)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self._failed(f"{report.nodeid} ({report.when})", str(report.longrepr))
        elif report.skipped:
            self.counts["skipped"] += 1
        elif report.when == "call":
            self.counts["passed"] += 1
            self.record.found["seconds"][report.nodeid] = round(report.duration, 2)
        self.record.save()
        if report.when == "teardown" and self.record.seconds_left < RESERVE and not self.session.shouldstop:
            self.session.shouldstop = "the time is up"
            self.record.fail(f"the time is up after {report.nodeid}")

    def _failed(self, name: str, text: str) -> None:
        self.counts["failed"] += 1
        self.record.found["failed"][name] = text.splitlines()[-30:]
        last = next((line for line in reversed(text.splitlines()) if line.startswith("E ")), text.splitlines()[-1])
        self.record.fail(f"{name}: {last.removeprefix('E ')}")


def files() -> list[str]:
    """The test files in which the mark stands, of the kernels first."""
    found = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARK.search(path.read_text("utf-8"))]
    return [str(path) for path in sorted(found, key=lambda path: "kernels" not in path.parts)]


def run(record: Record) -> str:
    need("pytest")
    import pytest

    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # other plugins warn, and here warnings are errors
    collector = _Collector(record)
    pytest.main(
        [
            "-m",
            "gpu",
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "--continue-on-collection-errors",
            "--rootdir",
            str(ROOT),
            "-c",
            str(ROOT / "setup.cfg"),
            *(files()[:1] if record.quick else files()),
        ],
        plugins=[collector],
    )
    record.found["seconds"] = dict(sorted(record.found["seconds"].items(), key=lambda item: -item[1])[:20])
    counts = ", ".join(f"{count} {what}" for what, count in collector.counts.items() if count)
    if not (collector.counts["passed"] or record.failures):
        why = "no CUDA device" if not torch.cuda.is_available() else "none could be collected"
        raise LeftOut(f"{why}: {counts or 'no test'}")
    return counts
