"""Runs the parts one after the other, each in a process of its own with an end, and keeps one file of all.

Nothing here imports torch: what goes wrong on a GPU ends a part, not the others.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import record
from .record import write

DONE, FAILED, WRONG, NO_GPU, INTERRUPTED = 0, 1, 2, 3, 130  # exit statuses
ROOT = Path(__file__).resolve().parents[2]
LOOK_EVERY = 0.2  # seconds between two looks at a part
TAIL = 6000  # characters of what a part printed that are kept, where it did not pass


@dataclass(frozen=True)
class Part:
    """A module with ``run``, its share of the time, and what it does, in words."""

    name: str
    module: str
    share: float
    about: str


PARTS = {
    part.name: part
    for part in (
        Part("device", "device", 40, "the GPU, its kernels, and how it multiplies: settings and what a product keeps"),
        Part("kernels", "kernels", 140, "our kernels against the reference: each p, type, size, tile and layout"),
        Part("operators", "operators", 70, "boxes, sorted sums, convolutions and layers against the reference"),
        Part("training", "training", 60, "three epochs of the digits recipe and of a small convolution; certificates"),
        Part("onnx", "exported", 40, "export, and a session on the GPU (onnx, onnxscript, onnxruntime)"),
        Part("benchmark", "timing", 90, "four cases against their peers; torch.compile last"),
        Part("tests", "marked", 130, "the tests marked gpu (pytest)"),
    )
}


def command(part: Part, device: str, seconds: float, quick: bool, out: Path) -> list[str]:
    """What runs a part."""
    return [
        sys.executable,
        "-m",
        "gpu_check",
        "--child",
        part.name,
        "--device",
        device,
        "--seconds",
        f"{seconds:.1f}",
        "--out",
        str(out),
        *(["--quick"] if quick else []),
    ]


def _environment() -> dict[str, str]:
    """The package and this one on the path, whatever the folder; Python prints at once."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive"}


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"status": record.RUNNING, "line": "", "failures": [], "found": {}}


def _end(process: subprocess.Popen) -> None:
    """A part and what it started, which are a process group.  One that hangs in a driver is not waited for long."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def run(part: Part, device: str, seconds: float, quick: bool, seen: Callable[[dict], None]) -> dict:
    """Runs a part; ``seen(content)`` is called with what it found so far, whenever that changed.

    Returns what it found, with its status and its line.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        out, printed = Path(folder) / "found.json", Path(folder) / "printed"
        with open(printed, "wb") as log:
            process = subprocess.Popen(
                command(part, device, seconds, quick, out),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                cwd=ROOT,
                process_group=0,
            )
            try:
                before = None
                while process.poll() is None and time.monotonic() < began + seconds:
                    time.sleep(LOOK_EVERY)
                    if out.exists() and (now := out.stat().st_mtime_ns) != before:
                        before = now
                        seen(_read(out))
                late = process.poll() is None
            finally:
                _end(process)
        content = _read(out)
        if late:
            line = f"ended after {seconds:.0f} s; what it found until then is kept"
            content |= {"status": record.FAILED, "line": line}
        elif process.returncode or content["status"] == record.RUNNING:
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
            content |= {"status": record.FAILED, "line": f"ended with {how}: {_last(printed)}"}
        content["seconds"] = round(time.monotonic() - began, 1)
        if content["status"] == record.FAILED:
            content["printed"] = printed.read_text(encoding="utf-8", errors="replace")[-TAIL:].splitlines()
        return content


def _last(printed: Path) -> str:
    lines = printed.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")


def _put_aside(out: Path) -> None:
    """Renames an older file after the time at which it was last written."""
    if out.exists():
        when = time.strftime("%Y%m%dT%H%M%S", time.localtime(out.stat().st_mtime))
        os.replace(out, out.with_name(f"{out.stem}-{when}{out.suffix}"))


def conduct(names: list[str], device: str, out: Path, seconds: float, quick: bool) -> int:
    """Runs the parts of these names and writes ``out``.  Returns the exit status.

    Shares of the time are those of the parts asked for; what a part leaves of its own is left to those after it.
    """
    out = out.resolve()
    total = sum(PARTS[name].share for name in names)
    results = {"begun": time.strftime("%Y-%m-%dT%H:%M:%S"), "device": device, "quick": quick, "parts": {}}
    began, ends = time.monotonic(), 0.0

    def keep(name: str, content: dict, status: str = record.RUNNING) -> None:
        if content.get("status") == record.NO_GPU:
            return
        if not results["parts"]:
            _put_aside(out)
        results["parts"][name] = content
        write(out, {"status": status, **results})

    try:
        for name in names:
            ends += PARTS[name].share / total * seconds
            left = max(1.0, began + ends - time.monotonic())
            content = run(PARTS[name], device, left, quick, lambda content, name=name: keep(name, content))
            if content["status"] == record.NO_GPU:
                print(f"gpu-check: no GPU: {content['line']}")
                return NO_GPU
            keep(name, content)
            print(f"{name:<10} {content['status']:<8} {content['seconds']:4.0f} s  {content['line']}", flush=True)
    except KeyboardInterrupt:
        if results["parts"]:
            write(out, {"status": "interrupted", **results})
        return INTERRUPTED
    failed = any(content["status"] == record.FAILED for content in results["parts"].values())
    results["seconds"] = round(time.monotonic() - began, 1)
    write(out, {"status": record.FAILED if failed else record.PASSED, **results})
    print(out)
    return FAILED if failed else DONE
