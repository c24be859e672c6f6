"""What one part finds, kept in a file while it runs.

A part is a module with ``run(record)``, which returns the text of its line.  It calls ``record.fail`` for what is
wrong, writes what it measured into ``record.found``, and raises ``LeftOut`` where it cannot run.
"""

import importlib
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path

PASSED, FAILED, LEFT_OUT, NO_GPU, RUNNING = "passed", "failed", "left out", "no GPU", "running"
APART = 0.5  # seconds between two writes


class LeftOut(Exception):
    """What a part needs is not here; the message says what."""


class Record:
    """What a part found so far.

    device: "cuda" or "cpu".  seconds: it may take.  quick: whether a few cases are enough.  found: plain data.
    failures: a sentence for each thing that is wrong.
    """

    def __init__(self, path: Path, device: str, seconds: float, quick: bool):
        self.path, self.device, self.quick = path, device, quick
        self.ends = time.monotonic() + seconds
        self.found, self.failures, self._saved = {}, [], 0.0

    @property
    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def fail(self, what: str) -> None:
        self.failures.append(" ".join(what.split()))
        self.save()

    def save(self, **more) -> None:
        """Writes the file, at most twice a second; with ``more``, at once."""
        if not more and time.monotonic() < self._saved + APART:
            return
        content = {"status": RUNNING, "line": "", **more, "failures": self.failures, "found": self.found}
        write(self.path, content)
        self._saved = time.monotonic()


def write(path: Path, content: dict) -> None:
    """JSON in place of the file, in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def _plain(value):
    """The same for JSON, which has no ∞ and no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def attempt(record: Record, what: str, action: Callable, *arguments):
    """What the action returns; where it raises, a failure of that name and None."""
    try:
        return action(*arguments)
    except LeftOut:
        raise
    except Exception as error:  # of any library: the rest is still to be checked
        record.found.setdefault("tracebacks", {})[what] = traceback.format_exc().splitlines()[-12:]
        record.fail(f"{what}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
        return None


def _no_gpu() -> str | None:
    """Why there is no GPU; None where there is one."""
    try:
        import torch
    except ImportError as error:
        return str(error)
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no CUDA device"


def run_part(module: str, path: Path, device: str, seconds: float, quick: bool) -> int:
    """Runs the part of a module of this package and writes what it found."""
    record = Record(path, device, seconds, quick)
    if device == "cuda" and (reason := _no_gpu()):
        record.save(status=NO_GPU, line=reason)
        return 0
    record.save(status=RUNNING)
    try:
        part = attempt(record, module, importlib.import_module, f".{module}", __package__)
        line = (attempt(record, module, part.run, record) if part else None) or ""
        status = FAILED if record.failures else PASSED
    except LeftOut as reason:
        status, line = (FAILED if record.failures else LEFT_OUT), str(reason)
    if record.failures:
        more = f" (and {len(record.failures) - 1} more)" if len(record.failures) > 1 else ""
        line = record.failures[0] + more
    record.save(status=status, line=line)
    return 0
