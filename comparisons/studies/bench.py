"""What do the distance operators cost, beside their peers?  A wrong operator is not timed.

``run`` returns plain data; ``bench_report`` and ``bench_picture`` read only that.
"""

import argparse
import math
import os
import platform
import re
import sys
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch._functorch.config
from torch.utils import benchmark
from tqdm import tqdm

from linf_plugin.arguments import check_p
from linf_plugin.kernels import cpu, gpu
from linf_plugin.progress import hidden

from ..running.machine import device_of, processor_name
from .bench_arguments import DESCRIPTION, add_arguments
from .bench_peers import PEERS, counts, deviation, function_of, size_of, tensors
from .bench_picture import operator_times
from .bench_report import table
from .shell import Study, main

# A case with ``pixels`` is a convolution of images of that height and width.  Padding keeps their size.
OPERATOR_CASES = {
    "overhead": {"batch": 16, "in": 16, "out": 16},
    "small": {"batch": 128, "in": 64, "out": 256},
    "medium": {"batch": 512, "in": 1024, "out": 1024},
    "large": {"batch": 512, "in": 5120, "out": 5120},
    "conv": {"batch": 32, "in": 64, "out": 64, "pixels": 32, "kernel": 3},
}
SWEEPS = {  # what the picture shows
    "width": [{"batch": 128, "in": 2**k, "out": 2**k} for k in range(6, 14)],
    "batch": [{"batch": 4**k, "in": 1024, "out": 1024} for k in range(7)],
}
SWEEP_PEERS = ("ours", "cdist", "matmul")
KERNELS = {"cpu": cpu, "cuda": gpu}  # our kernels
DIRECTIONS = ("forward", "training", "backward")  # training: a forward pass that prepares the backward one
READING_SECONDS = 0.01  # calls shorter than this are timed several at a time
FIRST_PAIRS = 1 << 22  # coordinate pairs of the first call of a slow peer


# The clock.


