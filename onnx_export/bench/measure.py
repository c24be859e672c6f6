"""Measures everything about the ways to run an exported distance.  The results are plain data."""

import os
import platform
import re
from pathlib import Path

import onnx
import onnxruntime
import torch
from tqdm import tqdm

import linf_plugin
from linf_plugin.progress import hidden

from ..running import native
from .cases import FULL, THREAD_COUNTS, Sizes, size_of
from .clock import time_case
from .large_export import measure_export
from .memory import measure_memory
from .ways import IN_ONNX

GOALS = {  # the ratios and limits that were asked for, at p = ∞
    "native over broadcast": 20,
    "body over broadcast": 3,
    "native over linf_plugin": 0.8,
    "body bytes": 20e6,
    "export seconds": 60,
    "export bytes": 3e9,
}


def _machine() -> dict:
    """The properties of the machine on which the times depend."""
    try:
        processor = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        processor = platform.processor() or platform.machine()
    usable, reason = native.available()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "native": reason if usable else f"none ({reason})",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
    }


def measure(sizes: Sizes = FULL, progress: bool | None = None) -> dict:
    """Measures everything.

    Args:
        sizes: ``cases.FULL`` takes minutes, ``cases.QUICK`` seconds.
        progress: whether there is a bar; None: only on a terminal.

    Returns:
        Plain data for ``table.table`` and ``table.wrong``.
    """
    before = torch.get_num_threads()
    versions = {m.__name__: m.__version__ for m in (linf_plugin, torch, onnx, onnxruntime)}
    results = {
        "machine": _machine(),
        "versions": {**versions, "python": platform.python_version()},
        "asked": GOALS,
        "repeats": sizes.repeats,
        "dist": [],
        "memory": {},
        "export": None,
    }
    disable = hidden(progress is not False)
    with tqdm(total=len(IN_ONNX) + 1 + len(sizes.cases) * len(THREAD_COUNTS), disable=disable, leave=False) as bar:
        for way in IN_ONNX:  # first, because these processes need memory that later parts take
            bar.set_description(f"memory, {way}")
            results["memory"][way] = measure_memory(way, sizes.cases[0])
            bar.update()
        bar.set_description("export")
        results["export"] = measure_export(sizes.net)
        bar.update()
        try:
            for case in sizes.cases:
                row = {"case": {**case, "p": f"{case['p']:g}"}, "size": size_of(case), "threads": {}}
                for threads in THREAD_COUNTS:
                    bar.set_description(f"p = {case['p']:g}, {size_of(case)}, threads: {threads}")
                    row["threads"][str(threads)] = time_case(case, threads, sizes.repeats)
                    bar.update()
                results["dist"].append(row)
        finally:
            torch.set_num_threads(before)
    return results
