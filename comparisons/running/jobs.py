"""Runs methods × seeds of a recipe in several processes of one machine.

Each job is a call of ``linf-compare run`` with one method and one seed.  So a job is resumed, refused and certified as
any run is, and a job that fails leaves the others alone.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from linf_plugin.progress import bar, hidden, say

LOOK_EVERY = 0.2  # seconds between two looks at the running jobs
LAST_LINES = 3  # of the output of a failed job, in the message


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
    """A job that failed: its exit status, and the last lines that it printed."""

    job: Job
    status: int
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.job} failed with status {self.status}; {self.job.said} ends with:\n" + "\n".join(
            f"    {line}" for line in self.lines
        )


def folder_of_seed(out: Path, seed: int) -> Path:
    """Returns the folder of one seed's results."""
    return out / f"seed-{seed}"


def run_jobs(
    recipe: str, jobs: Sequence[Job], options: Sequence[str], *, at_once: int, progress: bool = True
) -> list[Failed]:
    """Runs jobs, at most ``at_once`` at a time, and returns those that failed.

    The cores of the machine are divided among the jobs.  Ctrl-C stops them; ``--resume`` then goes on with each.

    Args:
        recipe: as ``linf-compare run`` takes it.
        jobs: are started in this order.
        options: the other options of ``linf-compare run``, without --methods, --seed, --out and --quiet.
        at_once: number of processes.
        progress: whether to show a progress bar.
    """
    threads = max(1, (os.cpu_count() or 1) // at_once)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    waiting, running, failed = list(jobs), {}, []
    with bar(total=len(waiting), desc="jobs", unit="job", disable=hidden(progress), dynamic_ncols=True) as shown:
        try:
            while waiting or running:
                while waiting and len(running) < at_once:
                    job = waiting.pop(0)
                    running[job] = _start(recipe, job, options, environment)
                    shown.set_postfix_str("; ".join(map(str, running)))
                for job, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[job]
                    if process.returncode:
                        failed.append(_failed(job, process.returncode))
                        say(f"linf-compare: {failed[-1]}")
                    shown.update()
                    shown.set_postfix_str("; ".join(map(str, running)))
                time.sleep(LOOK_EVERY)
        finally:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            for process in running.values():
                process.wait()
    return failed


def _start(recipe: str, job: Job, options: Sequence[str], environment: dict[str, str]) -> subprocess.Popen:
    job.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "comparisons", "run", recipe, "--methods", job.method, "--seed", str(job.seed)]
    with open(job.said, "w", encoding="utf-8") as output:
        return subprocess.Popen(
            [*command, "--out", str(job.out), "--quiet", *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _failed(job: Job, status: int) -> Failed:
    lines = job.said.read_text(encoding="utf-8", errors="replace").splitlines()
    return Failed(job, status, tuple(lines[-LAST_LINES:]))