def _free_bytes(device: str) -> float:
    """Returns the free bytes of the GPU, or of the machine and the container of this process."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    free = [math.inf]
    try:
        free.append(1024 * int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]))
        group = Path("/sys/fs/cgroup")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, TypeError, ValueError):  # another operating system, or no limit
        pass
    return min(free)


def _seconds(call: Callable, number: int = 1) -> float:
    return timeit.timeit(call, number=number, timer=benchmark.timer)  # this clock waits for a GPU


def _call(peer: str, case: dict, p: float, direction: str, rows: int, device: str) -> Callable:
    """Returns the call to time."""
    x, w = tensors(case, rows, device)
    function = function_of(peer, case)
    if direction != "forward":
        x.requires_grad_(), w.requires_grad_()
    if direction != "backward":
        return lambda: function(x, w, p)
    y = function(x, w, p)
    grad = torch.randn_like(y)
    return lambda: torch.autograd.grad(y, (x, w), grad, retain_graph=True)


def _prepare(peer: str, case: dict, p: float, direction: str, device: str, seconds: float, full: bool) -> dict:
    """Returns a call on the whole batch.  For a slow peer it is on a slice that takes ``2·seconds``.

    ``first`` has the rows and seconds of a call on at most a quarter of that slice.  Raises MemoryError if the whole
    batch would not fit into memory.
    """
    batch, pairs = case["batch"], counts(case)[2]
    needed = batch * pairs * (PEERS[peer]["bytes"](p, direction, device) if "bytes" in PEERS[peer] else 0)
    if needed > (free := _free_bytes(device)):
        raise MemoryError(f"needs {needed / 1e9:.0f} GB of memory, {free / 1e9:.0f} GB are free")
    rows = min(batch, max(2, FIRST_PAIRS // pairs)) if PEERS[peer].get("slow") else batch
    call = _call(peer, case, p, direction, rows, device)
    result = call()  # compiles and warms up
    once = min(_seconds(call) for _ in range(3 if rows < batch else 1))
    first = rows, once
    while rows < batch and (full or once < 2 * seconds or rows == first[0]):
        rows = math.ceil(rows * min(16, max(4, 2.5 * seconds / once)))
        rows = batch if full or 2 * rows > batch else rows
        call = _call(peer, case, p, direction, rows, device)
        once = _seconds(call)
    finite = all(a.isfinite().all().item() for a in (result if isinstance(result, tuple) else (result,)))
    return {"call": call, "rows": rows, "first": first, "finite": finite, "readings": [once]}


def _whole(reading: float, job: dict, batch: int) -> float:
    """Returns the time of the whole batch, computed from the time of a slice.

    A further row costs as much as a row of the slice after the first few.  So a cost that does not depend on the rows,
    such as writing the gradient of w, counts once.  This cost is taken to be at most half of the slice, because
    readings are noisy.
    """
    rows, (few, first) = job["rows"], job["first"]
    each = reading / rows if rows == few else max((reading - first) / (rows - few), reading / rows / 2)
    return reading + (batch - rows) * each


def _measure(
    peers: tuple[str, ...], case: dict, p: float, direction: str, device: str, seconds: float, full: bool
) -> dict[str, dict]:
    """Times each peer for about ``seconds``, in turns.  A peer that cannot run has a reason instead."""
    jobs, times = {}, {}
    for peer in peers:
        try:
            jobs[peer] = _prepare(peer, case, p, direction, device, seconds, full)
        except (RuntimeError, MemoryError) as error:  # for example no compiler, or no memory
            if peer == "ours":
                raise
            reason, _, _ = str(error).partition("\n\n")  # the rest is advice
            times[peer] = {"median": None, "reason": " ".join(reason.split()) or type(error).__name__}
    left = {peer: seconds if job["readings"][0] < 10 * seconds else 0 for peer, job in jobs.items()}
    while active := [peer for peer in jobs if left[peer] > 0]:
        for peer in active:
            readings = jobs[peer]["readings"]
            number = math.ceil(READING_SECONDS / readings[-1])
            left[peer] -= (spent := _seconds(jobs[peer]["call"], number))
            readings.append(spent / number)
    for peer, job in jobs.items():
        readings = job["readings"][1:] or job["readings"]
        low, median, high = (_whole(q, job, case["batch"]) for q in np.quantile(readings, (0.25, 0.5, 0.75)).tolist())
        times[peer] = {
            "median": median,
            "quartiles": [low, high],
            "readings": readings,
            "rows": job["rows"],
            "first": job["first"],
            "scaled": job["rows"] < case["batch"],
            "finite": job["finite"],
        }
    return {peer: times[peer] for peer in peers}


def _ceiling(p: float, direction: str, device: str) -> float | None:
    """Returns coordinate pairs per second of a loop in registers; None without arithmetic or without a kernel."""
    kernels, backward = KERNELS[device], direction == "backward"
    if not kernels.available()[0] or (backward and p == math.inf):
        return None
    return kernels.ceiling(p, backward=backward)


def _machine(device: str) -> dict:
    """Returns facts about the machine on which the times depend."""
    usable, kernels = KERNELS[device].available()
    return {
        "device": device,
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor_name(),
        "kernels": kernels if usable else f"blocked PyTorch ({kernels})",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY"),
    }


def run(
    cases: list[dict],
    exponents: list[float],
    *,
    sweeps: bool = False,
    device: str = "cpu",
    seconds: float = 0.5,
    full: bool = False,
    progress: bool = True,
    peers: tuple[str, ...] | None = None,
) -> dict:
    """Returns a row for each p, case and direction, and a list of what is wrong, as plain data.

    peers: the names in ``PEERS`` to time the cases with, "ours" among them; all by default.
    """
    work = [("table", case, peers or tuple(PEERS)) for case in cases]
    if sweeps:
        work += [(kind, case, SWEEP_PEERS) for kind, sweep in SWEEPS.items() for case in sweep]
    results = {
        "machine": _machine(device),
        "seconds": seconds,
        "full": full,
        "wrong": [],
        "rows": [],
        "titles": {peer: about["title"] for peer, about in PEERS.items()},
    }
    # A compiled backward pass that gives its buffers away could not run a second time.
    with (
        tqdm(total=len(exponents) * len(work), disable=hidden(progress), leave=False) as bar,
        torch._functorch.config.patch(donated_buffer=False),
    ):
        for p in exponents:
            torch.compiler.reset()  # torch compiles one function only a limited number of times
            for kind, case, beside in work:
                bar.set_description(f"p = {p:g}, {size_of(case)}")
                wrong = deviation(case, p, device)
                results["wrong"] += [wrong] if wrong else []
                for direction in () if wrong else DIRECTIONS:
                    if direction == "training" and (p < math.inf or kind != "table"):
                        continue  # the same as forward
                    some = ("ours",) if direction == "training" else beside
                    results["rows"].append(
                        {
                            "kind": kind,
                            "p": f"{p:g}",
                            "size": size_of(case),
                            "case": case,
                            "direction": direction,
                            "pairs": case["batch"] * counts(case)[2],
                            "times": _measure(some, case, p, direction, device, seconds, full),
                            "ceiling": _ceiling(p, direction, device),
                        }
                    )
                bar.update()
    return results


# The study, and the functions that ``linf-compare bench`` calls.


def check(args: argparse.Namespace) -> tuple[list[str], list[float]]:
    """Returns the cases and exponents that are asked for.  Raises ValueError if an argument is out of its range."""
    names = ",".join(OPERATOR_CASES) if args.cases is None else args.cases
    cases = list(dict.fromkeys(name.strip() for name in names.split(",")))
    if not set(cases) <= set(OPERATOR_CASES):
        raise ValueError(f"--cases {args.cases}: choose from {', '.join(OPERATOR_CASES)}")
    try:
        exponents = list(dict.fromkeys(check_p(float(p)) for p in args.p.split(",")))
    except ValueError as error:
        raise ValueError(f"--p {args.p}: {error}") from error
    if not 0 < args.seconds < math.inf:
        raise ValueError(f"--seconds must be positive, got {args.seconds}")
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {args.threads}")
    return cases, exponents


def asked(args: argparse.Namespace, sweeps: bool) -> dict:
    """Calls ``run`` as the arguments say."""
    cases, exponents = check(args)
    device, threads = device_of(args.device), torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    try:
        return run(
            [OPERATOR_CASES[name] for name in cases],
            exponents,
            sweeps=sweeps,
            device=device,
            seconds=args.seconds,
            full=args.full,
            progress=not args.quiet,
        )
    finally:
        torch.set_num_threads(threads)


def _draw(results: dict, path: Path) -> None:
    """Draws the picture if several sizes were measured."""
    if any(row["kind"] != "table" for row in results["rows"]):
        operator_times(results, path)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.add_argument("--sweeps", action="store_true", help="also measure cost over size, and draw it")


STUDY = Study(
    "bench",
    DESCRIPTION,
    _add_arguments,
    lambda args, save: asked(args, args.sweeps),
    table,
    wrong=lambda results: len(results["wrong"]),
    picture="cost.png",
    plot=_draw,
    page="table.txt",
)

if __name__ == "__main__":
    sys.exit(main(STUDY))
