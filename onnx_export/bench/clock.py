"""Measures the seconds that each way takes.  The ways take turns."""

import math
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .cases import tensors_of
from .right import deviation, exact
from .ways import WAYS, call

LEAST_READING = 0.05  # calls that are shorter are timed several at a time


def free_bytes() -> float:
    """The free memory; infinite where the system does not tell."""
    try:
        return 1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    except (OSError, TypeError):
        return math.inf


def rows_of(way: str, case: dict) -> int:
    """How many rows of the batch a way runs on.

    Broadcast holds all pairs at once, in two copies, and an arena may double them.  They must fit into the free memory.
    """
    each = 4 * 4 * case["in"] * case["out"]
    return case["batch"] if way != "broadcast" else max(1, min(case["batch"], int(free_bytes() / 2 / each)))


def _seconds(f: Callable, x: Tensor, number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        f(x)
    return (time.perf_counter() - began) / number


def time_case(case: dict, threads: int, repeats: int) -> dict:
    """Times each way.

    Returns:
        Way → ``rows`` it ran on, ``readings`` in seconds and their ``median``; or ``reason``, why it cannot run; or
        ``wrong``, what is wrong with its distances.
    """
    x, w = tensors_of(case)
    expected, found, jobs = exact(case, x, w), {}, {}
    for way in WAYS:
        if way == "broadcast" and "pixels" in case:
            found[way] = {"reason": "all pairs at once"}
            continue
        some = x[: rows_of(way, case)]
        try:
            f = call(way, case, w, threads)
        except RuntimeError as error:
            found[way] = {"reason": str(error)}
            continue
        if wrong := deviation(case, f(some), expected[: len(some)]):
            found[way] = {"wrong": wrong}
            continue
        jobs[way] = f, some, math.ceil(LEAST_READING / max(_seconds(f, some, 1), 1e-6))
        found[way] = {"rows": len(some), "readings": []}
    for _ in range(repeats):
        for way, (f, some, number) in jobs.items():
            found[way]["readings"].append(_seconds(f, some, number) * len(x) / len(some))
    for way in jobs:
        found[way]["median"] = statistics.median(found[way]["readings"])
    return found
