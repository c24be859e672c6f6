"""Runs methods × seeds of a recipe in several processes of one machine.

Each job is a call of ``linf-compare run`` with one method and one seed.  So a job is resumed, refused and certified as
any run is.  A job that fails leaves the others alone; a contradiction in one stops all, as it stops a run.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from linf_plugin.progress import bar, hidden, say

from .contradiction import files_of

LOOK_EVERY = 0.2  # seconds between two looks at the running jobs
LAST_LINES = 3  # of the output of a failed job, in the message
PATIENCE = {signal.SIGINT: 10.0, signal.SIGTERM: 5.0, signal.SIGKILL: 5.0}  # how a job is stopped → seconds to do it


@dataclass(frozen=True)
class Job:
    """One method with one seed.  out: the folder of the seed."""

    method: str
    seed: int
    out: Path

    @property
    def said(self) -> Path:
        """The file with what the job prints."""
        return self.out / f"{self.method}.out"

    def __str__(self) -> str:
        return f"{self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Failed:
    """A job that failed.

    status: its exit status, or minus the signal that ended it.  lines: the last that it printed.  stops: whether it
    found a contradiction, which stops the other jobs.
    """

    job: Job
    status: int
    lines: tuple[str, ...]
    stops: bool = False

    def __str__(self) -> str:
        how = f"failed with status {self.status}" if self.status > 0 else f"was ended by {_signal(-self.status)}"
        if not self.lines:
            return f"{self.job} {how}; {self.job.said} is empty"
        return f"{self.job} {how}; {self.job.said} ends with:" + "".join(f"\n    {line}" for line in self.lines)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def folder_of_seed(out: Path, seed: int) -> Path:
    """Returns the folder of one seed's results."""
    return out / f"seed-{seed}"


def run_jobs(
    recipe: str, jobs: Sequence[Job], options: Sequence[str], *, at_once: int, progress: bool = True
) -> list[Failed]:
    """Runs jobs, at most ``at_once`` at a time, and returns those that failed.

    The cores are divided among the jobs that run at once, unless the environment sets OMP_NUM_THREADS.  Ctrl-C and
    SIGTERM stop the jobs; ``--resume`` then goes on with each.  A contradiction in one job stops the others.

    Args:
        recipe: as ``linf-compare run`` takes it.
        jobs: are started in this order.
        options: the other options of ``linf-compare run``, without --methods, --seed, --out and --quiet.
        at_once: number of processes.
        progress: whether to show a progress bar.
    """
    environment = _environment(min(at_once, len(jobs)))
    waiting, failed = list(jobs), []
    running: dict[Job, tuple[subprocess.Popen, set]] = {}  # the process, and the contradictions that were there before
    with (
        bar(total=len(waiting), desc="jobs", unit="job", disable=hidden(progress), dynamic_ncols=True) as shown,
        _ended_by_sigterm(),
    ):
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    before = files_of(job.out, job.method)
                    running[job] = _start(recipe, job, options, environment), before
                    shown.set_postfix_str("; ".join(map(str, running)))
                for job, (process, before) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    if process.returncode:
                        failed.append(_failed(job, process.returncode, before))
                        if failed[-1].stops:
                            say(f"linf-compare: {job} found a contradiction, which stops all jobs")
                            return failed
                        say(f"linf-compare: {job} failed; the other jobs go on")
                    shown.update()
                    shown.set_postfix_str("; ".join(map(str, running)))
                if running:
                    time.sleep(LOOK_EVERY)
        finally:
            _stop([process for process, _ in running.values()])
    return failed


def _environment(processes: int) -> dict[str, str]:
    """Returns the environment of each of several processes: their part of the cores, and output in UTF-8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // max(1, processes))
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", **os.environ, "PYTHONIOENCODING": "utf-8"}


def _start(recipe: str, job: Job, options: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    job.out.mkdir(parents=True, exist_ok=True)
    which = [f"--methods={job.method}", f"--seed={job.seed}", f"--out={job.out}", "--quiet"]
    with open(job.said, "w", encoding="utf-8") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "comparisons", "run", recipe, *which, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _failed(job: Job, status: int, before: set) -> Failed:
    lines = job.said.read_text(encoding="utf-8", errors="replace").splitlines()
    return Failed(job, status, tuple(lines[-LAST_LINES:]), stops=bool(files_of(job.out, job.method) - before))


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM raises SystemExit.  Otherwise it would end this process and leave those that it started."""
    if threading.current_thread() is not threading.main_thread():  # others cannot set it
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _stop(processes: Iterable[subprocess.Popen]) -> None:
    """Stops processes as Ctrl-C does.  Those that do not stop in time are ended: their files stay whole."""
    for way, seconds in PATIENCE.items():
        alive = [process for process in processes if process.poll() is None]
        for process in alive:
            process.send_signal(way)
        until = time.monotonic() + seconds
        for process in alive:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
